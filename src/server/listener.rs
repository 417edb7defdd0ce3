//! The listener: accepts connections within limits, spreads them over the workers, and drains when it is told to stop.
//!
//! Each worker has a socket of its own at the same address, and the system gives a connection to one of them (`SO_REUSEPORT`,
//! socket(7)): with a single one, either one worker would accept for all and have to wake others, or all would be woken for each.

use std::io;
use std::net::{self, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustls::ServerConfig;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::connection::UNSENT_MAX_BYTES;
use super::registry::Registry;
use super::seats::{Seat, Seats};
use super::serving::serve;
use super::workers::{Worker, Workers, place};
use crate::telemetry::Metrics;

/// Connections that may wait to be accepted; the system has a limit of its own (`net.core.somaxconn`). A rollout has hundreds of
/// clients connect at once, and those that find the queue full wait a second or more before they try again.
const BACKLOG: i32 = 4096;

/// How long to wait before accepting again after the process ran out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What bounds a listener.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// At a time. The next ones, one for each worker, are accepted and wait; all further ones wait to be accepted.
    pub max_connections: usize,
    /// From one address.
    pub max_connections_per_client: usize,
    /// How long answers that have begun may go on after the listener was told to stop.
    pub drain: Duration,
}

/// A bound address at which a [`Registry`] answers.
pub struct Listener {
    address: SocketAddr,
    /// One for each worker, where the system knows how to spread connections over them.
    sockets: Vec<net::TcpListener>,
    shared: Arc<Shared>,
}

struct Shared {
    tls: Option<TlsAcceptor>,
    registry: Registry,
    drain: Duration,
    seats: Seats,
    workers: Arc<[Worker]>,
}

/// What one worker accepts connections with.
struct Door {
    /// Which worker.
    at: usize,
    shared: Arc<Shared>,
    stopping: watch::Receiver<bool>,
}

