//! The HTTP/1.1 server: written by hand on sockets, so that faults below HTTP are possible.
//! Carries out what a [`Site`] answers and its rules spoil; knows nothing of registries.

mod body;
mod connection;
mod listening;
mod pace;
mod send;
mod transport;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;

pub(crate) use listening::{Listening, Socket};
use pace::Pacer;

use crate::config::Network;
use crate::fault::{Moment, Plan};
use crate::http::{Reply, Request};
use crate::record::Entry;

/// A future that a trait object can return.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What listens at an address.
pub(crate) trait Site: Send + Sync + 'static {
    /// The true answer to a request.
    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Reply>;

    /// Its counters.
    fn traffic(&self) -> &Traffic;

    /// Enters the request in the records, if it keeps any.
    fn record(&self, _request: &Request) -> Option<Entry> {
        None
    }

    /// The faults that apply to the request at this moment.
    fn plan(&self, _request: &Request, _moment: Moment<'_>) -> Plan {
        Plan::default()
    }

    /// What the network to it is like.
    fn network(&self) -> Network {
        Network::default()
    }
}

/// Counts what passes at a listener.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Numbers connections; unlike the counts, never begins anew.
    connections: AtomicU64,
    /// Connections that were accepted.
    pub(crate) accepted: AtomicU64,
    /// Connections that are open.
    pub(crate) open: AtomicU64,
    /// Bytes of bodies that were sent.
    pub(crate) body_bytes: AtomicU64,
    /// Holds all connections together to the listener's rate.
    pacer: Pacer,
}
