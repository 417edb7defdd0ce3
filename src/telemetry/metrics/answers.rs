//! What is counted of the answers to clients. Each has a handful of series, and a busy mirror gives a hundred thousand answers in a
//! second: the series are looked up by their labels once, at the start, and never again.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Labels, Totals, class, seconds};

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// `GET /v2/`.
    Version,
    Manifest,
    Blob,
    Tags,
    Referrers,
    /// What is not of the registry API, or not for reading.
    Other,
}

/// A request that has been answered.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts {
    pub kind: RequestKind,
    /// What the cache did: one of [`Words::outcomes`](super::Words::outcomes), `none` or `error`.
    pub cache: &'static str,
    pub status: u16,
    pub bytes: u64,
    pub first_byte: Duration,
    pub duration: Duration,
    /// Whether no upstream was asked for the body on behalf of this request.
    pub is_saved: bool,
    /// Whether all of the body was handed to the connection.
    pub is_complete: bool,
}

/// The series.
pub(super) struct AnswerMetrics {
    /// By [`RequestKind`].
    kinds: [OfKind; RequestKind::ALL.len()],
    responses: [(&'static str, Counter); 4],
    saved_bytes: Counter,
    incomplete: Counter,
}

/// The series of one kind of request.
struct OfKind {
    /// By what the cache did.
    requests: Vec<(&'static str, Counter)>,
    bytes: Counter,
    first_byte: Histogram,
    duration: Histogram,
}

impl RequestKind {
    const ALL: [Self; 6] = [Self::Version, Self::Manifest, Self::Blob, Self::Tags, Self::Referrers, Self::Other];

    /// One word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Other => "other",
        }
    }
}

impl AnswerMetrics {
    /// `outcomes` are the words for what the cache does.
    pub(super) fn register(registry: &mut Registry, outcomes: &[&'static str]) -> Self {
        let requests: Family<Labels<2>, Counter> = Family::default();
        let responses: Family<Labels<1>, Counter> = Family::default();
        let bytes: Family<Labels<1>, Counter> = Family::default();
        let first_byte = Family::<Labels<1>, _, fn() -> Histogram>::new_with_constructor(seconds);
        let duration = Family::<Labels<1>, _, fn() -> Histogram>::new_with_constructor(seconds);
        let (saved_bytes, incomplete) = (Counter::default(), Counter::default());
        registry.register("requests", "Requests of clients, by kind and by what the cache did", requests.clone());
        registry.register("responses", "Responses to clients, by class of status", responses.clone());
        registry.register_with_unit("response", "Bytes of bodies sent to clients", Unit::Bytes, bytes.clone());
        registry.register_with_unit(
            "saved",
            "Bytes of bodies sent to clients that no upstream was asked for on their behalf",
            Unit::Bytes,
            saved_bytes.clone(),
        );
        registry.register("incomplete_responses", "Responses whose body was not sent to its end", incomplete.clone());
        let about = "From a request to the first byte of its body";
        registry.register_with_unit("time_to_first_byte", about, Unit::Seconds, first_byte.clone());
        let about = "From a request to the end of its answer";
        registry.register_with_unit("request_duration", about, Unit::Seconds, duration.clone());

        let kinds = RequestKind::ALL.map(|kind| {
            let labels = Labels([("kind", kind.as_str().into())]);
            let of_outcome = |outcome: &'static str| {
                let labels = Labels([("kind", kind.as_str().into()), ("cache", outcome.into())]);
                (outcome, requests.get_or_create(&labels).clone())
            };
            OfKind {
                requests: outcomes.iter().copied().chain(["none", "error"]).map(of_outcome).collect(),
                bytes: bytes.get_or_create(&labels).clone(),
                first_byte: first_byte.get_or_create(&labels).clone(),
                duration: duration.get_or_create(&labels).clone(),
            }
        });
        let of_status = |status: &'static str| (status, responses.get_or_create(&Labels([("status", status.into())])).clone());
        Self { kinds, responses: ["2xx", "3xx", "4xx", "5xx"].map(of_status), saved_bytes, incomplete }
    }

    pub(super) fn count(&self, facts: &RequestFacts) {
        let series = &self.kinds[facts.kind as usize];
        count_one(&series.requests, facts.cache);
        count_one(&self.responses, class(facts.status));
        series.bytes.inc_by(facts.bytes);
        series.first_byte.observe(facts.first_byte.as_secs_f64());
        series.duration.observe(facts.duration.as_secs_f64());
        if facts.is_saved {
            self.saved_bytes.inc_by(facts.bytes);
        }
        if !facts.is_complete {
            self.incomplete.inc();
        }
    }

    /// Adds up what was counted of manifests and blobs.
    pub(super) fn sum_up(&self, totals: &mut Totals) {
        totals.saved_bytes = self.saved_bytes.get();
        for kind in [RequestKind::Manifest, RequestKind::Blob] {
            let series = &self.kinds[kind as usize];
            totals.sent_bytes += series.bytes.get();
            for (outcome, count) in &series.requests {
                *totals.outcomes.entry(outcome).or_default() += count.get();
            }
        }
    }
}

/// Counts what has this word.
fn count_one(series: &[(&'static str, Counter)], word: &str) {
    let found = series.iter().find(|(known, _)| *known == word);
    debug_assert!(found.is_some(), "{word:?} is none of the words");
    if let Some((_, counter)) = found {
        counter.inc();
    }
}
