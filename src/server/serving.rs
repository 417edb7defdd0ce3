//! One connection, from its first byte to its last: TLS where there is a certificate, HTTP/1.1 or HTTP/2, and a registry that answers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::body::Body;
use super::connection::{Courier, Guard, Limits, Lingering, Outbox, Turn};
use super::registry::{Client, Registry};
use super::seats::Seat;
use crate::fill::FillError;

/// How long clients may take; see [`Limits`].
const LIMITS: Limits = Limits {
    first_byte: Duration::from_secs(10),
    head: Duration::from_secs(15),
    idle: Duration::from_secs(180),
    stalled: Duration::from_secs(60),
};

/// From the connection to the end of the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The largest request head, in bytes. Requests to a registry have a few hundred.
const HEAD_MAX_BYTES: usize = 32 << 10;

/// Serves one connection to its end. What it needs for that is in memory as long as the client stays, whatever the client does:
/// so this future is kept small, and what only some connections need is in a box.
pub(super) async fn serve(stream: TcpStream, seat: Seat, tls: Option<TlsAcceptor>, registry: Registry, watcher: Watcher) {
    let address = seat.client;
    let turn = Turn::alternating();
    let stream = Lingering::new(stream, turn.clone());
    match tls {
        None => {
            if seat.is_among_few {
                stream.lift_unsent_limit();
            }
            let outbox = Outbox::default();
            let client = Client { address, outbox: Some(outbox.clone()) };
            serve_http1(Courier::new(stream, outbox), client, turn, registry, watcher).await;
        }
        Some(tls) => Box::pin(serve_tls(tls, stream, Client { address, outbox: None }, turn, registry, watcher)).await,
    }
}

async fn serve_tls(tls: TlsAcceptor, stream: Lingering, client: Client, turn: Turn, registry: Registry, watcher: Watcher) {
    match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            Box::pin(serve_http2(stream, client, registry, watcher)).await;
        }
        Ok(Ok(stream)) => Box::pin(serve_http1(stream, client, turn, registry, watcher)).await,
        Ok(Err(error)) => tracing::debug!(client = %client.address, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(client = %client.address, "TLS handshake took too long"),
    }
}

async fn serve_http1<S>(stream: S, client: Client, turn: Turn, registry: Registry, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let address = client.address;
    let guard = Guard::new(stream, turn.clone(), LIMITS);
    let service = service_fn(move |request: Request<Incoming>| {
        turn.ours();
        if is_last(&request) {
            turn.last();
        }
        // hyper keeps room for this as long as the connection lasts: in a box, it is there while there is something to answer.
        answer(registry.clone(), request, client.clone(), turn.clone()).boxed()
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // The guard bounds the time for a head, and tells it from the time between requests.
        .header_read_timeout(None)
        .max_header_size(HEAD_MAX_BYTES)
        // Of what a client sends before it has our answer.
        .max_buf_size(2 * HEAD_MAX_BYTES)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(guard), service);
    finished(address, watcher.watch(connection).await);
}

async fn serve_http2<S>(stream: S, client: Client, registry: Registry, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (turn, address) = (Turn::shared(), client.address);
    let guard = Guard::new(stream, turn.clone(), LIMITS);
    let service = service_fn(move |request: Request<Incoming>| answer(registry.clone(), request, client.clone(), turn.clone()));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(64)
        .max_header_list_size(u32::try_from(HEAD_MAX_BYTES).expect("a small constant"))
        .keep_alive_interval(LIMITS.stalled)
        .keep_alive_timeout(LIMITS.first_byte)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(guard), service);
    finished(address, watcher.watch(connection).await);
}

/// Whether a client has said that nothing comes after its request (RFC 9112 section 9.6), and the request has no body.
fn is_last(request: &Request<Incoming>) -> bool {
    let says_close = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
    request.headers().get(CONNECTION).is_some_and(says_close) && request.body().is_end_stream()
}

async fn answer(
    registry: Registry,
    request: Request<Incoming>,
    client: Client,
    turn: Turn,
) -> Result<Response<TurnTaker>, Infallible> {
    let (parts, _unread) = request.into_parts();
    let response = registry.answer(&parts, &client).await?;
    Ok(response.map(|body| TurnTaker { body, turn }))
}

/// Clients go away in mid-answer every day: that is for the access log, not for a warning.
fn finished(client: SocketAddr, result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%client, %error, "connection ended early");
    }
}

/// A body that gives the turn back when hyper is done with it.
struct TurnTaker {
    body: Body,
    turn: Turn,
}

impl http_body::Body for TurnTaker {
    type Data = Bytes;
    type Error = FillError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, FillError>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for TurnTaker {
    fn drop(&mut self) {
        self.turn.answered();
    }
}
