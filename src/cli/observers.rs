//! Joins the layers to the metrics: layers tell what happens, metrics count it, and neither knows the other.

use std::sync::Arc;
use std::time::Duration;

use crate::fill::{self, FillError, Source};
use crate::mirror::{CacheOutcome, Mirror, PrefetchObserver, PrefetchOutcome};
use crate::oci::UpstreamName;
use crate::telemetry::{Levels, Metrics, UpstreamLevels, Words};
use crate::upstream::{self, Gate, RateLimit, Unasked, UpstreamError};

/// The layers' words for what they do, as metrics know them.
pub(super) fn words() -> Words {
    Words {
        outcomes: CacheOutcome::ALL.iter().map(|outcome| outcome.as_str()).collect(),
        prefetch_outcomes: PrefetchOutcome::ALL.iter().map(|outcome| outcome.as_str()).collect(),
        refusals: Unasked::ALL.iter().map(|why| why.as_str()).collect(),
    }
}

/// Counts what upstreams are asked.
pub(super) struct UpstreamCounts(pub(super) Arc<Metrics>);

impl upstream::Observer for UpstreamCounts {
    fn asked(&self, upstream: &UpstreamName, kind: &'static str, _: &'static str, outcome: upstream::Outcome, took: Duration) {
        self.0.upstream_asked(upstream.as_str(), kind, outcome.status(), took);
    }

    fn received(&self, upstream: &UpstreamName, bytes: u64) {
        self.0.upstream_received(upstream.as_str(), bytes);
    }

    fn rate_limit(&self, upstream: &UpstreamName, limit: &RateLimit) {
        self.0.upstream_rate_limit(upstream.as_str(), limit.limit, limit.remaining);
    }

    fn unasked(&self, upstream: &UpstreamName, why: Unasked) {
        self.0.upstream_unasked(upstream.as_str(), why.as_str());
    }
}

/// Counts what fills do, and raises the alarm where an upstream sends other bytes than it should.
pub(super) struct FillCounts(pub(super) Arc<Metrics>);

impl fill::Observer for FillCounts {
    fn joined(&self) {
        self.0.fill_joined();
    }

    fn ended(&self, source: &Source, error: Option<&FillError>, begun: bool) {
        let upstream = source.upstream.as_str();
        match error {
            None => self.0.fill_ended("stored"),
            // No failure of anybody: the access log says what was asked for and not there.
            Some(FillError::Upstream(UpstreamError::NotFound)) if !begun => self.0.fill_ended("not-found"),
            Some(FillError::Unread) => {
                tracing::info!(upstream, repository = %source.repository, "a large blob that nobody reads any more is left as it is");
                self.0.fill_ended("unread");
            }
            Some(FillError::Stopped) => {
                tracing::info!(upstream, repository = %source.repository, "stopping before all of a blob has come");
            }
            Some(error) if error.is_local() => {
                tracing::warn!(upstream, repository = %source.repository, %error, "a blob could not be kept");
                self.0.fill_ended("not-stored");
            }
            Some(error) => {
                tracing::warn!(upstream, repository = %source.repository, %error, "a blob could not be fetched");
                self.0.fill_ended("failed");
            }
        }
    }

    fn rejected(&self, source: &Source, error: &FillError) {
        let upstream = source.upstream.as_str();
        tracing::error!(upstream, repository = %source.repository, %error, "wrong bytes from an upstream; they are not kept");
        self.0.verification_failed(upstream);
    }

    fn resumed(&self, source: &Source) {
        self.0.fill_resumed(source.upstream.as_str());
    }
}

/// Counts how prefetches end.
pub(super) struct PrefetchCounts(pub(super) Arc<Metrics>);

impl PrefetchObserver for PrefetchCounts {
    fn ended(&self, upstream: &UpstreamName, outcome: PrefetchOutcome) {
        self.0.prefetch_ended(upstream.as_str(), outcome.as_str());
    }
}

/// What the metrics show of an upstream's state.
pub(super) fn upstream_levels(gate: &Gate) -> UpstreamLevels {
    let standing = gate.standing();
    UpstreamLevels {
        is_open: standing.is_open(),
        is_offline: standing.is_offline,
        limited_seconds: standing.limited_for().as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX),
    }
}

/// What the metrics show of the mirror's state. Blocks, for microseconds as a rule.
pub(super) fn levels(mirror: &Mirror) -> Levels {
    let store = mirror.store().stats();
    Levels {
        fills_in_flight: mirror.fills().count() as u64,
        cache_bytes: store.bytes,
        cache_reserved_bytes: store.reserved,
        cache_pinned_bytes: mirror.store().pinned_blocking().bytes,
        cache_capacity_bytes: store.max_bytes,
        cache_blobs: store.blobs,
        evictions: store.evictions,
        evicted_bytes: store.evicted_bytes,
        verified_bytes: store.verified_bytes,
        damaged: store.damaged,
        is_degraded: mirror.store().trouble().is_some(),
        disk_errors: store.disk_errors.iter().map(|(_, count)| count).sum(),
    }
}
