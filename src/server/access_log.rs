//! One line and one set of counts per request, written when its body has gone out or the client has gone away.
//! Nothing that a client sent is logged as it came, but its address and its User-Agent; no credential and no URL can get in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Method, Response};

use super::body::{Body, Watch};
use crate::fill::FillError;
use crate::mirror::{CacheOutcome, Caller};
use crate::oci::{Digest, Reference, RepositoryName, UpstreamName};
use crate::telemetry::{Metrics, RequestFacts, RequestKind};

/// The status that is logged for a client that left before its answer began. It is never sent.
const CLIENT_LEFT: u16 = 499;

/// A request, from its head to the end of its answer. It is logged and counted when it is dropped, however it went.
pub(super) struct Entry {
    metrics: Arc<Metrics>,
    begun: Instant,
    method: Method,
    client: SocketAddr,
    user_agent: Option<HeaderValue>,
    pub(super) kind: RequestKind,
    pub(super) upstream: Option<UpstreamName>,
    pub(super) repository: Option<RepositoryName>,
    pub(super) reference: Option<Reference>,
    pub(super) digest: Option<Digest>,
    pub(super) cache: Option<CacheOutcome>,
    pub(super) error: Option<String>,
    status: u16,
    /// When the headers were ready.
    answered: Option<Instant>,
    first_byte: Option<Instant>,
    bytes: u64,
    is_complete: bool,
}

impl Entry {
    pub(super) fn begin(metrics: Arc<Metrics>, method: &Method, client: SocketAddr, user_agent: Option<&HeaderValue>) -> Self {
        Self {
            metrics,
            begun: Instant::now(),
            method: method.clone(),
            client,
            user_agent: user_agent.cloned(),
            kind: RequestKind::Other,
            upstream: None,
            repository: None,
            reference: None,
            digest: None,
            cache: None,
            error: None,
            status: CLIENT_LEFT,
            answered: None,
            first_byte: None,
            bytes: 0,
            is_complete: false,
        }
    }

    /// On whose behalf it is answered.
    pub(super) fn caller(&self) -> Caller {
        Caller::Client(self.client.ip())
    }

    /// The request is answered with `response`; the entry goes with its body.
    pub(super) fn answered(mut self, response: Response<Body>) -> Response<Body> {
        self.status = response.status().as_u16();
        self.answered = Some(Instant::now());
        self.is_complete = http_body::Body::is_end_stream(response.body());
        if response.body().is_at_hand() {
            self.first_byte = self.answered;
        }
        response.map(|body| body.watched(Box::new(self)))
    }
}

impl Watch for Entry {
    fn sent(&mut self, bytes: u64) {
        self.first_byte.get_or_insert_with(Instant::now);
        self.bytes += bytes;
    }

    fn completed(&mut self) {
        self.is_complete = true;
    }

    fn failed(&mut self, error: &FillError) {
        self.error = Some(error.to_string());
    }

    fn unsent(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.is_complete = false;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let duration = self.begun.elapsed();
        let first_byte = self.first_byte.or(self.answered).map_or(duration, |at| at.duration_since(self.begun));
        let outcome = self.cache.map_or(if self.error.is_some() { "error" } else { "none" }, CacheOutcome::as_str);
        self.metrics.request(&RequestFacts {
            kind: self.kind,
            cache: outcome,
            status: self.status,
            bytes: self.bytes,
            first_byte,
            duration,
            is_saved: self.cache.is_some_and(CacheOutcome::is_saving),
            is_complete: self.is_complete,
        });
        tracing::info!(
            target: "larder::access",
            client = %self.client,
            method = %self.method,
            kind = self.kind.as_str(),
            upstream = self.upstream.as_ref().map(tracing::field::display),
            repository = self.repository.as_ref().map(tracing::field::display),
            reference = self.reference.as_ref().map(tracing::field::display),
            digest = self.digest.as_ref().map(tracing::field::display),
            status = self.status,
            bytes = self.bytes,
            complete = self.is_complete,
            cache = outcome,
            ttfb_ms = millis(first_byte),
            duration_ms = millis(duration),
            user_agent = self.user_agent.as_ref().and_then(told),
            error = self.error,
            "request"
        );
    }
}

/// What is logged of a User-Agent: its beginning.
fn told(user_agent: &HeaderValue) -> Option<&str> {
    // Visible ASCII, so that any place is between two characters.
    user_agent.to_str().ok().map(|text| text.get(..200).unwrap_or(text))
}

/// Milliseconds with microsecond digits.
fn millis(duration: std::time::Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
