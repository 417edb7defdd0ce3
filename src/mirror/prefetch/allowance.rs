//! Whether content that nobody has asked for may be fetched: not with the last pulls that an upstream grants, and into free room
//! only. It decides from what it is told, and asks nobody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::StoreStats;
use crate::upstream::RateLimit;

/// How many pulls are left to clients at the least, and which part of the limit.
const RESERVE: u64 = 10;
const RESERVE_PART: u64 = 5;

/// Which part of the limit is left before the operator's reserve is reached: prefetches are the first to end.
const MARGIN_PART: u64 = 10;

/// Whether what is left of a limit should be left to clients. `unreserved` of it is not the operator's reserve.
pub(super) fn is_near(limit: &RateLimit, unreserved: u64) -> bool {
    let reserve = limit.limit.map_or(RESERVE, |limit| (limit / RESERVE_PART).max(RESERVE));
    let margin = limit.limit.map_or(1, |limit| (limit / MARGIN_PART).max(1));
    limit.remaining < reserve || unreserved < margin
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

    #[test]
    fn a_fifth_of_the_limit_and_ten_pulls_are_left_to_clients() {
        for (limit, remaining, expected) in [
            (Some(100), 20, false),
            (Some(100), 19, true),
            (Some(20), 10, false),
            (Some(20), 9, true),
            (Some(5), 5, true),
            (None, 10, false),
            (None, 9, true),
        ] {
            let told = RateLimit { limit, remaining, window: None, source: None };
            assert_eq!(is_near(&told, remaining), expected, "{told:?}");
        }
    }

    #[test]
    fn the_operators_reserve_and_a_tenth_before_it_are_left_to_clients() {
        let told = |remaining| RateLimit { limit: Some(100), remaining, window: None, source: None };
        // Of a reserve of 50.
        for (remaining, expected) in [(60, false), (59, true), (50, true), (30, true)] {
            assert_eq!(is_near(&told(remaining), u64::saturating_sub(remaining, 50)), expected, "{remaining}");
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
