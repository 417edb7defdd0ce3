//! Bodies of responses: bytes that are at hand, or content that is read as the client takes it.

mod outgoing;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use http_body::{Frame, SizeHint};

use super::connection::Outbox;
use crate::fill::{ByteStream, Chunk, ChunkStream, FillError};
use outgoing::Outgoing;

/// The body of a response. An error in it makes the connection end short of the declared length, so that no client can take
/// what it got for the whole.
pub(super) struct Body {
    content: Content,
    /// The error that the next look gives.
    failure: Option<FillError>,
    /// Runs when the body is dropped, be it sent or not.
    watch: Option<Box<dyn Watch>>,
}

enum Content {
    Bytes(Bytes),
    Stream { stream: Supply, left: Option<u64>, outgoing: Outgoing },
}

enum Supply {
    Bytes(ByteStream),
    /// Some of it goes out of a file, by way of this.
    Chunks(ChunkStream, Outbox),
}

/// Watches a body go out.
pub(super) trait Watch: Send + 'static {
    /// So many bytes were handed to the connection.
    fn sent(&mut self, bytes: u64);
    /// All of it was handed over.
    fn completed(&mut self);
    fn failed(&mut self, error: &FillError);
}

impl Body {
    pub(super) fn empty() -> Self {
        Self::from_bytes(Bytes::new())
    }

    pub(super) fn from_bytes(bytes: Bytes) -> Self {
        Self { content: Content::Bytes(bytes), failure: None, watch: None }
    }

    /// A body that is `length` bytes long, or whose length shows at its end.
    pub(super) fn from_stream(stream: ByteStream, length: Option<u64>) -> Self {
        Self::from_supply(Supply::Bytes(stream), length)
    }

    /// The same, for a connection that sends from files what is in its outbox. It must be the one that the response goes to.
    pub(super) fn from_chunks(chunks: ChunkStream, length: Option<u64>, outbox: Outbox) -> Self {
        Self::from_supply(Supply::Chunks(chunks, outbox), length)
    }

    fn from_supply(stream: Supply, length: Option<u64>) -> Self {
        let content = Content::Stream { stream, left: length, outgoing: Outgoing::default() };
        Self { content, failure: None, watch: None }
    }

    /// Whether all of it is in memory.
    pub(super) fn is_at_hand(&self) -> bool {
        matches!(self.content, Content::Bytes(_))
    }

    pub(super) fn watched(mut self, watch: Box<dyn Watch>) -> Self {
        self.watch = Some(watch);
        self
    }
}

impl Supply {
    /// The next bytes, or as many that stand for them.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, FillError>>> {
        match self {
            Self::Bytes(stream) => Pin::new(stream).poll_next(cx),
            Self::Chunks(stream, outbox) => {
                let chunk = ready!(Pin::new(stream).poll_next(cx));
                Poll::Ready(chunk.map(|chunk| {
                    chunk.map(|chunk| match chunk {
                        Chunk::Bytes(bytes) => bytes,
                        Chunk::Extent(extent) => outbox.post(extent),
                    })
                }))
            }
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = FillError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, FillError>>> {
        let this = self.get_mut();
        if let Some(error) = this.failure.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let next = match &mut this.content {
            Content::Bytes(bytes) if bytes.is_empty() => None,
            Content::Bytes(bytes) => Some(Ok(std::mem::take(bytes))),
            Content::Stream { stream, left, outgoing } => {
                // hyper would gather more: what a slow client has not taken yet waits in the file, not in memory.
                ready!(outgoing.poll_written(cx));
                match (ready!(stream.poll_next(cx)), left) {
                    (Some(Ok(bytes)), left) => {
                        if let Some(left) = left {
                            *left = left.saturating_sub(bytes.len() as u64);
                        }
                        Some(Ok(outgoing.hand_over(bytes)))
                    }
                    // hyper sees to it as well that this does not look complete; but it has no words for it.
                    (None, Some(left)) if *left > 0 => Some(Err(FillError::Abandoned)),
                    (next, _) => next,
                }
            }
        };
        let is_end = http_body::Body::is_end_stream(this);
        if let Some(watch) = &mut this.watch {
            match &next {
                Some(Ok(bytes)) => {
                    watch.sent(bytes.len() as u64);
                    if is_end {
                        watch.completed();
                    }
                }
                Some(Err(error)) => watch.failed(error),
                None => watch.completed(),
            }
        }
        match next {
            Some(Err(error)) => {
                // At an error hyper drops what it has not written. It writes when there is nothing to be had at the moment: so the
                // client gets its headers, and all that came before the error.
                this.failure = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            next => Poll::Ready(next.map(|result| result.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Bytes(bytes) => bytes.is_empty(),
            Content::Stream { left, .. } => *left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream { left: Some(left), .. } => SizeHint::with_exact(*left),
            Content::Stream { left: None, .. } => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use futures::{StreamExt, stream};
    use http_body::Body as _;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Woken {
        fn is(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_came_before_an_error_has_time_to_go_out() {
        let parts = vec![Ok(Bytes::from_static(b"some")), Err(FillError::NoSpace)];
        let mut body = Body::from_stream(stream::iter(parts).boxed(), Some(10));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut poll = || Pin::new(&mut body).poll_frame(&mut cx);
        assert!(matches!(poll(), Poll::Ready(Some(Ok(_)))));
        assert!(poll().is_pending(), "the error came at once, and takes with it what is not written yet");
        assert!(matches!(poll(), Poll::Ready(Some(Err(FillError::NoSpace)))));
    }

    #[test]
    fn there_is_one_part_at_a_time() {
        let parts = vec![Ok(Bytes::from_static(b"one")), Ok(Bytes::from_static(b"two"))];
        let mut body = Body::from_stream(stream::iter(parts).boxed(), None);
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        let mut cx = Context::from_waker(&waker);
        let mut poll = || Pin::new(&mut body).poll_frame(&mut cx);
        let Poll::Ready(Some(Ok(first))) = poll() else { panic!("there is a first part") };
        assert!(poll().is_pending(), "the second part came before the first was written");
        let rest = first.into_data().unwrap().split_off(1);
        assert!(poll().is_pending() && !woken.is());
        drop(rest);
        assert!(woken.is());
        assert!(matches!(poll(), Poll::Ready(Some(Ok(second))) if second.data_ref().unwrap() == "two"));
        assert!(matches!(poll(), Poll::Ready(None)));
    }

    #[test]
    fn a_body_that_is_shorter_than_it_said_is_an_error() {
        let mut body = Body::from_stream(stream::iter(vec![Ok(Bytes::from_static(b"some"))]).boxed(), Some(10));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut poll = || Pin::new(&mut body).poll_frame(&mut cx);
        assert!(matches!(poll(), Poll::Ready(Some(Ok(_)))));
        assert!(poll().is_pending());
        assert!(matches!(poll(), Poll::Ready(Some(Err(_)))));
    }
}
