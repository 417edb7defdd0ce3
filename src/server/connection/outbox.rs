//! Content on its way from a file to a client's socket without passing through this process (`sendfile`). hyper knows bodies in
//! memory only, so it is given bytes that merely stand for those in the file; when they come out of it below, the file's are sent
//! in their place. That hyper hands on what it was given, uncopied, is what this rests on: were it ever otherwise, the connection
//! ends with an error, and nothing wrong has been sent.
//!
//! A file goes out call by call, and each acknowledgement that comes in between would have the system send what there is of the next
//! segment. These small ones cost up to a third of the throughput and as much again of the processor time, so they are held back.
//!
//! A client that takes whatever it is sent would keep its task on a processor for as long as its body is, so others have a turn after
//! each call, and the runtime looks who they are: whoever asks for something waits for one call of each that is being sent a body
//! (`pace.rs`).

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures::Stream;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Lingering, pace};
use crate::fill::{ByteStream, EXTENT_MAX_BYTES, Extent};

/// What stands for the bytes of an extent. Nobody ever reads or writes it, so that the system never gives it memory.
static STAND_INS: LazyLock<&'static [u8]> = LazyLock::new(|| vec![0; EXTENT_MAX_BYTES].leak());

/// What is to go out of files on one connection, in its order. Shared between the bodies and the stream below hyper.
#[derive(Clone, Default)]
pub(in crate::server) struct Outbox(Arc<Contents>);

#[derive(Default)]
struct Contents {
    extents: Mutex<VecDeque<Extent>>,
    /// How many bytes were ever posted.
    posted: AtomicU64,
    /// How many of them the system has taken. They go in their order.
    sent: AtomicU64,
}

/// That an extent was posted; and what has become of it.
pub(in crate::server) struct Receipt {
    outbox: Outbox,
    len: u64,
    /// What was posted up to its end.
    end: u64,
}

impl Receipt {
    /// How many of its bytes the system has not taken.
    pub(in crate::server) fn unsent(&self) -> u64 {
        self.end.saturating_sub(self.outbox.0.sent.load(Ordering::Relaxed)).min(self.len)
    }
}

/// A client's stream that sends from files.
pub(in crate::server) struct Courier {
    stream: Lingering,
    outbox: Outbox,
    /// What is going out.
    sending: Option<Sending>,
    /// Others are to have a turn before more is sent.
    is_turn_over: bool,
}

/// An extent that is going out.
struct Sending {
    by: Way,
    /// How many bytes are still to go.
    left: u64,
}

enum Way {
    /// By the system, out of its file.
    File(Extent),
    /// Read, because the system could not.
    Read { rest: ByteStream, bytes: Bytes },
}

impl Outbox {
    /// Has `extent` go out where in the connection's bytes the given ones come. They are to be handed to hyper at once, and whole.
    pub(in crate::server) fn post(&self, extent: Extent) -> (Bytes, Receipt) {
        let len = extent.len();
        let stand_in = &STAND_INS[..usize::try_from(len).map_or(EXTENT_MAX_BYTES, |len| len.min(EXTENT_MAX_BYTES))];
        self.0.extents.lock().unwrap_or_else(PoisonError::into_inner).push_back(extent);
        let end = self.0.posted.fetch_add(len, Ordering::Relaxed) + len;
        (Bytes::from_static(stand_in), Receipt { outbox: self.clone(), len, end })
    }

