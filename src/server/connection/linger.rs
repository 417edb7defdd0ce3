//! A TCP stream that is closed in order. When a socket is closed with bytes in it that nobody has read (the rest of an upload that
//! was refused, say) the kernel sends a reset, and the client may lose an answer that it has not read yet; containerd takes a
//! reset in mid-body as final, where an early end makes it go on at its next host.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::Turn;
use crate::store::StoredFile;

/// For how long, at the most, what a client still sends is read and dropped.
const LINGER: Duration = Duration::from_secs(5);

/// How much of a body may wait in the system's send buffer before it goes out, in bytes; the rest waits in the file. Without a limit
/// the buffer grows to megabytes, and a thousand clients that take nothing exhaust the memory that the system has for TCP
/// (`net.ipv4.tcp_mem`): then all connections crawl, those to the upstreams too. A few may have more: see
/// [`Lingering::lift_unsent_limit`].
pub(in crate::server) const UNSENT_MAX_BYTES: u32 = 256 << 10;

/// A TCP stream that lingers when it is dropped: it says that nothing more will come, and waits until the client has seen that.
pub(in crate::server) struct Lingering {
    /// `None` only while it is dropped.
    stream: Option<TcpStream>,
    pub(super) turn: Turn,
    /// The client has closed its side, or the connection has failed: there is nothing to wait for.
    is_over: bool,
    /// We have said that nothing more will come.
    is_shut: bool,
    /// Only full segments go out.
    pub(super) is_corked: bool,
}

impl Lingering {
    pub(in crate::server) fn new(stream: TcpStream, turn: Turn) -> Self {
        Self { stream: Some(stream), turn, is_over: false, is_shut: false, is_corked: false }
    }

    /// Lets as much of a body wait in the system's send buffer as it has room for. Within [`UNSENT_MAX_BYTES`] this process is woken
    /// whenever half of that has gone out, which for one client that copies what it gets costs about half as much again.
    pub(in crate::server) fn lift_unsent_limit(&self) {
        if let Some(stream) = &self.stream {
            // Zero is the system's own setting, which is no limit (`net.ipv4.tcp_notsent_lowat`). It cannot fail on a TCP socket.
            let _ = SockRef::from(stream).set_tcp_notsent_lowat(0);
        }
    }

    /// Has the system send `count` bytes of `file`, from `offset` on, or some of them. None were sent if the file ends there.
    ///
    /// # Errors
    /// The socket's or the file's. In the second case, and where the system cannot send from this file, the stream is as it was.
    pub(super) fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        file: &dyn StoredFile,
        offset: u64,
        count: u64,
    ) -> Poll<io::Result<usize>> {
        let Some(file) = file.descriptor() else { return Poll::Ready(Err(io::ErrorKind::Unsupported.into())) };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let stream = self.stream.as_ref().expect("the stream is taken out only in drop");
        loop {
            ready!(stream.poll_write_ready(cx))?;
            let send = || Ok(rustix::fs::sendfile(stream, file, Some(&mut offset.clone()), count)?);
            match stream.try_io(Interest::WRITABLE, send) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    /// Until the next flush, what does not fill a segment waits for what comes after it (`TCP_CORK`, tcp(7)).
    pub(super) fn cork(&mut self) {
        self.set_corked(true);
    }

    fn set_corked(&mut self, is_corked: bool) {
        if let Some(stream) = self.stream.as_ref().filter(|_| self.is_corked != is_corked) {
            self.is_corked = is_corked;
            // It cannot fail on a TCP socket; if it did, segments would be smaller, or the last of them late.
            let _ = SockRef::from(stream).set_tcp_cork(is_corked);
        }
    }

    fn poll<T>(
        &mut self,
        poll: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
        is_end: impl FnOnce(&T) -> bool,
    ) -> Poll<io::Result<T>> {
        let stream = self.stream.as_mut().expect("the stream is taken out only in drop");
        let result = poll(Pin::new(stream));
        match &result {
            Poll::Ready(Ok(value)) => self.is_over |= is_end(value),
            Poll::Ready(Err(_)) => self.is_over = true,
            Poll::Pending => {}
        }
        result
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take().filter(|_| !self.is_over) else { return };
        // A client that has said so, and keeps to it, is not waited for: what is still to go out to it does so after the socket is closed,
        // and the end (FIN) behind it.
        let is_silent = || matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        if self.turn.is_last() && is_silent() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let is_shut = self.is_shut;
        runtime.spawn(async move {
            let close = async {
                if !is_shut {
                    stream.shutdown().await?;
                }
                let mut dropped = vec![0; 16 << 10];
                while stream.read(&mut dropped).await? > 0 {}
                io::Result::Ok(())
            };
            // Whether it ends well or not, the connection is done with.
            let _ = tokio::time::timeout(LINGER, close).await;
        });
    }
}

impl AsyncRead for Lingering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let has_room = buffer.remaining() > 0;
        let result = self.poll(|stream| stream.poll_read(cx, buffer), |()| false);
        if has_room && matches!(result, Poll::Ready(Ok(()))) && buffer.filled().len() == before {
            self.is_over = true;
        }
        result
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|stream| stream.poll_write(cx, bytes), |_| false)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(|stream| stream.poll_write_vectored(cx, slices), |_| false)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.set_corked(false);
        self.poll(|stream| stream.poll_flush(cx), |()| false)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It is closed next, which does the same.
        if self.turn.is_last() {
            return Poll::Ready(Ok(()));
        }
        let result = self.poll(|stream| stream.poll_shutdown(cx), |()| false);
        self.is_shut |= matches!(result, Poll::Ready(Ok(())));
        result
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A client, and the stream that it is at the other end of.
    async fn connect(turn: &Turn) -> (TcpStream, Lingering) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, Lingering::new(listener.accept().await.unwrap().0, turn.clone()))
    }

    /// What comes of it if the client goes on to send when it has its answer.
    async fn speak_after_the_end((mut client, mut server): (TcpStream, Lingering)) -> io::Result<()> {
        client.write_all(b"request").await?;
        server.read_exact(&mut [0; 7]).await?;
        server.write_all(b"answer").await?;
        server.shutdown().await?;
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await?;
        assert_eq!(answer, b"answer");
        // The first is what a reset answers, the second fails because of it.
        for _ in 0..2 {
            client.write_all(b"more").await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    #[tokio::test]
    async fn what_a_client_sends_after_the_end_is_no_reason_for_a_reset() {
        speak_after_the_end(connect(&Turn::alternating()).await).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_said_that_it_sends_nothing_more_is_not_waited_for() {
        let turn = Turn::alternating();
        let connection = connect(&turn).await;
        turn.last();
        speak_after_the_end(connection).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_flush_ends_what_a_cork_began() {
        let (_client, mut server) = connect(&Turn::alternating()).await;
        let is_corked = |server: &Lingering| SockRef::from(server.stream.as_ref().unwrap()).tcp_cork().unwrap();
        server.cork();
        assert!(is_corked(&server));
        server.flush().await.unwrap();
        assert!(!is_corked(&server));
    }
}
