//! The real gate, before the simulated registry. The mirror's questions are watched here, where they come in: what the gate asks on its
//! own account, and how long questions wait in its queue, is none of the mirror's doing.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::journal::Journal;
use super::registry::{HEADERS_TIMEOUT, Registry, SimulatedOrigin, describe};
use super::schedule::Schedule;
use crate::config::Reserve;
use crate::oci::Reference;
use crate::upstream::{Answer, Gate, GateConfig, Method, Observer, Origin, Question, Rate, RateLimit, Target, UpstreamError};

/// The gate as the mirror sees it, which asks no tag more often than it is allowed to.
pub(super) struct WatchedGate {
    gate: Gate,
    registry: Registry,
    journal: Journal,
    /// For how long a tag is fresh: it is not to be asked for again before.
    fresh: Duration,
}

impl WatchedGate {
    /// The gate before `registry`.
    pub(super) fn before(registry: &Registry, schedule: &Schedule, journal: &Journal, observer: Arc<dyn Observer>) -> Self {
        let config = GateConfig {
            upstream: "docker.io".parse().expect("a name"),
            offline: false,
            reserve: Reserve::Share(10),
            concurrent_requests: schedule.concurrent_requests,
            rate: Arc::new(Rate::new(NonZeroU32::new(1000).expect("it is not zero"))),
            queue_timeout: HEADERS_TIMEOUT,
            headers_timeout: HEADERS_TIMEOUT,
        };
        let origin = Arc::new(SimulatedOrigin(registry.clone()));
        let gate = Gate::new(config, ("simulated".to_owned(), origin), Vec::new(), observer);
        // Lifetimes differ from tag to tag, and are shorter by a tenth at the most.
        let fresh = schedule.fresh.mul_f64(0.9);
        Self { gate, registry: registry.clone(), journal: journal.clone(), fresh }
    }
}

impl Origin for WatchedGate {
    fn ask(&self, question: Question) -> BoxFuture<'static, Result<Answer, UpstreamError>> {
        let text = describe(&question);
        // A HEAD comes first, each time that it is asked what a tag is.
        if matches!(question.target, Target::Manifest(Reference::Tag(_)))
            && question.method == Method::Head
            && let Some(since) = self.registry.since_last_asked(&text)
            && since < self.fresh
            && self.registry.is_fair()
        {
            self.journal.violation(format_args!("P4: {text} is asked again after {since:?}"));
        }
        self.gate.ask(question)
    }

    fn refusal(&self) -> Option<UpstreamError> {
        self.gate.refusal()
    }

    fn content_refusal(&self) -> Option<UpstreamError> {
        self.gate.content_refusal()
    }

    fn saving(&self) -> Option<UpstreamError> {
        self.gate.saving()
    }

    fn unreserved(&self) -> Option<u64> {
        self.gate.unreserved()
    }

    fn rate_limit(&self) -> Option<RateLimit> {
        self.gate.rate_limit()
    }
}
