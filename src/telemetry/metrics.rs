//! Metrics in Prometheus' text form. Every series exists from the start, and every label has a closed set of values: never a
//! repository, a tag, a digest or a client.

mod answers;
mod gates;
mod levels;
mod totals;

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

pub use answers::{RequestFacts, RequestKind};
pub use gates::UpstreamLevels;
pub use levels::Levels;
pub use totals::{Totals, UpstreamTotals};

use answers::AnswerMetrics;
use gates::GateMetrics;
use levels::LevelGauges;

/// Upper bounds of the histograms of durations, in seconds: a cached manifest to a large layer over a slow link.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// The kinds of requests that upstreams are asked.
const UPSTREAM_KINDS: [&str; 5] = ["manifest", "blob", "tags", "referrers", "token"];

/// How requests end: by the class of their status, with the one apart that matters most.
const STATUSES: [&str; 6] = ["2xx", "3xx", "4xx", "429", "5xx", "failed"];

/// All metrics.
pub struct Metrics {
    registry: Registry,
    /// The values of the label `upstream`.
    upstreams: Vec<String>,
    answers: AnswerMetrics,
    connections: Gauge,
    upstream_requests: Family<Labels<3>, Counter>,
    upstream_bytes: Family<Labels<1>, Counter>,
    upstream_duration: Family<Labels<1>, Histogram, fn() -> Histogram>,
    upstream_ratelimit_limit: Family<Labels<1>, Gauge>,
    upstream_ratelimit_remaining: Family<Labels<1>, Gauge>,
    fill_joins: Counter,
    fill_resumes: Family<Labels<1>, Counter>,
    fills_ended: Family<Labels<1>, Counter>,
    verification_failures: Family<Labels<1>, Counter>,
    prefetches: Family<Labels<2>, Counter>,
    gates: GateMetrics,
    levels: Mutex<LevelGauges>,
}

/// The words that other layers have for what they do.
#[derive(Clone, Debug)]
pub struct Words {
    /// For what the cache can do for a request.
    pub outcomes: Vec<&'static str>,
    /// For how a prefetch ends.
    pub prefetch_outcomes: Vec<&'static str>,
    /// For why an upstream is not asked.
    pub refusals: Vec<&'static str>,
}

/// Labels of a series: names with values out of closed sets, or the names of configured upstreams.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Labels<const N: usize>([(&'static str, std::borrow::Cow<'static, str>); N]);

