//! The HTTP clients of one upstream, and which of them goes where. A client is a pool of connections with one set of rules: none of
//! them follows a redirect, decodes a body or keeps a cookie.

use std::time::Duration;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{Client, ClientBuilder};
use url::Url;

use super::address::PublicOnly;
use super::connect::ConnectDeadline;
use super::error::BuildError;
use super::redirect::{Hop, Reach};
use super::resolve::Resolver;
use super::settings::RegistryConfig;
use super::tls;

/// How many connections to one host wait for the next request, and for how long: what comes in bursts is over soon.
const IDLE_CONNECTIONS: usize = 4;
const IDLE: Duration = Duration::from_secs(30);

/// One client for each kind of traffic.
pub(super) struct Clients {
    /// Small answers of the registry, its realm and its peers: HTTP/2 where they speak it.
    control: Client,
    /// Their blobs: HTTP/1.1, because transfers at once are to have a TCP connection each.
    bulk: Client,
    /// Everything from elsewhere: HTTP/1.1, to public addresses, never through a proxy.
    foreign: Client,
    resolver: Resolver,
    proxies: Proxies,
}

/// The proxies between us and the upstreams.
pub(super) struct Proxies {
    /// Tells whether a URL goes through one.
    matcher: Matcher,
    /// What the HTTP client is told. `None` leaves it to read the environment, with the same code as our matcher.
    given: Option<Vec<reqwest::Proxy>>,
}

impl Clients {
    pub(super) fn new(config: &RegistryConfig, proxies: Proxies, resolver: Resolver) -> Result<Self, BuildError> {
        let failed = |error: reqwest::Error| BuildError::Client(error.without_url().to_string());
        let http2 = tls::config(&config.ca, &["h2", "http/1.1"])?;
        let http1 = tls::config(&config.ca, &["http/1.1"])?;
        let own = || proxies.apply(base(config)).dns_resolver(resolver.clone());
        let control = own().tls_backend_preconfigured(http2).build().map_err(failed)?;
        let bulk = own().http1_only().tls_backend_preconfigured(http1.clone()).build().map_err(failed)?;
        let foreign = base(config)
            .http1_only()
            .no_proxy()
            .dns_resolver(PublicOnly(resolver.clone()))
            .tls_backend_preconfigured(http1)
            .build()
            .map_err(failed)?;
        Ok(Self { control, bulk, foreign, resolver, proxies })
    }

    /// The client that may go to `hop`; `bulk` if a blob is to come back.
    ///
    /// A foreign name that goes through a proxy is resolved by the proxy, which is the operator's and not ours to second-guess.
    pub(super) fn towards(&self, hop: &Hop, bulk: bool) -> &Client {
        if let (Some(host), Some(port)) = (hop.url.host_str(), hop.url.port_or_known_default()) {
            self.resolver.proven().expect(host, port);
        }
        match hop.reach {
            Reach::Foreign if !self.proxies.cover(&hop.url) => &self.foreign,
            Reach::Foreign => &self.bulk,
            Reach::Own | Reach::Known if bulk => &self.bulk,
            Reach::Own | Reach::Known => &self.control,
        }
    }
}

/// What all clients have in common. Codings and cookies are features of the client library that are switched off for this crate, but
/// any other crate in the build could switch them on: so they are refused here as well.
fn base(config: &RegistryConfig) -> ClientBuilder {
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .connector_layer(ConnectDeadline(config.connect_timeout))
        // This one bounds the whole, and so how much of it one of several addresses may take.
        .connect_timeout(config.resolve_timeout + config.connect_timeout)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .pool_idle_timeout(IDLE)
        .user_agent(config.user_agent.as_str())
}

impl Proxies {
    /// Those of `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    pub(super) fn from_environment() -> Self {
        Self { matcher: Matcher::from_env(), given: None }
    }

    fn apply(&self, builder: ClientBuilder) -> ClientBuilder {
        match &self.given {
            None => builder,
            Some(given) => given.iter().cloned().fold(builder.no_proxy(), ClientBuilder::proxy),
        }
    }

    fn cover(&self, url: &Url) -> bool {
        url.as_str().parse::<Uri>().is_ok_and(|uri| self.matcher.intercept(&uri).is_some())
    }
}

#[cfg(test)]
impl Proxies {
    /// Tests talk to this machine, whatever the environment says.
    pub(super) fn none() -> Self {
        Self { matcher: Matcher::builder().build(), given: Some(Vec::new()) }
    }

    /// Everything goes through the proxy at `url`.
    pub(super) fn one(url: &str) -> Self {
        let proxy = reqwest::Proxy::all(url).expect("the test gives a URL");
        Self { matcher: Matcher::builder().all(url.to_owned()).build(), given: Some(vec![proxy]) }
    }
}
