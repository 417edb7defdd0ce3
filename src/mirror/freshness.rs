//! Whether a tag, as it was last seen, can be served without asking, and when it is served although it is stale. It decides from
//! what the operator said and what time it is, and asks nobody.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::{Mirror, StaleReason, TagKey};
use crate::config::{Failure, Lifetime, TagPolicy};

/// The part of a lifetime by which it may be shorter: what was checked at once is not to be asked for again at once.
const JITTER: f64 = 0.1;

/// What the age of a tag makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    Fresh,
    /// It is served at once, and its upstream asked meanwhile.
    Lenient,
    Stale,
}

impl Mirror {
    pub(super) fn policy(&self, key: &TagKey) -> TagPolicy {
        self.shared.timing.freshness.policy(&key.upstream, &key.repository, &key.tag)
    }

    /// What the age of a tag that was checked at `checked_at` (milliseconds) makes of it.
    pub(super) fn age(&self, key: &TagKey, policy: &TagPolicy, checked_at: i64) -> Age {
        let Some(age) = self.since(checked_at) else { return Age::Stale };
        match policy.fresh_for {
            fresh_for if shortened(fresh_for, key).covers(age) => Age::Fresh,
            Lifetime::For(fresh_for) if age < fresh_for.saturating_add(policy.stale_while_revalidate) => Age::Lenient,
            _ => Age::Stale,
        }
    }

    /// Whether a listing that was checked at `checked_at` (milliseconds) can be served without asking.
    pub(super) fn is_listing_fresh(&self, checked_at: i64) -> bool {
        self.since(checked_at).is_some_and(|age| self.shared.timing.freshness.general.fresh_for.covers(age))
    }

    /// Whether something that was checked at `checked_at` (milliseconds) may be served for this reason, whatever its age.
    pub(super) fn may_be_stale(&self, policy: &TagPolicy, checked_at: i64, reason: StaleReason) -> bool {
        match reason {
            // Nobody will be asked: it lives until somebody is again.
            StaleReason::Offline => return true,
            StaleReason::Missing if !policy.keep_missing => return false,
            _ => {}
        }
        let is_refused = failure(reason).is_some_and(|failure| policy.refuse_stale.contains(failure));
        // An age that cannot be told, since a clock was set back, is none that is too high.
        !is_refused && self.since(checked_at).is_none_or(|age| policy.stale_for.covers(age))
    }

    /// How long ago that was; `None` if it is yet to come by a clock that was set back.
    fn since(&self, at: i64) -> Option<Duration> {
        self.shared.clock.unix_millis().checked_sub(at).and_then(|age| u64::try_from(age).ok()).map(Duration::from_millis)
    }
}

/// The failure that an operator would call it.
fn failure(reason: StaleReason) -> Option<Failure> {
    match reason {
        StaleReason::RateLimited | StaleReason::Saving => Some(Failure::RateLimited),
        StaleReason::Denied => Some(Failure::Denied),
        StaleReason::ServerError => Some(Failure::ServerError),
        StaleReason::Timeout => Some(Failure::Timeout),
        StaleReason::Unreachable => Some(Failure::Unreachable),
        StaleReason::Refused | StaleReason::Offline | StaleReason::Revalidating | StaleReason::Missing => None,
    }
}

/// The lifetime, shorter by a part that depends on the tag alone.
fn shortened(lifetime: Lifetime, key: &TagKey) -> Lifetime {
    let Lifetime::For(lifetime) = lifetime else { return lifetime };
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    // 53 bits are what a number of this kind holds exactly.
    let part = (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64;
    Lifetime::For(lifetime.mul_f64(1.0 - JITTER * part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_differ_and_are_never_longer() {
        let key = |tag: &str| TagKey {
            upstream: "docker.io".parse().unwrap(),
            repository: "library/alpine".parse().unwrap(),
            tag: tag.parse().unwrap(),
        };
        let lifetime = Duration::from_secs(1000);
        let of = |tag: &str| match shortened(Lifetime::For(lifetime), &key(tag)) {
            Lifetime::For(lifetime) => lifetime,
            Lifetime::Forever => panic!("it was not for ever"),
        };
        let lifetimes: Vec<_> = (0..100).map(|tag| of(&tag.to_string())).collect();
        assert!(lifetimes.iter().all(|shorter| (Duration::from_secs(900)..=lifetime).contains(shorter)));
        let spread = lifetimes.iter().max().unwrap().saturating_sub(*lifetimes.iter().min().unwrap());
        assert!(spread > Duration::from_secs(50), "{spread:?}");
        assert_eq!(of("7"), of("7"));
        assert_eq!(shortened(Lifetime::Forever, &key("x")), Lifetime::Forever);
    }
}
