//! Bodies of responses: bytes that are at hand, or content that is read as the client takes it.

mod outgoing;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use http_body::{Frame, SizeHint};

use super::connection::{Outbox, Receipt};
use crate::fill::{ByteStream, Chunk, ChunkStream, FillError};
use outgoing::Outgoing;

/// The body of a response. An error in it makes the connection end short of the declared length, so that no client can take
/// what it got for the whole.
pub(super) struct Body {
    content: Content,
    /// The error that the next look gives.
    failure: Option<FillError>,
    watched: Option<Watched>,
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

/// What of a body goes to the connection in one piece.
struct Part {
    bytes: Bytes,
    /// Where they stand for others.
    receipt: Option<Receipt>,
}

impl From<Bytes> for Part {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, receipt: None }
    }
}

/// Watches a body go out. It is dropped when there is nothing more to see.
pub(super) trait Watch: Send + 'static {
    /// So many bytes were handed to the connection.
    fn sent(&mut self, bytes: u64);
    /// All of it was handed over.
    fn completed(&mut self);
    fn failed(&mut self, error: &FillError);
    /// Of the last bytes that were handed over, so many will never be sent.
    fn unsent(&mut self, bytes: u64);
}

/// Who watches a body; until the connection has sent its last bytes or, where nobody tells whether it has, was given them.
struct Watched {
    watch: Box<dyn Watch>,
    /// For what was handed over last.
    receipt: Option<Receipt>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        match self.receipt.as_ref().map_or(0, Receipt::unsent) {
            0 => {}
            unsent => self.watch.unsent(unsent),
        }
    }
}

impl Body {
    pub(super) fn empty() -> Self {
        Self::from_bytes(Bytes::new())
    }

    pub(super) fn from_bytes(bytes: Bytes) -> Self {
        Self { content: Content::Bytes(bytes), failure: None, watched: None }
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
        Self { content, failure: None, watched: None }
    }

    /// Whether all of it is in memory.
    pub(super) fn is_at_hand(&self) -> bool {
        matches!(self.content, Content::Bytes(_))
    }

    /// What of the body goes to the connection next; `is_last` if nothing comes after it, and the connection drops the body at once.
    fn hand_over(&mut self, bytes: Bytes, is_last: bool) -> Bytes {
        match &self.content {
            Content::Bytes(_) => bytes,
            Content::Stream { outgoing, .. } => {
                let watched = self.watched.take_if(|watched| is_last && watched.receipt.is_some());
                outgoing.hand_over(bytes, watched)
            }
        }
    }

    pub(super) fn watched(mut self, watch: Box<dyn Watch>) -> Self {
        self.watched = Some(Watched { watch, receipt: None });
        self
    }
}

impl Supply {
    /// The next bytes, or as many that stand for them.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, FillError>>> {
        match self {
            Self::Bytes(stream) => Pin::new(stream).poll_next(cx).map_ok(Part::from),
            Self::Chunks(stream, outbox) => {
                let chunk = ready!(Pin::new(stream).poll_next(cx));
                Poll::Ready(chunk.map(|chunk| {
                    chunk.map(|chunk| match chunk {
                        Chunk::Bytes(bytes) => bytes.into(),
                        Chunk::Extent(extent) => {
                            let (bytes, receipt) = outbox.post(extent);
                            Part { bytes, receipt: Some(receipt) }
                        }
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
        let mut next = match &mut this.content {
            Content::Bytes(bytes) if bytes.is_empty() => None,
            Content::Bytes(bytes) => Some(Ok(std::mem::take(bytes).into())),
            Content::Stream { stream, left, outgoing } => {
                // hyper would gather more: what a slow client has not taken yet waits in the file, not in memory.
                ready!(outgoing.poll_written(cx));
                match (ready!(stream.poll_next(cx)), left) {
                    (Some(Ok(part)), left) => {
                        if let Some(left) = left {
                            *left = left.saturating_sub(part.bytes.len() as u64);
                        }
                        Some(Ok(part))
                    }
                    // hyper sees to it as well that this does not look complete; but it has no words for it.
                    (None, Some(left)) if *left > 0 => Some(Err(FillError::Abandoned)),
                    (next, _) => next,
                }
            }
        };
        let is_end = http_body::Body::is_end_stream(this);
        if let Some(Watched { watch, receipt }) = &mut this.watched {
            match &mut next {
                Some(Ok(part)) => {
                    *receipt = part.receipt.take();
                    watch.sent(part.bytes.len() as u64);
                    if is_end {
                        watch.completed();
                    }
                }
                Some(Err(error)) => watch.failed(error),
                None => watch.completed(),
            }
        }
        let next = next.map(|next| next.map(|part| this.hand_over(part.bytes, is_end)));
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
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};
    use std::task::Wake;

    use futures::{StreamExt, stream};
    use http_body::Body as _;

    use super::*;
    use crate::fill::Extent;
    use crate::store::{FileSystem, OsFileSystem};

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

    /// What is noted of a body, in words.
    #[derive(Clone, Default)]
    struct Notes(Arc<Mutex<Vec<String>>>);

    struct Witness(Notes);

    impl Notes {
        fn add(&self, note: impl Into<String>) {
            self.0.lock().unwrap().push(note.into());
        }

        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl Watch for Witness {
        fn sent(&mut self, bytes: u64) {
            self.0.add(format!("sent {bytes}"));
        }
        fn completed(&mut self) {
            self.0.add("completed");
        }
        fn failed(&mut self, error: &FillError) {
            self.0.add(error.to_string());
        }
        fn unsent(&mut self, bytes: u64) {
            self.0.add(format!("unsent {bytes}"));
        }
    }

    impl Drop for Witness {
        fn drop(&mut self) {
            self.0.add("over");
        }
    }

    /// What is sent from a file is with the connection long before it is with the client.
    #[test]
    fn who_watches_hears_what_of_a_file_was_never_sent() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsFileSystem.create(&dir.path().join("content")).unwrap();
        let extent = |range| Ok(Chunk::Extent(Extent::of(Arc::clone(&file), range, stream::empty().boxed())));
        let notes = Notes::default();
        let body = |extents: Vec<_>| {
            let body = Body::from_chunks(stream::iter(extents).boxed(), Some(30), Outbox::default());
            body.watched(Box::new(Witness(notes.clone())))
        };
        let mut cx = Context::from_waker(std::task::Waker::noop());

        let mut whole = body(vec![extent(0..30)]);
        let Poll::Ready(Some(Ok(last))) = Pin::new(&mut whole).poll_frame(&mut cx) else { panic!("there is an extent") };
        // The connection does so at once.
        drop(whole);
        assert_eq!(notes.take(), ["sent 30", "completed"]);
        drop(last);
        assert_eq!(notes.take(), ["unsent 30", "over"]);

        let mut part = body(vec![extent(0..10), extent(10..30)]);
        let first = Pin::new(&mut part).poll_frame(&mut cx);
        assert!(matches!(first, Poll::Ready(Some(Ok(_)))));
        drop((part, first));
        assert_eq!(notes.take(), ["sent 10", "unsent 10", "over"]);
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
