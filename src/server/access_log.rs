//! One line and one set of counts per request, written when its body has gone out or the client has gone away.
//! Nothing that a client sent is logged as it came, but its address and its User-Agent; no credential and no URL can get in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Method, Response};

use super::body::{Body, Watch};
use crate::fill::FillError;
use crate::mirror::CacheOutcome;
use crate::oci::{Digest, Reference, RepositoryName, UpstreamName};
use crate::telemetry::{Metrics, RequestFacts};

/// Writes the access log and counts requests. Cheap to clone.
#[derive(Clone)]
pub(super) struct AccessLog {
    metrics: Arc<Metrics>,
}

/// What is known of a request so far.
pub(super) struct Entry {
    begun: Instant,
    method: Method,
    client: SocketAddr,
    user_agent: Option<String>,
    /// One of a closed set of words.
    pub(super) kind: &'static str,
    pub(super) upstream: Option<UpstreamName>,
    pub(super) repository: Option<RepositoryName>,
    pub(super) reference: Option<Reference>,
    pub(super) digest: Option<Digest>,
    pub(super) cache: Option<CacheOutcome>,
    pub(super) error: Option<String>,
}

impl Entry {
    pub(super) fn begin(method: &Method, client: SocketAddr, user_agent: Option<&HeaderValue>) -> Self {
        let user_agent = user_agent.and_then(|value| value.to_str().ok());
        Self {
            begun: Instant::now(),
            method: method.clone(),
            client,
            user_agent: user_agent.map(|text| text.chars().take(200).collect()),
            kind: "other",
            upstream: None,
            repository: None,
            reference: None,
            digest: None,
            cache: None,
            error: None,
        }
    }
}

impl AccessLog {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }

    /// Has the request of `entry` logged when `response` has been sent, or will not be.
    pub(super) fn watch(&self, entry: Entry, response: Response<Body>) -> Response<Body> {
        let status = response.status().as_u16();
        let is_empty = http_body::Body::is_end_stream(response.body());
        let watch = Sending {
            metrics: Arc::clone(&self.metrics),
            answered: Instant::now(),
            first_byte: None,
            entry,
            status,
            bytes: 0,
            is_complete: is_empty,
        };
        response.map(|body| body.watched(Box::new(watch)))
    }
}

/// A response on its way out.
struct Sending {
    metrics: Arc<Metrics>,
    entry: Entry,
    status: u16,
    /// When the headers were ready.
    answered: Instant,
    first_byte: Option<Instant>,
    bytes: u64,
    is_complete: bool,
}

impl Watch for Sending {
    fn sent(&mut self, bytes: u64) {
        self.first_byte.get_or_insert_with(Instant::now);
        self.bytes += bytes;
    }

    fn completed(&mut self) {
        self.is_complete = true;
    }

    fn failed(&mut self, error: &FillError) {
        self.entry.error = Some(error.to_string());
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let entry = &self.entry;
        let first_byte = self.first_byte.unwrap_or(self.answered).duration_since(entry.begun);
        let duration = entry.begun.elapsed();
        let outcome = entry.cache.map_or(if entry.error.is_some() { "error" } else { "none" }, CacheOutcome::as_str);
        self.metrics.request(&RequestFacts {
            kind: entry.kind,
            cache: outcome,
            status: self.status,
            bytes: self.bytes,
            first_byte,
            duration,
            is_complete: self.is_complete,
        });
        tracing::info!(
            target: "larder::access",
            client = %entry.client,
            method = %entry.method,
            kind = entry.kind,
            upstream = entry.upstream.as_ref().map(tracing::field::display),
            repository = entry.repository.as_ref().map(tracing::field::display),
            reference = entry.reference.as_ref().map(tracing::field::display),
            digest = entry.digest.as_ref().map(tracing::field::display),
            status = self.status,
            bytes = self.bytes,
            complete = self.is_complete,
            cache = outcome,
            ttfb_ms = millis(first_byte),
            duration_ms = millis(duration),
            user_agent = entry.user_agent,
            error = entry.error,
            "request"
        );
    }
}

/// Milliseconds with microsecond digits.
fn millis(duration: std::time::Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