    fn take(&self) -> Option<Extent> {
        self.0.extents.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// Whether `bytes` are to be replaced.
fn is_stand_in(bytes: &[u8]) -> bool {
    STAND_INS.as_ptr_range().contains(&bytes.as_ptr())
}

impl Courier {
    pub(in crate::server) fn new(stream: Lingering, outbox: Outbox) -> Self {
        Self { stream, outbox, sending: None, is_turn_over: false }
    }

    /// Sends some of the extent whose turn it is.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(mut sending) = self.sending.take() else { return Poll::Ready(Err(lost())) };
        let outcome = loop {
            match sending.by {
                Way::File(extent) => {
                    let sent = extent.len() - sending.left;
                    let count = sending.left.min(pace::next_call());
                    // It may have been in memory a while ago, and the client slow.
                    if !extent.is_in_memory(sent, count) {
                        sending.by = Way::Read { rest: extent.read_from(sent), bytes: Bytes::new() };
                        continue;
                    }
                    match self.stream.poll_send_file(cx, extent.file(), extent.offset() + sent, count) {
                        Poll::Ready(Ok(0)) => {
                            sending.by = Way::Read { rest: extent.read_from(sent), bytes: Bytes::new() };
                        }
                        Poll::Ready(Err(error)) if !is_of_socket(&error) => {
                            tracing::debug!(%error, "a file cannot be sent; it is read");
                            sending.by = Way::Read { rest: extent.read_from(sent), bytes: Bytes::new() };
                        }
                        outcome => {
                            sending.by = Way::File(extent);
                            break outcome;
                        }
                    }
                }
                Way::Read { ref mut rest, ref mut bytes } if bytes.is_empty() => match Pin::new(rest).poll_next(cx) {
                    Poll::Ready(Some(Ok(next))) => *bytes = next,
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
                    Poll::Ready(None) => return Poll::Ready(Err(lost())),
                    Poll::Pending => break Poll::Pending,
                },
                Way::Read { ref mut bytes, .. } => {
                    let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
                    if let Poll::Ready(Ok(count)) = outcome {
                        bytes.advance(count);
                    }
                    break outcome;
                }
            }
        };
        if let Poll::Ready(Ok(count)) = outcome {
            sending.left -= count as u64;
            self.outbox.0.sent.fetch_add(count as u64, Ordering::Relaxed);
            self.is_turn_over = true;
        }
        if sending.left > 0 {
            self.sending = Some(sending);
        }
        outcome
    }
}

/// hyper has not handed on what it was given.
fn lost() -> io::Error {
    io::Error::other("what stands for the content of a file was lost")
}

/// Whether it is the client's side that has failed, and not the file's.
fn is_of_socket(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(
        errno,
        Some(
            Errno::PIPE
                | Errno::CONNRESET
                | Errno::CONNABORTED
                | Errno::NOTCONN
                | Errno::TIMEDOUT
                | Errno::HOSTUNREACH
                | Errno::NETUNREACH
        )
    )
}

impl AsyncRead for Courier {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Others have their turn while the client is waited for.
        self.is_turn_over &= !self.stream.turn.is_clients();
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Courier {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if std::mem::take(&mut self.is_turn_over) {
            // To be woken when the runtime has looked for what has come in, not before.
            let _ = pin!(tokio::task::yield_now()).poll(cx);
            return Poll::Pending;
        }
        if self.sending.is_none()
            && let Some(extent) = self.outbox.take()
        {
            self.stream.cork();
            self.sending = Some(Sending { left: extent.len(), by: Way::File(extent) });
        }
        let Some(sending) = &self.sending else {
            pace::others_are_about();
            return Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        };
        let (before, from) = slices.split_at(slices.iter().position(|slice| is_stand_in(slice)).unwrap_or(slices.len()));
        if from.first().is_none_or(|stand_in| stand_in.len() as u64 != sending.left) {
            return Poll::Ready(Err(lost()));
        }
        if before.iter().all(|slice| slice.is_empty()) {
            return self.poll_send(cx);
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, before)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::ops::Range;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use futures::{FutureExt, StreamExt, stream};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::Turn;
    use super::*;
    use crate::fill::FillError;
    use crate::store::{FileSystem, OsFileSystem, StoredFile};

    const SIZE: usize = 300_000;

    struct Bed {
        courier: Courier,
        outbox: Outbox,
        client: TcpStream,
        content: Vec<u8>,
        file: Arc<dyn StoredFile>,
        _dir: tempfile::TempDir,
    }

    impl Bed {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (outbox, stream) = (Outbox::default(), listener.accept().await.unwrap().0);
            let dir = tempfile::tempdir().unwrap();
            let content: Vec<u8> = (0..SIZE).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let file = OsFileSystem.create(&dir.path().join("content")).unwrap();
            file.write_all_at(&content, 0).unwrap();
            Self {
                courier: Courier::new(Lingering::new(stream, Turn::alternating()), outbox.clone()),
                outbox,
                client,
                content,
                file,
                _dir: dir,
            }
        }

        fn be_warm_until(&mut self, until: u64) {
            self.file = Arc::new(Warm { file: Arc::clone(&self.file), until });
        }

        fn post(&self, range: Range<usize>, rest: Vec<Result<Bytes, FillError>>) -> Bytes {
            let range = range.start as u64..range.end as u64;
            self.outbox.post(Extent::of(Arc::clone(&self.file), range, stream::iter(rest).boxed())).0
        }

        /// Writes as hyper does, until all is written, while the client reads: what that got.
        async fn write(mut self, mut queue: Vec<Bytes>) -> (Vec<u8>, io::Result<()>) {
            let mut client = self.client;
            let reading = tokio::spawn(async move {
                let mut got = Vec::new();
                client.read_to_end(&mut got).await.unwrap();
                got
            });
            let outcome = loop {
                queue.retain(|bytes| !bytes.is_empty());
                if queue.is_empty() {
                    break Ok(());
                }
                let slices: Vec<IoSlice<'_>> = queue.iter().map(|bytes| IoSlice::new(bytes)).collect();
                let written = poll_fn(|cx| Pin::new(&mut self.courier).poll_write_vectored(cx, &slices)).await;
                let mut written = match written {
                    Ok(written) => written,
                    Err(error) => break Err(error),
                };
                for bytes in &mut queue {
                    let part = written.min(bytes.len());
                    bytes.advance(part);
                    written -= part;
                }
            };
            self.courier.shutdown().await.unwrap();
            (reading.await.unwrap(), outcome)
        }
    }

