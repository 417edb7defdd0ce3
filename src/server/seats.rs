//! How many connections there may be: overall, and from each address.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::telemetry::Metrics;

/// So many connections are few: what the system may come to hold for all of them, some 4 MiB each (`net.ipv4.tcp_wmem`), it has.
const FEW: usize = 32;

/// The places for connections.
pub(super) struct Seats {
    overall: Arc<Semaphore>,
    /// How many there are overall.
    most: usize,
    clients: Arc<Clients>,
    metrics: Arc<Metrics>,
}

/// A client's place among the connections; given back when it is dropped.
pub(super) struct Seat {
    clients: Arc<Clients>,
    pub(super) client: SocketAddr,
    /// There were few connections when this one came. Of such ones there are never more than few.
    pub(super) is_among_few: bool,
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
}

/// How many connections each address has, and may have.
struct Clients {
    most: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

impl Seats {
    /// `overall`, and `per_client` from one address.
    pub(super) fn new(overall: usize, per_client: usize, metrics: Arc<Metrics>) -> Self {
        let clients = Clients { most: per_client, taken: Mutex::default() };
        Self { overall: Arc::new(Semaphore::new(overall)), most: overall, clients: Arc::new(clients), metrics }
    }

    /// Waits until there is a place for `client`; `None` if it has all that it may have.
    pub(super) async fn take(&self, client: SocketAddr) -> Option<Seat> {
        let permit = Arc::clone(&self.overall).acquire_owned().await.expect("the semaphore is never closed");
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        let mut clients = self.clients.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = clients.entry(client.ip()).or_default();
        if *taken >= self.clients.most {
            return None;
        }
        *taken += 1;
        self.metrics.connection_opened();
        // Those that come at this moment count, too.
        let is_among_few = self.most - self.overall.available_permits() <= FEW;
        let (clients, metrics) = (Arc::clone(&self.clients), Arc::clone(&self.metrics));
        Some(Seat { clients, client, is_among_few, metrics, _permit: permit })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut clients = self.clients.taken.lock().unwrap_or_else(PoisonError::into_inner);
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
    use crate::telemetry::Words;

    #[tokio::test]
    async fn of_those_that_were_among_few_there_are_never_more() {
        let words = Words { outcomes: Vec::new(), prefetch_outcomes: Vec::new(), refusals: Vec::new() };
        let seats = Seats::new(100, 100, Arc::new(Metrics::new("1.0", ["docker.io"], &words)));
        let take = async || seats.take(SocketAddr::from(([127, 0, 0, 1], 1))).await.unwrap();
        let mut taken = Vec::new();
        for _ in 0..FEW + 10 {
            taken.push(take().await);
        }
        let few = |taken: &[Seat]| taken.iter().filter(|seat| seat.is_among_few).count();
        assert_eq!(few(&taken), FEW);
        // Others are here, so that there are as many as before.
        taken.drain(..10);
        taken.push(take().await);
        assert_eq!(few(&taken), FEW - 10);
        taken.truncate(FEW - 1);
        taken.push(take().await);
        assert!(taken.last().unwrap().is_among_few && few(&taken) <= FEW);
    }
}
