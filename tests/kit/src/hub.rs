//! The registry as tests use it: started, filled, spoiled, asked what it saw, stopped.
//! A façade over the parts; the work is theirs.

mod builder;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

pub use builder::{HubBuilder, StartError};

use crate::config::Config;
use crate::content::Repository;
use crate::fault::{Fault, FaultHandle, FaultStatus};
use crate::listener::{Listener, PerListener};
use crate::record::Requests;
use crate::server::Listening;
use crate::state::State;

/// How long [`Hub::until`] waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running registry, token server and CDN. Dropping it stops them.
pub struct Hub {
    state: Arc<State>,
    listening: PerListener<Listening>,
    ca_pem: Option<String>,
}

/// What passed at a listener since the start or [`Hub::reset_records`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TrafficCounts {
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that are open now.
    pub open: u64,
    /// Bytes of bodies that were sent.
    pub body_bytes: u64,
}

impl Hub {
    /// Prepares a hub: with bearer tokens and redirects as Docker Hub has them, on free ports of 127.0.0.1, empty.
    pub fn builder() -> HubBuilder {
        HubBuilder::default()
    }

    /// The URL of a listener's address, such as `http://127.0.0.1:40123`.
    pub fn url_of(&self, listener: Listener) -> &str {
        self.state.own_url(listener)
    }

    /// The URL of the registry.
    pub fn url(&self) -> &str {
        self.url_of(Listener::Registry)
    }

    /// The address of a listener.
    pub fn address(&self, listener: Listener) -> SocketAddr {
        self.listening.get(listener).address()
    }

    /// The certificate of the authority behind the listeners' own, in PEM; `None` where none has TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// Changes a repository's content, which comes into being with this if need be.
    pub fn edit<T>(&self, name: &str, change: impl FnOnce(&mut Repository) -> T) -> T {
        self.state.backend.library.edit(name, change)
    }

    /// Puts a repository in place of that of its name.
    pub fn put(&self, repository: Repository) {
        self.state.backend.library.put(repository);
    }

    /// Removes a repository.
    pub fn remove_repository(&self, name: &str) {
        self.state.backend.library.remove(name);
    }

    /// Turns switches. Requests see all of the change or nothing.
    pub fn configure<T>(&self, change: impl FnOnce(&mut Config) -> T) -> T {
        self.state.configure(change)
    }

    /// The switches as they are now.
    pub fn config(&self) -> Config {
        Config::clone(&self.state.config())
    }

    /// Puts a fault in force.
    pub fn fault(&self, fault: Fault) -> FaultHandle {
        self.state.faults.add(fault)
    }

    /// Ends the fault of this [`FaultHandle::id`], and lets go on what it holds; `false` if there is none.
    pub fn remove_fault(&self, id: u64) -> bool {
        self.state.faults.remove(id)
    }

    /// Lets all go on that a fault holds, which then holds no more; `false` if there is no fault of this id.
    pub fn release_fault(&self, id: u64) -> bool {
        self.state.faults.release(id)
    }

    /// Ends all faults, and lets go on what they hold.
    pub fn clear_faults(&self) {
        self.state.faults.clear();
    }

    /// The faults in force, and what they have done.
    pub fn faults(&self) -> Vec<FaultStatus> {
        self.state.faults.statuses()
    }

    /// The requests since the start or [`Hub::reset_records`].
    ///
    /// A client may have read the end of an answer an instant before it is recorded: to rely on
    /// [`Outcome`](crate::Outcome) or on the bytes of the last answers, wait by [`Hub::until`].
    pub fn requests(&self) -> Requests {
        self.state.ledger.requests()
    }

    /// The requests that brought credentials to the CDN, which is nobody's business there.
    pub fn auth_leaks(&self) -> Requests {
        self.requests().on(Listener::Cdn).with_header("authorization")
    }

    /// Waits until this is true of the requests.
    ///
    /// # Panics
    ///
    /// After 30 seconds, with a list of the requests.
    pub async fn until(&self, mut is_so: impl FnMut(&Requests) -> bool) {
        let mut changes = self.state.ledger.changes();
        let come_true = async {
            while !is_so(&self.requests()) {
                let changed = changes.changed().await;
                changed.expect("the ledger, which this hub owns, sends the changes");
            }
        };
        if tokio::time::timeout(PATIENCE, come_true).await.is_err() {
            panic!("in vain for {PATIENCE:?}: {:#?}", self.requests().lines());
        }
    }

    /// What passed at a listener.
    pub fn traffic(&self, listener: Listener) -> TrafficCounts {
        let traffic = self.state.traffic.get(listener);
        TrafficCounts {
            accepted: traffic.accepted.load(Ordering::Relaxed),
            open: traffic.open.load(Ordering::Relaxed),
            body_bytes: traffic.body_bytes.load(Ordering::Relaxed),
        }
    }

    /// Forgets all requests, and counts connections and bytes from 0. Requests being answered stay forgotten.
    pub fn reset_records(&self) {
        self.state.ledger.clear();
        for listener in Listener::ALL {
            let traffic = self.state.traffic.get(listener);
            traffic.accepted.store(0, Ordering::Relaxed);
            traffic.body_bytes.store(0, Ordering::Relaxed);
        }
    }

    /// Begins all windows of the rate limit anew.
    pub fn reset_rate_limit(&self) {
        self.state.limiter.reset();
    }

    /// Makes every token that was issued invalid.
    pub fn revoke_tokens(&self) {
        self.state.tokens.revoke_all();
    }

    /// Refuses connections at all listeners, and ends those that are open.
    pub async fn stop_listening(&self) {
        for listener in Listener::ALL {
            self.stop_listening_on(listener).await;
        }
    }

    /// Refuses connections at one listener, and ends those that are open.
    pub async fn stop_listening_on(&self, listener: Listener) {
        self.listening.get(listener).stop().await;
    }

    /// Whether a listener accepts connections.
    pub async fn is_listening_on(&self, listener: Listener) -> bool {
        self.listening.get(listener).is_open().await
    }

    /// Listens again, at all listeners, on the same ports.
    ///
    /// # Errors
    ///
    /// A port was taken by another process and stayed so for five seconds.
    pub async fn resume(&self) -> io::Result<()> {
        for listener in Listener::ALL {
            self.resume_on(listener).await?;
        }
        Ok(())
    }

    /// Listens again at one listener.
    ///
    /// # Errors
    ///
    /// As [`Hub::resume`].
    pub async fn resume_on(&self, listener: Listener) -> io::Result<()> {
        self.listening.get(listener).resume().await
    }
}