    #[tokio::test]
    async fn files_are_sent_where_their_stand_ins_are() {
        let bed = Bed::new().await;
        let queue = vec![
            Bytes::from_static(b"head"),
            bed.post(0..SIZE, vec![]),
            Bytes::from_static(b"between"),
            bed.post(70_000..SIZE - 7, vec![]),
            bed.post(5..6, vec![]),
            Bytes::from_static(b"end"),
        ];
        let content = bed.content.clone();
        let (got, outcome) = bed.write(queue).await;
        outcome.unwrap();
        let expected = [b"head", &content[..], b"between", &content[70_000..SIZE - 7], &content[5..6], b"end"].concat();
        assert!(got == expected, "{} bytes instead of {}", got.len(), expected.len());
    }

    #[tokio::test]
    async fn what_a_file_does_not_have_any_more_is_read() {
        let mut bed = Bed::new().await;
        // So that it is found only when it is to be sent.
        bed.be_warm_until(SIZE as u64);
        bed.file.truncate(100_000).unwrap();
        let rest = bed.content[100_000..].chunks(50_000).map(|bytes| Ok(Bytes::copy_from_slice(bytes))).collect();
        let (queue, content) = (vec![bed.post(0..SIZE, rest)], bed.content.clone());
        let (got, outcome) = bed.write(queue).await;
        outcome.unwrap();
        assert!(got == content);
    }

    #[tokio::test]
    async fn what_cannot_be_read_either_ends_the_connection_short() {
        let mut bed = Bed::new().await;
        bed.be_warm_until(SIZE as u64);
        bed.file.truncate(100_000).unwrap();
        let rest = vec![Ok(Bytes::copy_from_slice(&bed.content[100_000..100_005])), Err(FillError::Abandoned)];
        let (queue, content) = (vec![bed.post(0..SIZE, rest), Bytes::from_static(b"more")], bed.content.clone());
        let (got, outcome) = bed.write(queue).await;
        assert!(outcome.is_err() && got == content[..100_005], "{} bytes, {outcome:?}", got.len());
    }

    /// A file that looks as if the system had its beginning in memory, and no more.
    struct Warm {
        file: Arc<dyn StoredFile>,
        until: u64,
    }

