//! The guard between hyper and a client's stream. hyper's own timer cannot tell a client that thinks between two requests from
//! one that dribbles a header, and its answers to malformed requests have no body; both are mended here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::oci::ErrorCode;
use crate::server::error::ApiError;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Limits {
    /// From the connection to the first byte of a request.
    pub(in crate::server) first_byte: Duration,
    /// From the first byte of a request to the end of its head.
    pub(in crate::server) head: Duration,
    /// Between two requests. Longer than any client keeps an idle connection, so that it is the client who closes it.
    pub(in crate::server) idle: Duration,
    /// Without taking one byte of an answer.
    pub(in crate::server) stalled: Duration,
}

/// Whose turn it is on an HTTP/1 connection. Shared between the guard, the service and the stream.
#[derive(Clone, Debug)]
pub(in crate::server) struct Turn(Arc<State>);

#[derive(Debug)]
struct State {
    turn: AtomicU8,
    /// The client has said that it sends nothing after this request.
    is_last: AtomicBool,
}

/// The client is to send a request.
const CLIENT: u8 = 0;
/// We are to answer.
const OURS: u8 = 1;
/// The answer's last byte is with hyper; it is the client's turn when that is flushed.
const ANSWERED: u8 = 2;
/// Requests overlap (HTTP/2): nobody's turn in particular.
const SHARED: u8 = 3;

/// A client's stream, guarded.
pub(in crate::server) struct Guard<S> {
    stream: S,
    turn: Turn,
    limits: Limits,
    /// When the client must have done what is its turn to do.
    due: Instant,
    /// Runs while the client is waited for. It may end before that is due, and is then set again: so a request that comes all at once
    /// sets none.
    reading: Pin<Box<Sleep>>,
    has_begun_head: bool,
    /// Runs while the client takes nothing.
    writing: Option<Pin<Box<Sleep>>>,
    /// An answer that is sent in place of hyper's own.
    own_answer: Bytes,
}

impl Turn {
    fn new(turn: u8) -> Self {
        Self(Arc::new(State { turn: AtomicU8::new(turn), is_last: AtomicBool::new(false) }))
    }

    pub(in crate::server) fn alternating() -> Self {
        Self::new(CLIENT)
    }

    pub(in crate::server) fn shared() -> Self {
        Self::new(SHARED)
    }

    /// A request has come.
    pub(in crate::server) fn ours(&self) {
        self.change(OURS);
    }

    /// The client has said that it sends nothing more.
    pub(in crate::server) fn last(&self) {
        self.0.is_last.store(true, Ordering::Release);
    }

    pub(super) fn is_last(&self) -> bool {
        self.0.is_last.load(Ordering::Acquire)
    }

    /// hyper has all of the answer.
    pub(in crate::server) fn answered(&self) {
        self.change(ANSWERED);
    }

    /// The client has its answer, and has not asked anew.
    pub(super) fn is_clients(&self) -> bool {
        self.is(CLIENT)
    }

    fn change(&self, to: u8) {
        if !self.is(SHARED) {
            self.0.turn.store(to, Ordering::Release);
        }
    }

    fn is(&self, turn: u8) -> bool {
        self.0.turn.load(Ordering::Acquire) == turn
    }
}

impl<S> Guard<S> {
    pub(in crate::server) fn new(stream: S, turn: Turn, limits: Limits) -> Self {
        let due = Instant::now() + limits.first_byte;
        let reading = Box::pin(tokio::time::sleep_until(due));
        Self { stream, turn, limits, due, reading, has_begun_head: false, writing: None, own_answer: Bytes::new() }
    }

    /// Ready when the client is late.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.due;
        if due < self.reading.deadline() {
            self.reading.as_mut().reset(due);
        }
        loop {
            ready!(self.reading.as_mut().poll(cx));
            if self.reading.deadline() >= due {
                return Poll::Ready(());
            }
            self.reading.as_mut().reset(due);
        }
    }
}

