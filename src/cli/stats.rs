//! `larder stats`: how the cache and its upstreams are, on one screen. From a server come its numbers since it began, the same as
//! those of the metrics; of the folder alone there is what the catalog knows.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::banner::amount;
use super::errand::{self, Errand, Keeper, Served, Undone};
use super::rm::count;
use crate::telemetry::UpstreamTotals;
use crate::upstream::{EndpointStanding, EndpointState, Standing};

/// Has nothing to say about how: it is written as `null`.
#[derive(Serialize, Deserialize)]
pub(super) struct AskStats;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Stats {
    cache: CacheStats,
    /// `null` where no server has the cache.
    server: Option<ServerStats>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct CacheStats {
    capacity_bytes: u64,
    used_bytes: u64,
    /// Promised to what is in flight.
    reserved_bytes: u64,
    pinned_bytes: u64,
    pinned_contents: u64,
    contents: u64,
    images: u64,
}

/// Counts are since the server began.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct ServerStats {
    version: String,
    /// Why nothing can be stored at the moment.
    trouble: Option<String>,
    fills_in_flight: u64,
    evictions: u64,
    evicted_bytes: u64,
    disk_errors: u64,
    damaged: u64,
    /// Requests for manifests and blobs, by what the cache did.
    requests: BTreeMap<String, u64>,
    /// The share of those requests that were answered from the cache; `null` before there were any.
    hit_ratio: Option<f64>,
    sent_bytes: u64,
    received_bytes: u64,
    /// Of what was sent, what no upstream was asked for.
    saved_bytes: u64,
    upstreams: BTreeMap<String, UpstreamStats>,
}

/// What there is to say of one upstream.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct UpstreamStats {
    /// It is not to be asked.
    offline: bool,
    /// In the order in which they are asked.
    endpoints: Vec<EndpointStats>,
    received_bytes: u64,
    /// By kind, then by class of status.
    requests: BTreeMap<String, BTreeMap<String, u64>>,
    verification_failures: u64,
}

/// How one endpoint of an upstream stands. Times are in seconds.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct EndpointStats {
    host: String,
    /// Why it is left alone, if it is.
    trouble: Option<String>,
    /// For how long it has been left alone.
    since: Option<u64>,
    /// Why it is not asked for blobs, where that is a matter of its own.
    blob_trouble: Option<String>,
    /// For how much longer it has asked not to be asked.
    limited_for: Option<u64>,
    /// Pulls in a window, as it last told.
    rate_limit: Option<u64>,
    rate_limit_remaining: Option<u64>,
    /// What it counts by: an address, or an account.
    rate_limit_source: Option<String>,
}

pub(super) fn run(file: Option<&Path>, json: bool) -> ExitCode {
    errand::run(file, |_| Ok(AskStats), |stats| errand::show(json, &stats, told))
}

impl Errand for AskStats {
    const PATH: &'static str = "/stats";
    const IS_SAFE: bool = true;
    type Answer = Stats;

    async fn run(self, keeper: &Keeper) -> Result<Stats, Undone> {
        let (images, stats, pinned) = (keeper.store.count_images().await, keeper.store.stats(), keeper.store.pinned().await);
        let cache = CacheStats {
            capacity_bytes: stats.max_bytes,
            used_bytes: stats.bytes,
            reserved_bytes: stats.reserved,
            pinned_bytes: pinned.bytes,
            pinned_contents: pinned.contents,
            contents: stats.blobs,
            images,
        };
        Ok(Stats { cache, server: keeper.server.as_ref().map(ServerStats::of) })
    }
}

impl ServerStats {
    fn of(server: &Served) -> Self {
        let Served { mirror, metrics, gates } = server;
        let (store, totals) = (mirror.store().stats(), metrics.totals());
        let received_bytes = totals.upstreams.values().map(|upstream| upstream.received_bytes).sum();
        let upstreams = totals.upstreams.into_iter().map(|(name, totals)| {
            let standing = gates.iter().find(|(gated, _)| *gated == name).map(|(_, gate)| gate.standing());
            (name, UpstreamStats::of(totals, standing))
        });
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trouble: mirror.store().trouble(),
            fills_in_flight: mirror.fills().count() as u64,
            evictions: store.evictions,
            evicted_bytes: store.evicted_bytes,
            disk_errors: store.disk_errors.iter().map(|(_, count)| count).sum(),
            damaged: store.damaged,
            hit_ratio: hit_ratio(&totals.outcomes),
            requests: totals.outcomes.into_iter().map(|(outcome, count)| (outcome.to_owned(), count)).collect(),
            sent_bytes: totals.sent_bytes,
            received_bytes,
            saved_bytes: totals.saved_bytes,
            upstreams: upstreams.collect(),
        }
    }
}

