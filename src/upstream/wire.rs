//! One HTTP request and the headers of its answer: before its deadline, seen by the observer, with every failure put
//! into this layer's words. It knows nothing of challenges, redirects or what a status means.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{Method, Response};
use tokio::time::{Instant, timeout};

use super::address::NotPublic;
use super::clients::{Clients, Proxies};
use super::connect::ConnectTimedOut;
use super::error::{BuildError, Phase, Refusal, UpstreamError};
use super::rate::Rate;
use super::rate_limit::RateLimit;
use super::redirect::{Hop, Reach};
use super::resolve::{Resolver, Unresolved};
use super::settings::RegistryConfig;
use super::{Observer, Outcome};
use crate::oci::UpstreamName;

/// Bodies of errors, redirects and challenges up to this size are read to keep the connection; longer ones cost it.
const SMALL_BODY_BYTES: usize = 8 * 1024;
/// The longest time that such a body may take: a connection is not worth more.
const SMALL_BODY_PATIENCE: Duration = Duration::from_secs(2);
/// The longest text of a failure that is kept.
const REASON_MAX_CHARS: usize = 300;

/// The way to one upstream.
pub(super) struct Wire {
    pub(super) upstream: UpstreamName,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) stall_timeout: Duration,
    pub(super) headers_timeout: Duration,
    clients: Clients,
    rate: Arc<Rate>,
}

/// One request. `kind` is the observer's word for it.
pub(super) struct Request<'a> {
    pub(super) kind: &'static str,
    pub(super) method: Method,
    pub(super) hop: &'a Hop,
    pub(super) headers: HeaderMap,
}

impl Wire {
    pub(super) fn new(
        config: &RegistryConfig,
        proxies: Proxies,
        resolver: Resolver,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, BuildError> {
        Ok(Self {
            upstream: config.name.clone(),
            observer,
            stall_timeout: config.stall_timeout,
            headers_timeout: config.headers_timeout,
            clients: Clients::new(config, proxies, resolver)?,
            rate: Arc::clone(&config.rate),
        })
    }

    /// Sends `request` and waits for the headers of its answer, of whatever status.
    pub(super) async fn send(&self, request: Request<'_>) -> Result<Response, UpstreamError> {
        self.rate.note_request();
        let Request { kind, method, hop, mut headers } = request;
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let verb = if method == Method::HEAD { "HEAD" } else { "GET" };
        let start = Instant::now();
        let sending = self.clients.towards(hop, kind == "blob").request(method, hop.url.clone()).headers(headers).send();
        let result = match timeout(self.headers_timeout, sending).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(explain(error)),
            Err(_) => Err(UpstreamError::Timeout { phase: Phase::Headers }),
        };
        let took = start.elapsed();
        let outcome = result.as_ref().map_or(Outcome::Failed, |response| Outcome::Answered(response.status().as_u16()));
        self.observer.asked(&self.upstream, kind, verb, outcome, took);
        let host = hop.url.host_str().unwrap_or_default();
        match &result {
            Ok(response) => {
                tracing::debug!(upstream = %self.upstream, kind, verb, host, status = outcome.status(), ?took, "asked");
                if let Some(limit) = RateLimit::of(response.headers()).filter(|_| hop.reach == Reach::Own) {
                    tracing::debug!(upstream = %self.upstream, ?limit, "told of its limit");
                    self.observer.rate_limit(&self.upstream, &limit);
                }
            }
            Err(error) => tracing::debug!(upstream = %self.upstream, kind, verb, host, %error, ?took, "asked in vain"),
        }
        result
    }
}

/// Reads the body of an answer that is not passed on, if it is small, so that its connection can be used again.
///
/// Gives what was read of it, at most 8 KiB.
pub(super) async fn small_body(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = SMALL_BODY_BYTES - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                break;
            }
        }
    };
    // What has come in time is good enough for what it is used for.
    let _ = timeout(SMALL_BODY_PATIENCE, reading).await;
    body
}

/// The next bytes of a body, `None` at its end.
pub(super) async fn next_chunk(response: &mut Response, stall_timeout: Duration) -> Result<Option<Bytes>, UpstreamError> {
    match timeout(stall_timeout, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(UpstreamError::Broken { reason: reason(&error.without_url()) }),
        Err(_) => Err(UpstreamError::Timeout { phase: Phase::Body }),
    }
}

/// The HTTP client's error in our words, without any URL.
fn explain(error: reqwest::Error) -> UpstreamError {
    let error = error.without_url();
    if let Some(refused) = sources(&error).find_map(|source| source.downcast_ref::<NotPublic>()) {
        return Refusal::Address { host: refused.host.clone() }.into();
    }
    if sources(&error).any(|source| source.is::<ConnectTimedOut>()) {
        return UpstreamError::Timeout { phase: Phase::Connect };
    }
    if sources(&error).any(|source| matches!(source.downcast_ref(), Some(Unresolved::Late))) {
        return UpstreamError::Timeout { phase: Phase::Resolve };
    }
    match (error.is_connect(), error.is_timeout()) {
        (true, true) => UpstreamError::Timeout { phase: Phase::Connect },
        (true, false) => UpstreamError::Unreachable { reason: reason(&error) },
        (false, _) => UpstreamError::NoAnswer { reason: reason(&error) },
    }
}

/// What lies beneath `error`: its own text and that of the client's connection pool say only that something failed.
fn reason(error: &reqwest::Error) -> String {
    let texts: Vec<_> = sources(error)
        .filter(|source| !source.is::<hyper_util::client::legacy::Error>())
        .map(|source| source.to_string())
        .collect();
    let text = if texts.is_empty() { error.to_string() } else { texts.join(": ") };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_MAX_CHARS).collect()
}

fn sources(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&error| error.source())
}
