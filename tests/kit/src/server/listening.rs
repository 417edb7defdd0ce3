//! A listening socket that can be shut and opened again at the same address.
//! Accepts connections and keeps their tasks; what they do is in [`super::connection`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::Site;
use super::connection::{Connection, Open};
use super::transport::Transport;

/// How often, and how long apart, an address is tried that another process has taken in the meantime.
const BIND_ATTEMPTS: u32 = 50;
const BIND_PAUSE: Duration = Duration::from_millis(100);
/// How long accepting rests after it failed, for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound address that nobody serves yet.
#[derive(Debug)]
pub(crate) struct Socket(TcpListener);

impl Socket {
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<Socket> {
        TcpListener::bind(address).await.map(Socket)
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A site at an address. Dropping it shuts it.
pub(crate) struct Listening {
    address: SocketAddr,
    site: Arc<dyn Site>,
    tls: Option<TlsAcceptor>,
    running: Mutex<Option<Running>>,
}

struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Listening {
    /// Serves the site at the socket, which is bound to this address.
    pub(crate) fn start(socket: Socket, address: SocketAddr, site: Arc<dyn Site>, tls: Option<TlsAcceptor>) -> Listening {
        let running = run(socket, site.clone(), tls.clone());
        Listening { address, site, tls, running: Mutex::new(Some(running)) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn is_open(&self) -> bool {
        self.running.lock().await.is_some()
    }

    /// Refuses connections from now on, and ends those that are open.
    pub(crate) async fn stop(&self) {
        if let Some(Running { stop, task }) = self.running.lock().await.take() {
            // It fails when the task has ended, which is what is wanted.
            let _ = stop.send(());
            let _ = task.await;
        }
    }

    /// Listens again at the same address.
    pub(crate) async fn resume(&self) -> io::Result<()> {
        let mut running = self.running.lock().await;
        if running.is_some() {
            return Ok(());
        }
        let mut attempt = 1;
        let socket = loop {
            match Socket::bind(self.address).await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempt < BIND_ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(BIND_PAUSE).await;
                }
                bound => break bound?,
            }
        };
        *running = Some(run(socket, self.site.clone(), self.tls.clone()));
        Ok(())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(running) = self.running.get_mut() {
            running.task.abort();
        }
    }
}

fn run(socket: Socket, site: Arc<dyn Site>, tls: Option<TlsAcceptor>) -> Running {
    let (stop, stopped) = oneshot::channel();
    let accepting = accept(socket.0, site, tls, stopped);
    Running { stop, task: tokio::spawn(accepting) }
}

async fn accept(listener: TcpListener, site: Arc<dyn Site>, tls: Option<TlsAcceptor>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((tcp, peer)) => {
                    let (open, number) = Open::count(site.clone());
                    let serving = serve(tcp, peer, number, site.clone(), tls.clone());
                    connections.spawn(async move {
                        // What ends a connection early is the client's doing, and in the records.
                        let _ = serving.await;
                        drop(open);
                    });
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn serve(tcp: TcpStream, peer: SocketAddr, number: u64, site: Arc<dyn Site>, tls: Option<TlsAcceptor>) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let transport = match tls {
        None => Transport::Plain(tcp),
        Some(tls) => Transport::Tls(Box::new(tls.accept(tcp).await?)),
    };
    Connection::new(transport, peer, number, site).serve().await
}