impl Listener {
    /// Binds `address`. What is accepted there is served by `workers`.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub fn bind(
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        registry: Registry,
        settings: Settings,
        metrics: Arc<Metrics>,
        workers: &Workers,
    ) -> io::Result<Self> {
        let workers = workers.all();
        let sockets = listen(address, workers.len())?;
        let seats = Seats::new(settings.max_connections, settings.max_connections_per_client, metrics);
        let shared = Shared { tls: tls.map(TlsAcceptor::from), registry, drain: settings.drain, seats, workers };
        Ok(Self { address: sockets[0].local_addr()?, sockets, shared: Arc::new(shared) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stopping` says so, then finishes what has begun, within the drain time.
    ///
    /// # Errors
    /// If a socket cannot be waited for.
    pub async fn serve(self, stopping: watch::Receiver<bool>) -> io::Result<()> {
        let doors = self.sockets.into_iter().enumerate().map(|(at, socket)| {
            let door = Door { at, shared: Arc::clone(&self.shared), stopping: stopping.clone() };
            let open = self.shared.workers[at].runtime.spawn(door.open(socket));
            async move { open.await.map_err(io::Error::other)? }
        });
        // All are shut before the first connection is closed: its client would connect anew.
        let serving = try_join_all(doors).await?;
        // Answers that are still going out when the time is up are cut: clients resume them elsewhere.
        let _ = timeout(self.shared.drain, join_all(serving.into_iter().map(GracefulShutdown::shutdown))).await;
        Ok(())
    }
}

impl Door {
    /// Lets connections in until it is told to stop. Gives what closes them.
    async fn open(mut self, socket: net::TcpListener) -> io::Result<GracefulShutdown> {
        let graceful = GracefulShutdown::new();
        let socket = TcpListener::from_std(socket)?;
        loop {
            let accepted = tokio::select! {
                biased;
                () = stopped(&mut self.stopping) => return Ok(graceful),
                accepted = self.shared.accept(&socket) => accepted,
            };
            if let Some((stream, seat)) = accepted {
                self.shared.give(self.at, stream, seat, graceful.watcher());
                // Whoever is here is served before the next one is let in: it may have only one question.
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // That the sender is gone says the same.
    let _ = stopping.wait_for(|stop| *stop).await;
}

impl Shared {
    async fn accept(&self, socket: &TcpListener) -> Option<(TcpStream, Seat)> {
        let (stream, client) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                return None;
            }
        };
        let seat = self.seats.take(client).await;
        if seat.is_none() {
            tracing::debug!(client = %client.ip(), "a client has all the connections that it may have");
        }
        seat.map(|seat| (stream, seat))
    }

    /// Has a connection served that the worker `at` this place has accepted.
    fn give(self: &Arc<Self>, at: usize, stream: TcpStream, seat: Seat, watcher: Watcher) {
        let to = place(&self.workers, at);
        let (shared, load) = (Arc::clone(self), self.workers[to].load());
        let serve = move |stream| async move {
            serve(stream, seat, shared.tls.clone(), shared.registry.clone(), watcher).await;
            drop(load);
        };
        if to == at {
            tokio::spawn(serve(stream));
            return;
        }
        // Each runtime waits for its own sockets.
        let Ok(stream) = stream.into_std() else { return };
        self.workers[to].runtime.spawn(async move {
            match TcpStream::from_std(stream) {
                Ok(stream) => serve(stream).await,
                Err(error) => tracing::warn!(%error, "a connection cannot be waited for"),
            }
        });
    }
}

/// Up to `count` sockets that listen at `address`, and one at the least. What is accepted from them has their options.
fn listen(address: SocketAddr, count: usize) -> io::Result<Vec<net::TcpListener>> {
    let first = socket(address)?;
    first.bind(&address.into())?;
    first.listen(BACKLOG)?;
    let first = net::TcpListener::from(first);
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    // Only now that nobody else listens here: else two processes could share the address without knowing it. Where the system does not
    // know this, the first accepts for all.
    if SockRef::from(&sockets[0]).set_reuse_port(true).is_ok() {
        sockets.extend((1..count).map_while(|_| listen_too(address).ok()));
    }
    Ok(sockets)
}

fn listen_too(address: SocketAddr) -> io::Result<net::TcpListener> {
    let socket = socket(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Else the port cannot be had for a minute after a restart.
    socket.set_reuse_address(true)?;
    // Answers are written when they are ready; waiting to fill a segment only delays small ones. Without it all works, more slowly.
    let _ = socket.set_tcp_nodelay(true);
    // Without it all works, and slow clients cost the system more.
    let _ = socket.set_tcp_notsent_lowat(UNSENT_MAX_BYTES);
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream as Client;

    use super::*;

    const ANY: SocketAddr = SocketAddr::new(net::IpAddr::V4(net::Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn what_is_accepted_has_the_options_of_the_listener() {
        for socket in listen(ANY, 2).unwrap() {
            let options = SockRef::from(&socket);
            assert!(options.tcp_nodelay().unwrap() && options.nonblocking().unwrap());
            assert_eq!(options.tcp_notsent_lowat().unwrap(), UNSENT_MAX_BYTES);
        }
        let socket = listen(ANY, 1).unwrap().remove(0);
        let _client = Client::connect(socket.local_addr().unwrap()).unwrap();
        let stream = socket.accept().unwrap().0;
        assert!(stream.nodelay().unwrap());
        assert_eq!(SockRef::from(&stream).tcp_notsent_lowat().unwrap(), UNSENT_MAX_BYTES);
    }

    #[test]
    fn the_system_spreads_connections_over_the_sockets_and_loses_none() {
        let sockets = listen(ANY, 3).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let clients: Vec<_> = (0..200).map(|_| Client::connect(address).unwrap()).collect();
        let accepted: Vec<usize> =
            sockets.iter().map(|socket| std::iter::from_fn(|| socket.accept().ok()).take(clients.len()).count()).collect();
        assert_eq!(accepted.iter().sum::<usize>(), clients.len());
        assert!(accepted.iter().all(|count| *count > 0), "{accepted:?}");
    }

    #[test]
    fn an_address_that_is_taken_is_not_shared() {
        let first = listen(ANY, 2).unwrap();
        let address = first[0].local_addr().unwrap();
        assert_eq!(listen(address, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        listen(address, 2).unwrap();
    }
}
