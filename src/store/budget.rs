//! The byte budget: what is at rest plus what was promised to parts in flight, never above the limit by anybody's asking.
//! It only counts; what to evict is decided elsewhere. Refs, catalog and file-system overhead are not counted.

use std::ops::Add;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts the bytes of one store.
#[derive(Clone)]
pub(super) struct Budget(Arc<Shared>);

struct Shared {
    max: AtomicU64,
    amounts: Mutex<Amounts>,
}

/// A moment's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    /// Bytes of the content that the catalog knows.
    pub(super) at_rest: u64,
    /// Bytes promised to parts in flight.
    pub(super) reserved: u64,
    /// Number of contents at rest.
    pub(super) blobs: u64,
}

/// How the content at rest changes with a change of the catalog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) bytes: i64,
    pub(super) blobs: i64,
}

/// Bytes that are promised. Dropping it gives them back.
pub(super) struct Reservation {
    budget: Budget,
    bytes: u64,
}

/// Why a reservation was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Content at rest of at least so many bytes would have to go.
    Evict(u64),
    /// What is in flight leaves no room, whatever is evicted.
    Never,
}

impl Add for Change {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, blobs: self.blobs + other.blobs }
    }
}

// === impl Budget ===

impl Budget {
    pub(super) fn new(max: u64, at_rest: u64, blobs: u64) -> Self {
        Self(Arc::new(Shared { max: AtomicU64::new(max), amounts: Mutex::new(Amounts { at_rest, reserved: 0, blobs }) }))
    }

    pub(super) fn max(&self) -> u64 {
        self.0.max.load(Ordering::Relaxed)
    }

    /// Lowers the limit, if it is higher.
    pub(super) fn limit(&self, max: u64) {
        self.0.max.fetch_min(max, Ordering::Relaxed);
    }

    pub(super) fn amounts(&self) -> Amounts {
        *self.lock()
    }

    /// Begins a reservation of no bytes.
    pub(super) fn reservation(&self) -> Reservation {
        Reservation { budget: self.clone(), bytes: 0 }
    }

    /// The catalog changed. If it did because a part came to rest, its reservation ends in the same instant.
    pub(super) fn apply(&self, change: Change, settled: Option<Reservation>) {
        let mut amounts = self.lock();
        if let Some(mut reservation) = settled {
            amounts.reserved -= reservation.bytes;
            reservation.bytes = 0;
        }
        // The catalog's numbers are input: one that was tampered with must not make the counts wrap.
        amounts.at_rest = amounts.at_rest.saturating_add_signed(change.bytes);
        amounts.blobs = amounts.blobs.saturating_add_signed(change.blobs);
    }

    /// The catalog is another one, which knows of so much at rest.
    pub(super) fn restart(&self, at_rest: u64, blobs: u64) {
        let mut amounts = self.lock();
        amounts.at_rest = at_rest;
        amounts.blobs = blobs;
    }

    fn lock(&self) -> MutexGuard<'_, Amounts> {
        self.0.amounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Reservation ===

impl Reservation {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The same promise in other hands; this one is of no bytes from now on.
    pub(super) fn take(&mut self) -> Self {
        Self { budget: self.budget.clone(), bytes: std::mem::take(&mut self.bytes) }
    }

    /// Makes the reservation at most `total` bytes large.
    pub(super) fn shrink(&mut self, total: u64) {
        let less = self.bytes.saturating_sub(total);
        self.bytes -= less;
        self.budget.lock().reserved -= less;
    }

    /// Makes the reservation at least `total` bytes large.
    pub(super) fn grow(&mut self, total: u64) -> Result<(), Refusal> {
        let mut amounts = self.budget.lock();
        let more = total.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let reserved = amounts.reserved.checked_add(more).filter(|reserved| *reserved <= self.budget.max());
        let Some(reserved) = reserved else {
            return Err(Refusal::Never);
        };
        let above = amounts.at_rest.saturating_add(reserved).saturating_sub(self.budget.max());
        if above > 0 {
            return Err(Refusal::Evict(above));
        }
        amounts.reserved = reserved;
        self.bytes = total;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.lock().reserved -= self.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_count_until_they_are_dropped_or_settled() {
        let budget = Budget::new(100, 40, 2);
        let mut one = budget.reservation();
        assert_eq!(one.grow(60), Ok(()));
        let mut two = budget.reservation();
        assert_eq!(two.grow(1), Err(Refusal::Evict(1)));
        assert_eq!(two.grow(41), Err(Refusal::Never), "60 are in flight");
        assert_eq!(two.grow(u64::MAX), Err(Refusal::Never));
        budget.apply(Change { bytes: 50, blobs: 1 }, Some(one));
        assert_eq!(budget.amounts(), Amounts { at_rest: 90, reserved: 0, blobs: 3 });
        assert_eq!(two.grow(10), Ok(()));
        assert_eq!(two.grow(5), Ok(()), "smaller is no change");
        assert_eq!(two.bytes(), 10);
        two.shrink(20);
        two.shrink(4);
        assert_eq!((two.bytes(), budget.amounts().reserved), (4, 4));
        drop(two);
        assert_eq!(budget.amounts(), Amounts { at_rest: 90, reserved: 0, blobs: 3 });
    }

    #[test]
    fn a_limit_that_was_lowered_asks_for_eviction() {
        let budget = Budget::new(10, 40, 2);
        assert_eq!(budget.reservation().grow(5), Err(Refusal::Evict(35)));
    }
}
