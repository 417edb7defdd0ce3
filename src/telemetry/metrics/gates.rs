//! Whether upstreams are asked, and how often they were not. What follows from it is not this module's.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Labels, of};

/// What is read off about one upstream when metrics are scraped.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpstreamLevels {
    /// None of its endpoints is believed to answer.
    pub is_open: bool,
    pub is_offline: bool,
    /// For how long nothing is asked because it limits the rate.
    pub limited_seconds: u64,
}

#[derive(Default)]
pub(super) struct GateMetrics {
    open: Family<Labels<1>, Gauge<u64, AtomicU64>>,
    offline: Family<Labels<1>, Gauge<u64, AtomicU64>>,
    limited: Family<Labels<1>, Gauge<u64, AtomicU64>>,
    refusals: Family<Labels<2>, Counter>,
}

impl GateMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register("upstream_open", "1 while an upstream is left alone because it does not answer", this.open.clone());
        registry.register("upstream_offline", "1 for an upstream that is not to be asked", this.offline.clone());
        registry.register_with_unit(
            "upstream_limited",
            "For how much longer nothing is asked of an upstream because it limits the rate",
            Unit::Seconds,
            this.limited.clone(),
        );
        registry.register("upstream_refusals", "Questions that an upstream was not asked, by why", this.refusals.clone());
        this
    }

    /// Has every series of `upstream` exist before it counts.
    pub(super) fn zero(&self, upstream: &str, reasons: &[&'static str]) {
        self.set(upstream, UpstreamLevels::default());
        for reason in reasons {
            let _ = self.refusals.get_or_create(&refusal(upstream, reason));
        }
    }

    pub(super) fn set(&self, upstream: &str, levels: UpstreamLevels) {
        self.open.get_or_create(&of(upstream)).set(levels.is_open.into());
        self.offline.get_or_create(&of(upstream)).set(levels.is_offline.into());
        self.limited.get_or_create(&of(upstream)).set(levels.limited_seconds);
    }

    pub(super) fn refused(&self, upstream: &str, reason: &'static str) {
        self.refusals.get_or_create(&refusal(upstream, reason)).inc();
    }
}

fn refusal(upstream: &str, reason: &'static str) -> Labels<2> {
    Labels([("upstream", upstream.to_owned().into()), ("reason", reason.into())])
}
