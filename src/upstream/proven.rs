//! Which of a name's addresses takes connections. Where a name has several, they are tried one after the other in short steps
//! (RFC 8305, section 5), and the first that takes a connection is the one to begin with. Nothing is ever sent over such a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use moka::sync::Cache;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::util::{Remembered, SingleFlight};

/// After how long without a connection the next address is tried as well.
const STEP: Duration = Duration::from_millis(250);

/// For how long an address that took a connection is the first one without another look.
const PROVEN_FOR: Duration = Duration::from_secs(10);

/// Of how many names it is remembered.
const NAMES: usize = 256;

/// What is known of one upstream's addresses. Cheap to clone; all clones share it.
#[derive(Clone)]
pub(super) struct Proven(Arc<Shared>);

struct Shared {
    /// The port at which a name is asked: whoever resolves a name is not told.
    ports: Cache<String, u16>,
    proven: Remembered<Place, SocketAddr>,
    races: SingleFlight<Place, Option<SocketAddr>>,
    deadline: Duration,
}

/// A name and a port.
type Place = (String, u16);

impl Proven {
    /// With a deadline for a connection.
    pub(super) fn new(deadline: Duration) -> Self {
        let (ports, proven) = (Cache::new(NAMES as u64), Remembered::new(PROVEN_FOR, NAMES));
        Self(Arc::new(Shared { ports, proven, races: SingleFlight::new(), deadline }))
    }

    /// Notes that `host` is going to be asked at `port`.
    pub(super) fn expect(&self, host: &str, port: u16) {
        if self.0.ports.get(host) != Some(port) {
            self.0.ports.insert(host.to_owned(), port);
        }
    }

    /// The `addresses` of `host` in the order in which to connect to them: one that takes connections first, those that were tried
    /// before it in vain last.
    pub(super) async fn order(&self, host: &str, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let Some(port) = self.0.ports.get(host).filter(|_| addresses.len() > 1) else { return addresses };
        let place = (host.to_owned(), port);
        let first = match self.0.proven.get(&place) {
            Some(proven) if addresses.contains(&proven) => Some(proven),
            _ => {
                let (candidates, deadline) = (addresses.clone(), self.0.deadline);
                let race = || async move { timeout(deadline, race(candidates, port)).await.ok().flatten() };
                let (winner, _) = self.0.races.run(place.clone(), race).await;
                winner.flatten().inspect(|winner| self.0.proven.insert(place, *winner))
            }
        };
        if let Some(position) = first.and_then(|first| addresses.iter().position(|address| *address == first)) {
            addresses.rotate_left(position);
        }
        addresses
    }
}

/// The first of `addresses` that takes a connection at `port`; none, if none does.
async fn race(addresses: Vec<SocketAddr>, port: u16) -> Option<SocketAddr> {
    let connect = |address: SocketAddr| async move {
        let connected = TcpStream::connect(SocketAddr::new(address.ip(), port)).await;
        connected.ok().map(|_| address)
    };
    let mut waiting = addresses.into_iter();
    let mut tries = FuturesUnordered::new();
    tries.extend(waiting.next().map(connect));
    loop {
        let is_last = waiting.len() == 0;
        tokio::select! {
            biased;
            tried = tries.next() => match tried {
                Some(Some(winner)) => return Some(winner),
                // It refuses: the next one need not wait.
                Some(None) => tries.extend(waiting.next().map(connect)),
                None => return None,
            },
            () = sleep(STEP), if !is_last => tries.extend(waiting.next().map(connect)),
        }
    }
}
