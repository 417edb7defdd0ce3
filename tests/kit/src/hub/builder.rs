//! Starts a [`Hub`].
//! Binds and wires the parts, and leaves the rest to them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Hub;
use crate::backend::Backend;
use crate::config::{Auth, Config, Network, RateLimit};
use crate::content::{Library, Repository};
use crate::listener::{Listener, PerListener};
use crate::origin::{Origin, OriginError};
use crate::server::{Listening, Site, Socket};
use crate::state::{Front, State};
use crate::tls::{Tls, TlsError};

/// Why a hub did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be listened at.
    #[error("the {listener} listener cannot be bound to {address}")]
    Bind {
        /// Which.
        listener: Listener,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The origin cannot be used.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Prepares a [`Hub`].
#[derive(Debug)]
pub struct HubBuilder {
    addresses: PerListener<SocketAddr>,
    tls: PerListener<bool>,
    tls_names: Vec<String>,
    origin: Option<String>,
    library: Library,
    config: Config,
}

impl Default for HubBuilder {
    fn default() -> HubBuilder {
        HubBuilder {
            addresses: PerListener::from_fn(|_| SocketAddr::from(([127, 0, 0, 1], 0))),
            tls: PerListener::default(),
            tls_names: Vec::new(),
            origin: None,
            library: Library::default(),
            config: Config::default(),
        }
    }
}

impl HubBuilder {
    /// The address of a listener; port 0 takes a free one.
    #[must_use]
    pub fn address(mut self, listener: Listener, address: impl Into<SocketAddr>) -> HubBuilder {
        *self.addresses.get_mut(listener) = address.into();
        self
    }

    /// Content.
    #[must_use]
    pub fn repository(self, repository: Repository) -> HubBuilder {
        self.library.put(repository);
        self
    }

    /// Takes what is in no repository in memory from this registry, `http://host:port`: proxy mode.
    #[must_use]
    pub fn origin(mut self, url: &str) -> HubBuilder {
        self.origin = Some(url.to_owned());
        self
    }

    /// Speaks TLS at this listener.
    #[must_use]
    pub fn tls(mut self, listener: Listener) -> HubBuilder {
        *self.tls.get_mut(listener) = true;
        self
    }

    /// A DNS name for which the certificate is good, beside `localhost` and the listeners' addresses.
    #[must_use]
    pub fn tls_name(mut self, name: &str) -> HubBuilder {
        self.tls_names.push(name.to_owned());
        self
    }

    /// How the registry asks for credentials.
    #[must_use]
    pub fn auth(self, auth: Auth) -> HubBuilder {
        self.configure(|config| config.auth = auth)
    }

    /// A user and a password.
    #[must_use]
    pub fn user(self, name: &str, password: &str) -> HubBuilder {
        self.configure(|config| {
            config.users.insert(name.to_owned(), password.to_owned());
        })
    }

    /// A repository that only these users may read.
    #[must_use]
    pub fn private(self, repository: &str, users: &[&str]) -> HubBuilder {
        let users = users.iter().map(|user| (*user).to_owned()).collect();
        self.configure(|config| {
            config.private.insert(repository.to_owned(), users);
        })
    }

    /// A limit on the GETs of manifests.
    #[must_use]
    pub fn rate_limit(self, limit: RateLimit) -> HubBuilder {
        self.configure(|config| config.rate_limit = Some(limit))
    }

    /// Serves blobs at the registry, without redirects to the CDN.
    #[must_use]
    pub fn without_redirects(self) -> HubBuilder {
        self.configure(|config| config.redirect_blobs = false)
    }

    /// Puts a wide-area network before all listeners: so much latency, and so many bytes a second on each connection.
    #[must_use]
    pub fn wan(self, latency: Duration, connection_rate: Option<u64>) -> HubBuilder {
        let network = Network { latency, connection_rate, total_rate: None };
        self.configure(|config| config.network = PerListener::from_fn(|_| network))
    }

    /// Turns any switch.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> HubBuilder {
        change(&mut self.config);
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// An address cannot be bound, the origin's URL is malformed, or a TLS name is.
    pub async fn start(self) -> Result<Hub, StartError> {
        let origin = self.origin.as_deref().map(Origin::new).transpose()?;
        let sockets = PerListener {
            registry: self.bind(Listener::Registry).await?,
            token: self.bind(Listener::Token).await?,
            cdn: self.bind(Listener::Cdn).await?,
        };
        let address = |listener| sockets.get(listener).1;
        let urls = PerListener::from_fn(|listener| {
            let scheme = if *self.tls.get(listener) { "https" } else { "http" };
            format!("{scheme}://{}", address(listener))
        });
        let tls = match Listener::ALL.iter().any(|listener| *self.tls.get(*listener)) {
            false => None,
            true => {
                let addresses = Listener::ALL.map(|listener| address(listener).ip().to_string());
                let mut names = self.tls_names;
                names.push("localhost".to_owned());
                names.extend(addresses);
                Some(Tls::new(names)?)
            }
        };

        let backend = Backend { library: self.library, origin };
        let state = Arc::new(State::new(self.config, backend));
        state.set_urls(urls);
        let start = |listener, (socket, address): (Socket, SocketAddr)| {
            let site: Arc<dyn Site> = Arc::new(Front { listener, state: state.clone() });
            let acceptor = tls.as_ref().filter(|_| *self.tls.get(listener));
            let acceptor = acceptor.map(|tls| tls.acceptor.clone());
            Listening::start(socket, address, site, acceptor)
        };
        let listening = PerListener {
            registry: start(Listener::Registry, sockets.registry),
            token: start(Listener::Token, sockets.token),
            cdn: start(Listener::Cdn, sockets.cdn),
        };
        Ok(Hub { state, listening, ca_pem: tls.map(|tls| tls.ca_pem) })
    }

    async fn bind(&self, listener: Listener) -> Result<(Socket, SocketAddr), StartError> {
        let address = *self.addresses.get(listener);
        Socket::bind(address)
            .await
            .and_then(|socket| socket.address().map(|bound| (socket, bound)))
            .map_err(|source| StartError::Bind { listener, address, source })
    }
}