impl<S: AsyncWrite + Unpin> Guard<S> {
    /// Passes on the outcome of a write, unless the client has taken nothing for too long.
    fn unless_stalled<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.writing = None;
            return written;
        }
        let limit = self.limits.stalled;
        let writing = self.writing.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(writing.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }

    fn poll_own_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.own_answer.has_remaining() {
            let written = Pin::new(&mut self.stream).poll_write(cx, &self.own_answer);
            match ready!(self.unless_stalled(cx, written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.own_answer.advance(count),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Ready(result) => {
                if !this.has_begun_head && buffer.filled().len() > before && !this.turn.is(OURS) {
                    this.has_begun_head = true;
                    this.due = Instant::now() + this.limits.head;
                }
                Poll::Ready(result)
            }
            // Where requests overlap, only the first byte has a time; after that the protocol's own pings tell who is there.
            Poll::Pending if this.turn.is(CLIENT) || (this.turn.is(SHARED) && !this.has_begun_head) => {
                ready!(this.poll_due(cx));
                // Reads as the end of the stream: hyper closes, in order and without an answer.
                Poll::Ready(Ok(()))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // Nobody asked the service for an answer, so this one is hyper's own.
        if this.turn.is(CLIENT)
            && let Some(answer) = in_our_form(bytes)
        {
            this.own_answer = answer;
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(this.poll_own_answer(cx))?;
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.unless_stalled(cx, written)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.turn.is(CLIENT) {
            let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
            return Pin::new(this).poll_write(cx, first);
        }
        ready!(this.poll_own_answer(cx))?;
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.unless_stalled(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_own_answer(cx))?;
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        ready!(this.unless_stalled(cx, flushed))?;
        if this.turn.is(ANSWERED) {
            this.turn.change(CLIENT);
            this.has_begun_head = false;
            this.due = Instant::now() + this.limits.idle;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_own_answer(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

/// What is sent in place of an answer that hyper gave by itself: the same status, with the body that a registry's client expects.
fn in_our_form(answer: &[u8]) -> Option<Bytes> {
    let status = StatusCode::from_bytes(answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?).ok()?;
    let message = match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "the header of the request is too large",
        StatusCode::URI_TOO_LONG => "the target of the request is too long",
        _ => "this is not a well-formed HTTP request",
    };
    let body = ApiError::new(status, ErrorCode::Unsupported, message).json();
    let mut own = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         docker-distribution-api-version: registry/2.0\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    own.extend_from_slice(&body);
    Some(own.into())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const LIMITS: Limits = Limits {
        first_byte: Duration::from_secs(10),
        head: Duration::from_secs(15),
        idle: Duration::from_secs(180),
        stalled: Duration::from_secs(60),
    };

    async fn seconds_until_end(guard: &mut Guard<tokio::io::DuplexStream>) -> u64 {
        let begun = Instant::now();
        let mut buffer = [0; 100];
        while guard.read(&mut buffer).await.unwrap() > 0 {}
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_left() {
        let (_client, server) = duplex(1000);
        assert_eq!(seconds_until_end(&mut Guard::new(server, Turn::alternating(), LIMITS)).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection_with_overlapping_requests_too() {
        let (_silent, server) = duplex(1000);
        assert_eq!(seconds_until_end(&mut Guard::new(server, Turn::shared(), LIMITS)).await, 10);
        let (mut client, server) = duplex(1000);
        let mut guard = Guard::new(server, Turn::shared(), LIMITS);
        client.write_all(b"PRI").await.unwrap();
        let mut buffer = [0; 3];
        guard.read_exact(&mut buffer).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(3600), guard.read(&mut buffer)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_dribbles_in_is_not_waited_for() {
        let (mut client, server) = duplex(1000);
        tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        assert_eq!(seconds_until_end(&mut Guard::new(server, Turn::alternating(), LIMITS)).await, 15);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_take_its_time_and_then_the_client_may_think() {
        let (_client, server) = duplex(1000);
        let turn = Turn::alternating();
        let mut guard = Guard::new(server, turn.clone(), LIMITS);
        turn.ours();
        let mut buffer = [0; 10];
        let read = tokio::time::timeout(Duration::from_secs(3600), guard.read(&mut buffer)).await;
        assert!(read.is_err(), "reading ended while we were to answer");
        guard.write_all(b"HTTP/1.1 400 is ours").await.unwrap();
        turn.answered();
        guard.flush().await.unwrap();
        assert_eq!(seconds_until_end(&mut guard).await, 180);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_left() {
        let (_client, server) = duplex(10);
        let turn = Turn::alternating();
        let mut guard = Guard::new(server, turn.clone(), LIMITS);
        turn.ours();
        let begun = Instant::now();
        let error = guard.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, 60));
    }

    #[tokio::test]
    async fn hypers_own_answers_get_a_body_and_ours_are_left_alone() {
        let (mut client, server) = duplex(10_000);
        let turn = Turn::alternating();
        let mut guard = Guard::new(server, turn.clone(), LIMITS);
        turn.ours();
        guard.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        turn.answered();
        guard.write_all(b"HTTP/1.1 431 in a body\r\n").await.unwrap();
        guard.flush().await.unwrap();
        guard.write_all(b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        guard.shutdown().await.unwrap();
        drop(guard);
        let mut got = String::new();
        client.read_to_string(&mut got).await.unwrap();
        let (ours, own) = got.split_once("in a body\r\n").unwrap();
        assert_eq!(ours, "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 431 ");
        let (head, body) = own.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 ") && head.contains(&format!("content-length: {}", body.len())), "{head}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["errors"][0]["code"], "UNSUPPORTED");
    }
}