impl<const N: usize> EncodeLabelSet for Labels<N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        use prometheus_client::encoding::EncodeLabel;
        for (name, value) in &self.0 {
            (*name, value.as_ref()).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

impl Metrics {
    /// The media type of [`Metrics::encode`].
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Metrics for `upstreams`.
    pub fn new<'a>(version: &'static str, upstreams: impl IntoIterator<Item = &'a str>, words: &Words) -> Self {
        let mut registry = Registry::with_prefix("larder");
        let upstreams: Vec<String> = upstreams.into_iter().map(str::to_owned).collect();
        let connections = Gauge::default();
        let upstream_requests = Family::default();
        let upstream_bytes = Family::default();
        let upstream_duration = Family::new_with_constructor(seconds as fn() -> Histogram);
        let upstream_ratelimit_limit = Family::default();
        let upstream_ratelimit_remaining = Family::default();
        let fill_joins = Counter::default();
        let fill_resumes = Family::default();
        let fills_ended = Family::default();
        let verification_failures = Family::default();
        let prefetches = Family::default();

        let build: Family<Labels<1>, Gauge> = Family::default();
        build.get_or_create(&Labels([("version", version.into())])).set(1);
        registry.register("build_info", "The version of Larder", build);
        let answers = AnswerMetrics::register(&mut registry, &words.outcomes);
        registry.register("connections", "Connections of clients", connections.clone());
        registry.register(
            "upstream_requests",
            "HTTP requests to upstreams, by upstream, kind and class of status",
            upstream_requests.clone(),
        );
        registry.register_with_unit(
            "upstream_received",
            "Bytes of bodies read from upstreams",
            Unit::Bytes,
            upstream_bytes.clone(),
        );
        registry.register_with_unit(
            "upstream_duration",
            "From a request to an upstream to its headers",
            Unit::Seconds,
            upstream_duration.clone(),
        );
        registry.register(
            "upstream_ratelimit_limit",
            "Pulls that the upstream last said it allows in a window; -1 while it has said nothing",
            upstream_ratelimit_limit.clone(),
        );
        registry.register(
            "upstream_ratelimit_remaining",
            "Pulls that the upstream last said are left; -1 while it has said nothing",
            upstream_ratelimit_remaining.clone(),
        );
        registry.register("fill_joins", "Requests that joined a fill under way", fill_joins.clone());
        registry.register("fill_resumes", "Times that a fill asked again after its upstream had failed", fill_resumes.clone());
        registry.register("fills_ended", "Fills that ended, by how", fills_ended.clone());
        registry.register(
            "verification_failures",
            "Contents whose bytes were not what their digest or size says: never kept, never served whole",
            verification_failures.clone(),
        );
        registry.register("prefetches", "Pulled manifests whose content was looked after, by how that ended", prefetches.clone());
        let gates = GateMetrics::register(&mut registry);
        // Two scrapes at once must not both raise a counter by the same difference.
        let levels = Mutex::new(LevelGauges::register(&mut registry));
        let this = Self {
            registry,
            upstreams,
            answers,
            connections,
            upstream_requests,
            upstream_bytes,
            upstream_duration,
            upstream_ratelimit_limit,
            upstream_ratelimit_remaining,
            fill_joins,
            fill_resumes,
            fills_ended,
            verification_failures,
            prefetches,
            gates,
            levels,
        };
        this.zero(words);
        this
    }

    /// Has every series exist before it counts, so that a rate over the first event is not lost.
    fn zero(&self, words: &Words) {
        for result in ["stored", "not-stored", "not-found", "unread", "failed"] {
            let _ = self.fills_ended.get_or_create(&Labels([("result", result.into())]));
        }
        for upstream in &self.upstreams {
            let label = || ("upstream", upstream.clone().into());
            for kind in UPSTREAM_KINDS {
                for status in STATUSES {
                    let labels = Labels([label(), ("kind", kind.into()), ("status", status.into())]);
                    let _ = self.upstream_requests.get_or_create(&labels);
                }
            }
            let _ = self.upstream_bytes.get_or_create(&Labels([label()]));
            let _ = self.upstream_duration.get_or_create(&Labels([label()]));
            let _ = self.fill_resumes.get_or_create(&Labels([label()]));
            let _ = self.verification_failures.get_or_create(&Labels([label()]));
            for outcome in &words.prefetch_outcomes {
                let _ = self.prefetches.get_or_create(&Labels([label(), ("result", (*outcome).into())]));
            }
            self.gates.zero(upstream, &words.refusals);
            self.upstream_ratelimit_limit.get_or_create(&Labels([label()])).set(-1);
            self.upstream_ratelimit_remaining.get_or_create(&Labels([label()])).set(-1);
        }
    }

    /// All metrics as text.
    ///
    /// # Errors
    /// Never in practice: the text goes to memory.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    pub fn request(&self, facts: &RequestFacts) {
        self.answers.count(facts);
    }

    pub fn connection_opened(&self) {
        self.connections.inc();
    }

    pub fn connection_closed(&self) {
        self.connections.dec();
    }

    /// An upstream was asked, and answered with `status`; 0 if it did not.
    pub fn upstream_asked(&self, upstream: &str, kind: &'static str, status: u16, took: Duration) {
        let status = if status == 429 { "429" } else { class(status) };
        let labels = Labels([("upstream", upstream.to_owned().into()), ("kind", kind.into()), ("status", status.into())]);
        self.upstream_requests.get_or_create(&labels).inc();
        self.upstream_duration.get_or_create(&of(upstream)).observe(took.as_secs_f64());
    }

    pub fn upstream_received(&self, upstream: &str, bytes: u64) {
        self.upstream_bytes.get_or_create(&of(upstream)).inc_by(bytes);
    }

    /// An upstream said how many pulls it allows, if it did, and how many of them are left.
    pub fn upstream_rate_limit(&self, upstream: &str, limit: Option<u64>, remaining: u64) {
        let level = |count| i64::try_from(count).unwrap_or(i64::MAX);
        if let Some(limit) = limit {
            self.upstream_ratelimit_limit.get_or_create(&of(upstream)).set(level(limit));
        }
        self.upstream_ratelimit_remaining.get_or_create(&of(upstream)).set(level(remaining));
    }

    /// An upstream was not asked. `reason` is one of [`Words::refusals`].
    pub fn upstream_unasked(&self, upstream: &str, reason: &'static str) {
        self.gates.refused(upstream, reason);
    }

    /// Sets what is read off about an upstream at a scrape.
    pub fn set_upstream_levels(&self, upstream: &str, levels: UpstreamLevels) {
        self.gates.set(upstream, levels);
    }

    pub fn fill_joined(&self) {
        self.fill_joins.inc();
    }

    pub fn fill_resumed(&self, upstream: &str) {
        self.fill_resumes.get_or_create(&of(upstream)).inc();
    }

    /// `result` is `stored`, `not-stored`, `not-found` or `failed`.
    pub fn fill_ended(&self, result: &'static str) {
        self.fills_ended.get_or_create(&Labels([("result", result.into())])).inc();
    }

    pub fn verification_failed(&self, upstream: &str) {
        self.verification_failures.get_or_create(&of(upstream)).inc();
    }

    /// `result` is one of [`Words::prefetch_outcomes`].
    pub fn prefetch_ended(&self, upstream: &str, result: &'static str) {
        let labels = Labels([("upstream", upstream.to_owned().into()), ("result", result.into())]);
        self.prefetches.get_or_create(&labels).inc();
    }

    /// Sets what is read off at a scrape.
    pub fn set_levels(&self, levels: &Levels) {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner).set(levels);
    }
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

