//! What the three listeners share: configuration, content, tokens, limits, faults and records.
//! Joins the parts; each part keeps its own rules.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::backend::Backend;
use crate::cdn::{self, Signer};
use crate::config::{Config, Network};
use crate::fault::{FaultBook, Moment, Plan};
use crate::http::{Reply, Request};
use crate::listener::{Listener, PerListener};
use crate::record::{Entry, Ledger};
use crate::registry::{self, RateLimiter};
use crate::server::{BoxFuture, Site, Traffic};
use crate::token::{self, Tokens};

/// The shared state of a hub.
#[derive(Debug)]
pub(crate) struct State {
    config: RwLock<Arc<Config>>,
    pub(crate) backend: Backend,
    pub(crate) tokens: Tokens,
    pub(crate) limiter: RateLimiter,
    pub(crate) signer: Signer,
    pub(crate) faults: FaultBook,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) traffic: PerListener<Traffic>,
    /// Scheme and address of each listener, once bound.
    urls: OnceLock<PerListener<String>>,
}

impl State {
    pub(crate) fn new(config: Config, backend: Backend) -> State {
        State {
            config: RwLock::new(Arc::new(config)),
            backend,
            tokens: Tokens::default(),
            limiter: RateLimiter::default(),
            signer: Signer::random(),
            faults: FaultBook::default(),
            ledger: Arc::new(Ledger::new()),
            traffic: PerListener::default(),
            urls: OnceLock::new(),
        }
    }

    /// The configuration as it is now.
    pub(crate) fn config(&self) -> Arc<Config> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        config.clone()
    }

    /// Changes the configuration; requests see it before or after, never in between.
    pub(crate) fn configure<T>(&self, change: impl FnOnce(&mut Config) -> T) -> T {
        let mut current = self.config.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut current))
    }

    /// Says where the listeners are; the first call counts.
    pub(crate) fn set_urls(&self, urls: PerListener<String>) {
        let _ = self.urls.set(urls);
    }

    /// The URL by which clients are sent to a listener, without a slash at the end.
    pub(crate) fn url(&self, listener: Listener) -> String {
        match self.config().public_urls.get(listener) {
            Some(public) => public.trim_end_matches('/').to_owned(),
            None => self.own_url(listener).to_owned(),
        }
    }

    /// The URL of a listener's address.
    pub(crate) fn own_url(&self, listener: Listener) -> &str {
        let urls = self.urls.get().expect("the listeners are bound before they serve");
        urls.get(listener)
    }
}

/// One of the three listeners, as the server sees it.
pub(crate) struct Front {
    pub(crate) listener: Listener,
    pub(crate) state: Arc<State>,
}

impl Site for Front {
    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Reply> {
        match self.listener {
            Listener::Registry => Box::pin(registry::answer(&self.state, request)),
            Listener::Token => Box::pin(token::answer(&self.state, request)),
            Listener::Cdn => Box::pin(cdn::answer(&self.state, request)),
        }
    }

    fn traffic(&self) -> &Traffic {
        self.state.traffic.get(self.listener)
    }

    fn record(&self, request: &Request) -> Option<Entry> {
        Some(self.state.ledger.enter(self.listener, request))
    }

    fn plan(&self, request: &Request, moment: Moment<'_>) -> Plan {
        Plan::look_up(&self.state.faults, self.listener, request, moment)
    }

    fn network(&self) -> Network {
        *self.state.config().network.get(self.listener)
    }
}

/// The address that a client of this peer address counts as.
pub(crate) fn client_address(peer: SocketAddr) -> String {
    peer.ip().to_string()
}
