//! Whether content that nobody has asked for may be fetched: not with the last pulls that an upstream grants, and into free room
//! only. It decides from what it is told, and asks nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::oci::UpstreamName;
use crate::store::StoreStats;
use crate::upstream::RateLimit;

/// How many pulls are left to clients at the least, and which part of the limit.
const RESERVE: u64 = 10;
const RESERVE_PART: u64 = 5;

/// For how long what an upstream said is believed, where it does not tell its window.
const USUAL_WINDOW: Duration = Duration::from_secs(3600);

/// What each upstream last said of its limit on pulls.
#[derive(Default)]
pub(super) struct RateLimits(Mutex<HashMap<UpstreamName, (Instant, RateLimit)>>);

impl RateLimits {
    pub(super) fn note(&self, upstream: &UpstreamName, limit: RateLimit) {
        self.lock().insert(upstream.clone(), (Instant::now(), limit));
    }

    /// Whether what is left should be left to clients. Not, where nothing is known of a limit.
    pub(super) fn is_near(&self, upstream: &UpstreamName) -> bool {
        self.lock().get(upstream).is_some_and(|(told, limit)| {
            let reserve = limit.limit.map_or(RESERVE, |limit| (limit / RESERVE_PART).max(RESERVE));
            limit.remaining < reserve && told.elapsed() < limit.window.unwrap_or(USUAL_WINDOW)
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UpstreamName, (Instant, RateLimit)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of fills that have begun, and have not reserved their room in the store yet.
#[derive(Clone, Default)]
pub(super) struct Promised(Arc<Mutex<u64>>);

/// A share of [`Promised`]. Dropping it gives it back.
pub(super) struct Promise {
    promised: Promised,
    bytes: u64,
}

impl Promised {
    /// Room for `bytes` more, if nothing has to be evicted for them. `stats` reads the store's numbers.
    pub(super) fn promise(&self, bytes: u64, stats: impl FnOnce() -> StoreStats) -> Option<Promise> {
        let mut promised = self.lock();
        // Read while nobody else promises: a fill reserves before its promise ends, so that it is counted twice rather than not.
        let stats = stats();
        let taken = stats.bytes.checked_add(stats.reserved)?.checked_add(*promised)?;
        if taken.checked_add(bytes)? > stats.max_bytes {
            return None;
        }
        *promised += bytes;
        Some(Promise { promised: self.clone(), bytes })
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        *self.promised.lock() -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(limit: Option<u64>, remaining: u64, window: Option<u64>) -> RateLimit {
        RateLimit { limit, remaining, window: window.map(Duration::from_secs) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fifth_of_the_limit_and_ten_pulls_are_left_to_clients() {
        let (hub, limits) = ("docker.io".parse().unwrap(), RateLimits::default());
        assert!(!limits.is_near(&hub), "nothing is known");
        for (told, is_near) in [
            (limit(Some(100), 20, None), false),
            (limit(Some(100), 19, None), true),
            (limit(Some(20), 10, None), false),
            (limit(Some(20), 9, None), true),
            (limit(Some(5), 5, None), true),
            (limit(None, 10, None), false),
            (limit(None, 9, None), true),
        ] {
            limits.note(&hub, told);
            assert_eq!(limits.is_near(&hub), is_near, "{told:?}");
        }
        assert!(!limits.is_near(&"quay.io".parse().unwrap()), "of another upstream");
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_that_is_over_says_nothing() {
        let (hub, limits) = ("docker.io".parse().unwrap(), RateLimits::default());
        for (window, seconds) in [(Some(21_600), 21_600), (None, 3600)] {
            limits.note(&hub, limit(Some(100), 0, window));
            tokio::time::advance(Duration::from_secs(seconds - 1)).await;
            assert!(limits.is_near(&hub));
            tokio::time::advance(Duration::from_secs(2)).await;
            assert!(!limits.is_near(&hub));
        }
    }

    #[test]
    fn only_free_room_is_promised_and_once() {
        let stats = || StoreStats { bytes: 50, reserved: 20, max_bytes: 100, ..StoreStats::default() };
        let promised = Promised::default();
        assert!(promised.promise(31, stats).is_none());
        assert!(promised.promise(u64::MAX, stats).is_none());
        let first = promised.promise(20, stats);
        assert!(first.is_some() && promised.promise(11, stats).is_none());
        assert!(promised.promise(10, stats).is_some(), "and given back at once");
        drop(first);
        assert!(promised.promise(30, stats).is_some());
    }
}