    impl StoredFile for Warm {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            self.file.read_at(buffer, offset)
        }
        fn try_read_at(&self, _: &mut [u8], offset: u64) -> io::Result<usize> {
            if offset < self.until { Ok(1) } else { Err(io::ErrorKind::WouldBlock.into()) }
        }
        fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
            self.file.write_all_at(buffer, offset)
        }
        fn truncate(&self, size: u64) -> io::Result<()> {
            self.file.truncate(size)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.file.sync_data()
        }
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }
        fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
            self.file.descriptor()
        }
    }

    /// Else all connections of the thread would wait for the disk.
    #[tokio::test]
    async fn what_is_no_longer_in_memory_is_read() {
        let mut bed = Bed::new().await;
        bed.be_warm_until(250_000);
        // Not what the file has, so that it can be told.
        let rest = || vec![Ok(Bytes::from_static(&[7; SIZE - 200_000]))];
        let queue = vec![bed.post(0..200_000, vec![]), bed.post(200_000..SIZE, rest())];
        let content = bed.content.clone();
        let (got, outcome) = bed.write(queue).await;
        outcome.unwrap();
        assert!(got[..200_000] == content[..200_000], "what is in memory was not sent from there");
        assert!(got[200_000..] == [7; SIZE - 200_000], "what is not was not read");
    }

    /// Were hyper to copy what it is given, or to leave some of it out.
    #[tokio::test]
    async fn what_is_not_handed_on_as_it_was_given_is_never_sent() {
        for change in [
            (|stand_in| vec![Bytes::copy_from_slice(&stand_in)]) as fn(Bytes) -> Vec<Bytes>,
            |stand_in| vec![stand_in.slice(1..)],
            |stand_in| vec![stand_in.slice(..10)],
            |_| vec![Bytes::from_static(b"something else")],
        ] {
            let bed = Bed::new().await;
            let queue = change(bed.post(0..SIZE, vec![]));
            let (got, outcome) = bed.write(queue).await;
            assert!(outcome.is_err() && got.is_empty(), "{} bytes, {outcome:?}", got.len());
        }
    }

    #[tokio::test]
    async fn a_receipt_tells_what_has_become_of_its_extent() {
        let mut bed = Bed::new().await;
        let extent = || Extent::of(Arc::clone(&bed.file), 0..1000, stream::empty().boxed());
        let [(one, first), (two, second)] = [bed.outbox.post(extent()), bed.outbox.post(extent())];
        let unsent = || [first.unsent(), second.unsent()];
        assert_eq!(unsent(), [1000, 1000]);
        bed.courier.write_all(&one).await.unwrap();
        assert_eq!(unsent(), [0, 1000]);
        bed.courier.write_all(&two).await.unwrap();
        let (_, third) = bed.outbox.post(extent());
        assert_eq!((unsent(), third.unsent()), ([0, 0], 1000));
    }

    #[tokio::test]
    async fn files_go_in_full_segments_only() {
        let mut bed = Bed::new().await;
        let mut client = bed.client;
        tokio::spawn(async move { while client.read(&mut [0; 4096]).await.unwrap() > 0 {} });
        for before in ["head", "", "", "head", ""] {
            let range = 0..SIZE as u64;
            let (stand_in, _) = bed.outbox.post(Extent::of(Arc::clone(&bed.file), range, stream::empty().boxed()));
            let mut left = before.len() + stand_in.len();
            while left > 0 {
                let (head, rest) = match left.checked_sub(stand_in.len()) {
                    Some(head) => (&before[before.len() - head..], &stand_in[..]),
                    None => ("", &stand_in[stand_in.len() - left..]),
                };
                let slices = [IoSlice::new(head.as_bytes()), IoSlice::new(rest)];
                left -= poll_fn(|cx| Pin::new(&mut bed.courier).poll_write_vectored(cx, &slices)).await.unwrap();
            }
            assert!(bed.courier.stream.is_corked);
            bed.courier.flush().await.unwrap();
            assert!(!bed.courier.stream.is_corked, "the last of it would be late");
        }
    }

    #[tokio::test]
    async fn calls_are_short_again_when_somebody_gets_a_small_answer() {
        let mut bed = Bed::new().await;
        let mut client = bed.client;
        tokio::spawn(async move { while client.read(&mut vec![0; 1 << 20]).await.unwrap() > 0 {} });
        let short = pace::next_call();
        let mut calls = 0;
        while pace::next_call() == short {
            let (stand_in, _) = bed.outbox.post(Extent::of(Arc::clone(&bed.file), 0..1000, stream::empty().boxed()));
            let answer = [IoSlice::new(b"head"), IoSlice::new(&stand_in)];
            // Its head is none of what others get.
            for rest in [&answer[..], &answer[1..]] {
                poll_fn(|cx| Pin::new(&mut bed.courier).poll_write_vectored(cx, rest)).await.unwrap();
            }
            calls += 1;
            assert!(calls < 10_000, "they stay short for ever");
        }
        bed.courier.flush().await.unwrap();
        bed.courier.write_all(b"an answer").await.unwrap();
        assert_eq!(pace::next_call(), short);
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn others_have_a_turn_after_each_call() {
        let mut bed = Bed::new().await;
        let turn = bed.courier.stream.turn.clone();
        // Two of them, so that there is one to go on with if the socket takes all of the first.
        let queue = [bed.post(0..SIZE, vec![]), bed.post(0..SIZE, vec![])];
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        let mut cx = Context::from_waker(&waker);
        // hyper looks whether the client is still there before it writes.
        let mut send = |rest: &[u8]| {
            assert!(Pin::new(&mut bed.courier).poll_read(&mut cx, &mut ReadBuf::new(&mut [0])).is_pending());
            Pin::new(&mut bed.courier).poll_write_vectored(&mut cx, &[IoSlice::new(rest)])
        };
        turn.ours();
        let Poll::Ready(Ok(sent)) = send(&queue[0]) else { panic!("there is room in a new socket") };
        let rest = if sent == SIZE { &queue[1] } else { &queue[0][sent..] };
        let next = send(rest);
        let woken = || woken.0.load(Ordering::Relaxed);
        assert!(next.is_pending() && woken() == 0, "{sent} of {SIZE} bytes were sent, then {next:?}");
        // Nothing was waited for, so that only the turn can come.
        tokio::task::yield_now().await;
        assert_eq!(woken(), 1, "the turn never comes again");
        let _ = send(rest);
        tokio::task::yield_now().await;
        assert_eq!(woken(), 1, "others have had their turn");
    }

    #[tokio::test]
    async fn who_waited_for_the_client_has_given_others_their_turn() {
        let mut bed = Bed::new().await;
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let stand_in = bed.post(0..1, vec![]);
        let sent = Pin::new(&mut bed.courier).poll_write_vectored(&mut cx, &[IoSlice::new(&stand_in)]);
        assert!(matches!(sent, Poll::Ready(Ok(1))) && bed.courier.is_turn_over, "{sent:?}");
        assert!(Pin::new(&mut bed.courier).poll_read(&mut cx, &mut ReadBuf::new(&mut [0])).is_pending());
        let head = Pin::new(&mut bed.courier).poll_write_vectored(&mut cx, &[IoSlice::new(b"head")]);
        assert!(matches!(head, Poll::Ready(Ok(4))), "{head:?}");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_waited_for_and_one_that_is_gone_is_an_error() {
        let mut bed = Bed::new().await;
        let stand_in = bed.post(0..SIZE, vec![]);
        let mut sent = 0;
        let waiting = loop {
            let slices = [IoSlice::new(&stand_in[sent % SIZE..])];
            let mut write = || poll_fn(|cx| Pin::new(&mut bed.courier).poll_write_vectored(cx, &slices)).now_or_never();
            // The first time, it may be only that others have a turn.
            match write().or_else(write) {
                Some(written) => sent += written.unwrap(),
                None => break sent,
            }
            if sent % SIZE == 0 {
                drop(bed.post(0..SIZE, vec![]));
            }
            assert!(sent < 100 << 20, "the socket takes all there is");
        };
        assert!(waiting > 0);
        drop(bed.client);
        let slices = [IoSlice::new(&stand_in[sent % SIZE..])];
        poll_fn(|cx| Pin::new(&mut bed.courier).poll_write_vectored(cx, &slices)).await.unwrap_err();
    }
}
