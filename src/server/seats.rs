//! How many connections there may be: overall, and from each address.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::telemetry::Metrics;

/// The places for connections.
pub(super) struct Seats {
    overall: Arc<Semaphore>,
    clients: Arc<Clients>,
    metrics: Arc<Metrics>,
}

/// A client's place among the connections; given back when it is dropped.
pub(super) struct Seat {
    clients: Arc<Clients>,
    pub(super) client: SocketAddr,
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
        Self { overall: Arc::new(Semaphore::new(overall)), clients: Arc::new(clients), metrics }
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
        Some(Seat { clients: Arc::clone(&self.clients), client, metrics: Arc::clone(&self.metrics), _permit: permit })
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
