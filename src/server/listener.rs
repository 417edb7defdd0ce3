//! The listener: accepts connections within limits, speaks TLS where there is a certificate, and drains when it is told to stop.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
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
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use super::body::Body;
use super::connection::{Courier, Guard, Limits, Lingering, Outbox, Senders, Turn, UNSENT_MAX_BYTES};
use super::registry::{Client, Registry};
use crate::fill::FillError;
use crate::telemetry::Metrics;

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

/// Connections that may wait to be accepted; the system has a limit of its own (`net.core.somaxconn`). A rollout has hundreds of
/// clients connect at once, and those that find the queue full wait a second or more before they try again.
const BACKLOG: u32 = 4096;

/// How long to wait before accepting again after the process ran out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What bounds a listener.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub max_connections: usize,
    /// From one address.
    pub max_connections_per_client: usize,
    /// How long answers that have begun may go on after the listener was told to stop.
    pub drain: Duration,
}

/// A bound socket that answers with a [`Registry`].
pub struct Listener {
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
    registry: Registry,
    settings: Settings,
    metrics: Arc<Metrics>,
    clients: Arc<Clients>,
    senders: Senders,
}

/// How many connections each address has.
#[derive(Default)]
struct Clients(Mutex<HashMap<IpAddr, usize>>);

/// A client's place among the connections; given back when it is dropped.
struct Seat {
    clients: Arc<Clients>,
    client: SocketAddr,
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
}

impl Listener {
    /// Binds `address`.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub fn bind(
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        registry: Registry,
        settings: Settings,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let socket = listen(address)?;
        Ok(Self {
            socket,
            tls: tls.map(TlsAcceptor::from),
            registry,
            settings,
            metrics,
            clients: Arc::default(),
            senders: Senders::new(),
        })
    }

    /// # Errors
    /// If the system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `stop` is done, then finishes what has begun, within the drain time.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(self.settings.max_connections));
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stop => break,
                accepted = self.accept(&places) => accepted,
            };
            if let Some((stream, seat)) = accepted {
                let senders = self.senders.clone();
                tokio::spawn(serve(stream, seat, self.tls.clone(), self.registry.clone(), senders, graceful.watcher()));
            }
        }
        drop(self.socket);
        // Answers that are still going out when the time is up are cut: clients resume them elsewhere.
        let _ = tokio::time::timeout(self.settings.drain, graceful.shutdown()).await;
    }

    async fn accept(&self, places: &Arc<Semaphore>) -> Option<(TcpStream, Seat)> {
        let permit = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, client) = match self.socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                return None;
            }
        };
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        let seat = self.clients.seat(client, self.settings.max_connections_per_client, permit, &self.metrics);
        if seat.is_none() {
            tracing::debug!(client = %client.ip(), "a client has all the connections that it may have");
        }
        seat.map(|seat| (stream, seat))
    }
}

/// A socket that listens at `address`. What is accepted from it has its options.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Else the port cannot be had for a minute after a restart.
    socket.set_reuseaddr(true)?;
    // Answers are written when they are ready; waiting to fill a segment only delays small ones. Without it all works, more slowly.
    let _ = socket.set_nodelay(true);
    // Without it all works, and slow clients cost the system more.
    let _ = SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT_MAX_BYTES);
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves one connection to its end. What it needs for that is in memory as long as the client stays, whatever the client does:
/// so this future is kept small, and what only some connections need is in a box.
async fn serve(stream: TcpStream, seat: Seat, tls: Option<TlsAcceptor>, registry: Registry, senders: Senders, watcher: Watcher) {
    let address = seat.client;
    let turn = Turn::alternating();
    let stream = Lingering::new(stream, turn.clone());
    match tls {
        None => {
            let outbox = Outbox::default();
            let client = Client { address, outbox: Some(outbox.clone()) };
            serve_http1(Courier::new(stream, outbox, senders), client, turn, registry, watcher).await;
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

impl Clients {
    fn seat(
        self: &Arc<Self>,
        client: SocketAddr,
        most: usize,
        permit: OwnedSemaphorePermit,
        metrics: &Arc<Metrics>,
    ) -> Option<Seat> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = clients.entry(client.ip()).or_default();
        if *taken >= most {
            return None;
        }
        *taken += 1;
        metrics.connection_opened();
        Some(Seat { clients: Arc::clone(self), client, metrics: Arc::clone(metrics), _permit: permit })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut clients = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = clients.get_mut(&self.client.ip()) {
            *taken -= 1;
            if *taken == 0 {
                clients.remove(&self.client.ip());
            }
        }
        self.metrics.connection_closed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_accepted_has_the_options_of_the_listener() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = listener.accept().await.unwrap().0;
        assert!(stream.nodelay().unwrap());
        assert_eq!(SockRef::from(&stream).tcp_notsent_lowat().unwrap(), UNSENT_MAX_BYTES);
    }
}
