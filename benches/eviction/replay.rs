//! Replays a trace against a policy and counts. It knows no policy in particular.

use super::workload::Trace;

/// A cache of a given capacity under some policy.
pub(crate) trait Policy {
    /// The request of that number. Tells whether the cache had the object; if not, it has been fetched and perhaps kept.
    fn request(&mut self, trace: &Trace, number: usize) -> bool;

    /// All requests of the pull of that number have been made.
    fn pulled(&mut self, _trace: &Trace, _number: usize) {}
}

/// What came of a replay.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) hits: u64,
    pub(crate) bytes: u64,
    pub(crate) hit_bytes: u64,
    pub(crate) pulls: u64,
    /// Pulls for which the upstream was not asked for anything.
    pub(crate) whole_pulls: u64,
}

impl Outcome {
    pub(crate) fn of(trace: &Trace, policy: &mut dyn Policy) -> Self {
        let mut outcome = Self::default();
        for (pull_number, pull) in trace.pulls.iter().enumerate() {
            let mut is_whole = true;
            for number in pull.first..pull.end {
                let size = trace.size(trace.requests[number].object);
                let is_hit = policy.request(trace, number);
                outcome.requests += 1;
                outcome.bytes += size;
                outcome.hits += u64::from(is_hit);
                outcome.hit_bytes += if is_hit { size } else { 0 };
                is_whole &= is_hit;
            }
            outcome.pulls += 1;
            outcome.whole_pulls += u64::from(is_whole);
            policy.pulled(trace, pull_number);
        }
        outcome
    }

    pub(crate) fn object_hit_ratio(&self) -> f64 {
        self.hits as f64 / self.requests as f64
    }

    pub(crate) fn byte_hit_ratio(&self) -> f64 {
        self.hit_bytes as f64 / self.bytes as f64
    }

    pub(crate) fn whole_pull_ratio(&self) -> f64 {
        self.whole_pulls as f64 / self.pulls as f64
    }

    pub(crate) fn upstream_bytes(&self) -> u64 {
        self.bytes - self.hit_bytes
    }
}
