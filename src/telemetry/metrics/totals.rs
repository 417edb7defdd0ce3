//! What has been counted so far, summed up for a person. The numbers are those of the metrics; nothing is counted here.

use std::collections::BTreeMap;

use super::{Labels, Metrics, STATUSES, UPSTREAM_KINDS, of};

/// The sums since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests for manifests and blobs, by what the cache did.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Bytes of bodies sent to clients: manifests and blobs.
    pub sent_bytes: u64,
    /// Of these, what no upstream was asked for.
    pub saved_bytes: u64,
    /// By name.
    pub upstreams: BTreeMap<String, UpstreamTotals>,
}

/// What an upstream was asked, and what it gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTotals {
    /// Bytes of bodies read from it.
    pub received_bytes: u64,
    /// By kind and by class of status, those that there were.
    pub requests: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Contents whose bytes were not what they should have been.
    pub verification_failures: u64,
}

impl Metrics {
    /// What has been counted so far.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.answers.sum_up(&mut totals);
        totals.upstreams = self.upstreams.iter().map(|name| (name.clone(), self.upstream_totals(name))).collect();
        totals
    }

    fn upstream_totals(&self, name: &str) -> UpstreamTotals {
        let mut requests = BTreeMap::<_, BTreeMap<_, _>>::new();
        for kind in UPSTREAM_KINDS {
            for status in STATUSES {
                let labels = Labels([("upstream", name.to_owned().into()), ("kind", kind.into()), ("status", status.into())]);
                let count = self.upstream_requests.get_or_create(&labels).get();
                if count > 0 {
                    requests.entry(kind).or_default().insert(status, count);
                }
            }
        }
        UpstreamTotals {
            received_bytes: self.upstream_bytes.get_or_create(&of(name)).get(),
            requests,
            verification_failures: self.verification_failures.get_or_create(&of(name)).get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::{RequestFacts, RequestKind, Words};

    #[test]
    fn what_is_counted_is_summed_up() {
        let words = Words { outcomes: vec!["hit", "miss"], prefetch_outcomes: Vec::new(), refusals: Vec::new() };
        let metrics = Metrics::new("1.0", ["docker.io", "quay.io"], &words);
        for (kind, cache, bytes) in [
            (RequestKind::Blob, "hit", 7),
            (RequestKind::Manifest, "hit", 5),
            (RequestKind::Blob, "miss", 1),
            (RequestKind::Version, "none", 2),
        ] {
            let no_time = Duration::ZERO;
            let facts = RequestFacts {
                kind,
                cache,
                status: 200,
                bytes,
                first_byte: no_time,
                duration: no_time,
                is_saved: cache == "hit",
                is_complete: true,
            };
            metrics.request(&facts);
        }
        metrics.upstream_asked("docker.io", "blob", 200, Duration::ZERO);
        metrics.upstream_asked("docker.io", "blob", 429, Duration::ZERO);
        metrics.upstream_received("docker.io", 3);
        let totals = metrics.totals();
        assert_eq!(totals.outcomes, BTreeMap::from([("hit", 2), ("miss", 1), ("none", 0), ("error", 0)]));
        assert_eq!((totals.sent_bytes, totals.saved_bytes), (13, 12));
        let docker = UpstreamTotals {
            received_bytes: 3,
            requests: BTreeMap::from([("blob", BTreeMap::from([("2xx", 1), ("429", 1)]))]),
            verification_failures: 0,
        };
        assert_eq!(totals.upstreams["docker.io"], docker);
        assert_eq!(totals.upstreams["quay.io"], UpstreamTotals::default());
    }
}