impl UpstreamStats {
    fn of(totals: UpstreamTotals, standing: Option<Standing>) -> Self {
        let by_status =
            |statuses: BTreeMap<&'static str, u64>| statuses.into_iter().map(|(status, count)| (status.to_owned(), count));
        let requests = totals.requests.into_iter().map(|(kind, statuses)| (kind.to_owned(), by_status(statuses).collect()));
        Self {
            offline: standing.as_ref().is_some_and(|standing| standing.is_offline),
            endpoints: standing.into_iter().flat_map(|standing| standing.endpoints).map(EndpointStats::of).collect(),
            received_bytes: totals.received_bytes,
            requests: requests.collect(),
            verification_failures: totals.verification_failures,
        }
    }

    /// Whether there is anything about it that somebody might want to know.
    fn is_remarkable(&self) -> bool {
        let has_been_asked = self.requests.values().flat_map(BTreeMap::values).any(|count| *count > 0);
        has_been_asked
            || self.offline
            || self.endpoints.iter().any(|endpoint| endpoint.trouble.is_some() || endpoint.blob_trouble.is_some())
    }
}

impl EndpointStats {
    fn of(standing: EndpointStanding) -> Self {
        let EndpointStanding { host, state, blobs, limited_for, rate_limit } = standing;
        let (trouble, since) = match state {
            EndpointState::Answers => (None, None),
            EndpointState::Suspended { since, cause, .. } => (Some(cause.to_string()), Some(since.as_secs())),
        };
        let blob_trouble = match blobs {
            EndpointState::Answers => None,
            EndpointState::Suspended { cause, .. } => Some(cause.to_string()),
        };
        Self {
            host,
            trouble,
            since,
            blob_trouble,
            limited_for: limited_for.map(|limited_for| limited_for.as_secs()),
            rate_limit: rate_limit.as_ref().and_then(|rate_limit| rate_limit.limit),
            rate_limit_remaining: rate_limit.as_ref().map(|rate_limit| rate_limit.remaining),
            rate_limit_source: rate_limit.and_then(|rate_limit| rate_limit.source),
        }
    }

    /// What there is to say of it in words.
    fn told(&self) -> Vec<String> {
        let mut told = Vec::new();
        if let Some(remaining) = self.rate_limit_remaining {
            let limit = self.rate_limit.map_or_else(String::new, |limit| format!(" of {limit}"));
            let source = self.rate_limit_source.as_ref().map_or_else(String::new, |source| format!(", counted for {source}"));
            told.push(format!("{remaining}{limit} pulls left{source}"));
        }
        if let Some(seconds) = self.limited_for {
            told.push(format!("has asked not to be asked for {seconds} s more"));
        }
        if let Some(trouble) = &self.trouble {
            told.push(format!("left alone for {} s: {trouble}", self.since.unwrap_or_default()));
        }
        if let Some(trouble) = self.blob_trouble.as_ref().filter(|_| self.trouble.is_none()) {
            told.push(format!("not asked for blobs: {trouble}"));
        }
        told
    }
}

/// Whether an answer of that kind came from what had been at rest before.
fn is_hit(outcome: &str) -> bool {
    outcome == "hit" || outcome.starts_with("revalidated") || outcome.starts_with("stale")
}

fn hit_ratio(outcomes: &BTreeMap<&'static str, u64>) -> Option<f64> {
    // An error is no answer, and `none` is none of the cache's.
    let answered = outcomes.iter().filter(|(outcome, _)| !matches!(**outcome, "none" | "error"));
    let (hits, all) =
        answered.fold((0, 0), |(hits, all), (outcome, count)| (hits + if is_hit(outcome) { *count } else { 0 }, all + count));
    (all > 0).then(|| hits as f64 / all as f64)
}