fn of(upstream: &str) -> Labels<1> {
    Labels([("upstream", upstream.to_owned().into())])
}

fn class(status: u16) -> &'static str {
    match status / 100 {
        1 | 2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_exists_from_the_start_and_counts() {
        let words = Words {
            outcomes: vec!["hit", "miss"],
            prefetch_outcomes: vec!["filled", "failed"],
            refusals: vec!["offline", "limited"],
        };
        let metrics = Metrics::new("1.0", ["docker.io"], &words);
        let has = |line: &str| {
            let text = metrics.encode().unwrap();
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        };
        has(r#"larder_requests_total{kind="blob",cache="hit"} 0"#);
        has(r#"larder_upstream_requests_total{upstream="docker.io",kind="manifest",status="429"} 0"#);
        has(r#"larder_verification_failures_total{upstream="docker.io"} 0"#);
        has(r#"larder_upstream_ratelimit_limit{upstream="docker.io"} -1"#);
        has(r#"larder_upstream_ratelimit_remaining{upstream="docker.io"} -1"#);
        has(r#"larder_upstream_refusals_total{upstream="docker.io",reason="offline"} 0"#);
        has(r#"larder_upstream_open{upstream="docker.io"} 0"#);
        has(r#"larder_build_info{version="1.0"} 1"#);
        let facts = RequestFacts {
            kind: RequestKind::Blob,
            cache: "hit",
            status: 206,
            bytes: 42,
            first_byte: Duration::from_millis(2),
            duration: Duration::from_millis(3),
            is_saved: true,
            is_complete: false,
        };
        metrics.request(&facts);
        metrics.upstream_asked("docker.io", "manifest", 429, Duration::from_millis(1));
        metrics.prefetch_ended("docker.io", "filled");
        metrics.upstream_rate_limit("docker.io", Some(100), 76);
        metrics.upstream_rate_limit("docker.io", None, 75);
        metrics.upstream_unasked("docker.io", "limited");
        let levels = UpstreamLevels { is_open: true, is_offline: false, limited_seconds: 17 };
        metrics.set_upstream_levels("docker.io", levels);
        metrics.set_levels(&Levels { evictions: 3, cache_bytes: 7, ..Levels::default() });
        metrics.set_levels(&Levels { evictions: 3, cache_bytes: 5, ..Levels::default() });
        has(r#"larder_requests_total{kind="blob",cache="hit"} 1"#);
        has(r#"larder_response_bytes_total{kind="blob"} 42"#);
        has("larder_saved_bytes_total 42");
        has(r#"larder_responses_total{status="2xx"} 1"#);
        has("larder_incomplete_responses_total 1");
        has(r#"larder_upstream_requests_total{upstream="docker.io",kind="manifest",status="429"} 1"#);
        has(r#"larder_upstream_ratelimit_limit{upstream="docker.io"} 100"#);
        has(r#"larder_upstream_ratelimit_remaining{upstream="docker.io"} 75"#);
        has(r#"larder_upstream_refusals_total{upstream="docker.io",reason="limited"} 1"#);
        has(r#"larder_upstream_open{upstream="docker.io"} 1"#);
        has(r#"larder_upstream_limited_seconds{upstream="docker.io"} 17"#);
        has(r#"larder_prefetches_total{upstream="docker.io",result="filled"} 1"#);
        has(r#"larder_prefetches_total{upstream="docker.io",result="failed"} 0"#);
        has("larder_evictions_total 3");
        has("larder_cache_used_bytes 5");
    }
}
