//! One connection: requests in, answers out, until either side has enough.
//! Speaks HTTP/1.1 (RFC 9112) with persistent connections; sends nothing itself, see [`super::send`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;

use super::Site;
use super::pace::Pacer;
use super::transport::Transport;
use crate::fault::Ending;
use crate::http::{BadRequest, Head, Reply, Request};

/// The longest request body that is read, in bytes.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// How much a client may send ahead while it waits for an answer, in bytes.
const MAX_AHEAD: usize = 64 * 1024;

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Keep,
    Close,
    Cut(Ending),
}

/// A connection being served.
pub(super) struct Connection {
    pub(super) transport: Transport,
    /// Received and not yet understood.
    buffer: BytesMut,
    peer: SocketAddr,
    number: u64,
    pub(super) site: Arc<dyn Site>,
    /// Holds this connection to its rate.
    pub(super) pacer: Pacer,
}

/// Why there is no further request.
enum NoRequest {
    Closed,
    Bad,
}

impl From<BadRequest> for NoRequest {
    fn from(_: BadRequest) -> NoRequest {
        NoRequest::Bad
    }
}

impl Connection {
    pub(super) fn new(transport: Transport, peer: SocketAddr, number: u64, site: Arc<dyn Site>) -> Connection {
        Connection { transport, buffer: BytesMut::new(), peer, number, site, pacer: Pacer::default() }
    }

    /// Serves until the connection ends. Errors are those of a connection that the client broke.
    pub(super) async fn serve(mut self) -> io::Result<()> {
        loop {
            let after = match self.receive().await {
                Ok(request) => self.answer(&request).await?,
                Err(NoRequest::Closed) => return Ok(()),
                Err(NoRequest::Bad) => {
                    let reply = Reply::error(400, "UNSUPPORTED", "this is no request");
                    self.refuse(&reply).await?;
                    After::Close
                }
            };
            match after {
                After::Keep => {}
                After::Close => return self.transport.close().await,
                After::Cut(ending) => return self.transport.cut(ending).await,
            }
        }
    }

    async fn receive(&mut self) -> Result<Request, NoRequest> {
        let head = loop {
            match Head::take(&mut self.buffer)? {
                Some(head) => break head,
                None => self.fill().await?,
            }
        };
        let length = head.body_length()?;
        if length > MAX_BODY {
            return Err(NoRequest::Bad);
        }
        while self.buffer.len() < length {
            self.fill().await?;
        }
        let body: Bytes = self.buffer.split_to(length).freeze();
        Ok(Request::new(head, body, self.peer, self.number))
    }

    async fn fill(&mut self) -> Result<(), NoRequest> {
        match self.transport.read_buf(&mut self.buffer).await {
            Ok(1..) => Ok(()),
            Ok(0) | Err(_) => Err(NoRequest::Closed),
        }
    }

    /// Waits, unless the client leaves first, which is an error.
    pub(super) async fn wait(&mut self, wait: impl Future<Output = ()>) -> io::Result<()> {
        tokio::pin!(wait);
        while self.buffer.len() < MAX_AHEAD {
            tokio::select! {
                () = &mut wait => return Ok(()),
                read = self.transport.read_buf(&mut self.buffer) => if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                },
            }
        }
        wait.await;
        Ok(())
    }
}

/// Counts a connection as open while it lives.
pub(super) struct Open(Arc<dyn Site>);

impl Open {
    /// Counts a connection that was accepted; also says which it is, from 0.
    pub(super) fn count(site: Arc<dyn Site>) -> (Open, u64) {
        let traffic = site.traffic();
        let number = traffic.connections.fetch_add(1, Ordering::Relaxed);
        traffic.accepted.fetch_add(1, Ordering::Relaxed);
        traffic.open.fetch_add(1, Ordering::Relaxed);
        (Open(site), number)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.traffic().open.fetch_sub(1, Ordering::Relaxed);
    }
}