fn told(stats: &Stats) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: String| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{what:<12}{value}");
    };
    let cache = &stats.cache;
    let share = cache.used_bytes.saturating_mul(100).checked_div(cache.capacity_bytes).unwrap_or(0);
    line("cache", format!("{} of {} ({share} %)", amount(cache.used_bytes), amount(cache.capacity_bytes)));
    line("", format!("{}, {}", count(cache.images, "image"), count(cache.contents, "content")));
    line("pinned", format!("{}, {}", amount(cache.pinned_bytes), count(cache.pinned_contents, "content")));
    let Some(server) = &stats.server else {
        line("server", "none has the cache at the moment".to_owned());
        return text;
    };
    line("in flight", format!("{}, {}", amount(cache.reserved_bytes), count(server.fills_in_flight, "fill")));
    line("evicted", format!("{}, {}", amount(server.evicted_bytes), count(server.evictions, "content")));
    if let Some(trouble) = &server.trouble {
        line("trouble", format!("nothing can be stored: {trouble}"));
    }
    if server.disk_errors + server.damaged > 0 {
        line("disk", format!("{}, {} damaged", count(server.disk_errors, "error"), count(server.damaged, "content")));
    }
    let ratio =
        server.hit_ratio.map_or_else(|| "no requests yet".to_owned(), |ratio| format!("{:.1} % from the cache", ratio * 100.0));
    line("requests", ratio);
    for (outcome, count) in server.requests.iter().filter(|(_, count)| **count > 0) {
        line("", format!("{outcome:<20}{count:>10}"));
    }
    line(
        "bytes",
        format!(
            "{} sent, {} fetched, {} saved",
            amount(server.sent_bytes),
            amount(server.received_bytes),
            amount(server.saved_bytes)
        ),
    );
    for (name, upstream) in server.upstreams.iter().filter(|(_, upstream)| upstream.is_remarkable()) {
        line("upstream", format!("{name}: {} fetched", amount(upstream.received_bytes)));
        for (kind, statuses) in &upstream.requests {
            let statuses: Vec<_> = statuses.iter().map(|(status, count)| format!("{status} {count}")).collect();
            line("", format!("{kind:<12}{}", statuses.join(", ")));
        }
        if upstream.offline {
            line("", "offline: it is not asked".to_owned());
        }
        for endpoint in &upstream.endpoints {
            // Which one it is matters only where there are several.
            let host = if upstream.endpoints.len() > 1 { format!("{}: ", endpoint.host) } else { String::new() };
            endpoint.told().into_iter().for_each(|told| line("", format!("{host}{told}")));
        }
        if upstream.verification_failures > 0 {
            line("", format!("{} with wrong bytes", count(upstream.verification_failures, "content")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stale_came_from_the_cache_and_what_failed_does_not_count() {
        let outcomes =
            [("hit", 5), ("revalidated", 1), ("stale-timeout", 1), ("miss", 1), ("joined", 1), ("forwarded", 1), ("error", 90)];
        assert_eq!(hit_ratio(&outcomes.into()), Some(0.7));
        assert_eq!(hit_ratio(&[("hit", 0), ("error", 3)].into()), None);
    }

    #[test]
    fn one_screen_says_it_all() {
        let cache = CacheStats {
            capacity_bytes: 100_000_000_000,
            used_bytes: 50_000_000_000,
            images: 1,
            contents: 4,
            ..CacheStats::default()
        };
        let endpoint = EndpointStats {
            host: "registry-1.docker.io".to_owned(),
            trouble: Some("it did not answer".to_owned()),
            since: Some(12),
            blob_trouble: None,
            limited_for: Some(600),
            rate_limit: Some(100),
            rate_limit_remaining: Some(17),
            rate_limit_source: Some("192.0.2.1".to_owned()),
        };
        let upstream = UpstreamStats {
            offline: true,
            endpoints: vec![endpoint],
            received_bytes: 2_000_000_000,
            requests: [("blob".to_owned(), [("2xx".to_owned(), 3), ("429".to_owned(), 1)].into())].into(),
            verification_failures: 0,
        };
        let server = ServerStats {
            hit_ratio: Some(0.9),
            requests: [("hit".to_owned(), 9), ("miss".to_owned(), 1), ("joined".to_owned(), 0)].into(),
            upstreams: [("docker.io".to_owned(), upstream), ("quay.io".to_owned(), UpstreamStats::default())].into(),
            ..ServerStats::default()
        };
        let text = told(&Stats { cache, server: Some(server) });
        let expected = "\
cache       50 GB of 100 GB (50 %)
            1 image, 4 contents
pinned      0 B, 0 contents
in flight   0 B, 0 fills
evicted     0 B, 0 contents
requests    90.0 % from the cache
            hit                          9
            miss                         1
bytes       0 B sent, 0 B fetched, 0 B saved
upstream    docker.io: 2.00 GB fetched
            blob        2xx 3, 429 1
            offline: it is not asked
            17 of 100 pulls left, counted for 192.0.2.1
            has asked not to be asked for 600 s more
            left alone for 12 s: it did not answer
";
        assert_eq!(text, expected);
    }
}
