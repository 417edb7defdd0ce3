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
    counts: Mutex<Counts>,
}

struct Counts {
    /// Bytes of the content that the catalog knows.
    known: u64,
    unknown: Unknown,
    /// Bytes of what has come to rest since the catalog was opened.
    fetched: u64,
    reserved: u64,
    blobs: u64,
}

/// Bytes at rest that a new catalog does not know yet.
#[derive(Clone, Copy)]
enum Unknown {
    /// Nobody has an idea.
    Anything,
    AtMost(u64),
    Exactly(u64),
}

/// A moment's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    /// Bytes of the content at rest, as far as they are known.
    pub(super) at_rest: u64,
    /// Bytes promised to parts in flight.
    pub(super) reserved: u64,
    /// Number of contents that the catalog knows.
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
    /// What is in flight leaves no room, whatever is evicted; or nobody knows yet how much is at rest.
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
    /// Begins with what a catalog knows. One that was made just now (`is_new`) knows nothing of what is there: nothing is promised
    /// to anybody until that has been [surveyed](Self::surveyed).
    pub(super) fn new(max: u64, at_rest: u64, blobs: u64, is_new: bool) -> Self {
        let unknown = if is_new { Unknown::Anything } else { Unknown::Exactly(0) };
        let counts = Counts { known: at_rest, unknown, fetched: 0, reserved: 0, blobs };
        Self(Arc::new(Shared { max: AtomicU64::new(max), counts: Mutex::new(counts) }))
    }

    pub(super) fn max(&self) -> u64 {
        self.0.max.load(Ordering::Relaxed)
    }

    pub(super) fn set_max(&self, max: u64) {
        self.0.max.store(max, Ordering::Relaxed);
    }

    pub(super) fn amounts(&self) -> Amounts {
        let counts = self.lock();
        Amounts { at_rest: counts.at_rest(), reserved: counts.reserved, blobs: counts.blobs }
    }

    /// Begins a reservation of no bytes.
    pub(super) fn reservation(&self) -> Reservation {
        Reservation { budget: self.clone(), bytes: 0 }
    }

    /// The catalog changed. If it did because a part came to rest, its reservation ends in the same instant.
    pub(super) fn apply(&self, change: Change, settled: Option<Reservation>) {
        let mut counts = self.lock();
        if let Some(mut reservation) = settled {
            counts.reserved -= reservation.bytes;
            reservation.bytes = 0;
        }
        counts.apply(change);
        counts.fetched = counts.fetched.saturating_add(u64::try_from(change.bytes).unwrap_or(0));
    }

    /// The catalog learned of content that was there already.
    pub(super) fn adopt(&self, change: Change) {
        let mut counts = self.lock();
        counts.apply(change);
        let bytes = u64::try_from(change.bytes).unwrap_or(0);
        counts.unknown = counts.unknown.less(bytes);
    }

    /// The catalog is another one, which knows of so much at rest. Of a new one (`is_new`) all that was there counts as unknown.
    pub(super) fn restart(&self, at_rest: u64, blobs: u64, is_new: bool) {
        let mut counts = self.lock();
        counts.unknown = match (is_new, counts.unknown) {
            (false, _) => Unknown::Exactly(0),
            (true, Unknown::Anything) => Unknown::Anything,
            (true, Unknown::AtMost(bytes)) => Unknown::AtMost(counts.known.saturating_add(bytes)),
            (true, Unknown::Exactly(bytes)) => Unknown::Exactly(counts.known.saturating_add(bytes)),
        };
        (counts.known, counts.blobs, counts.fetched) = (at_rest, blobs, 0);
    }

    /// Of a new catalog: there cannot be more at rest than that. It counts as if there were, where somebody asks for room.
    pub(super) fn estimated(&self, most: u64) {
        let mut counts = self.lock();
        counts.unknown = Unknown::AtMost(most).less(counts.found());
    }

    /// Somebody has looked since the catalog is a new one: so many bytes are there.
    pub(super) fn surveyed(&self, at_rest: u64) {
        let mut counts = self.lock();
        counts.unknown = Unknown::Exactly(at_rest).less(counts.found());
    }

    /// The catalog knows all that is there.
    pub(super) fn all_is_known(&self) {
        self.lock().unknown = Unknown::Exactly(0);
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Unknown ===

impl Unknown {
    fn less(self, known: u64) -> Self {
        match self {
            Self::Anything => Self::Anything,
            Self::AtMost(bytes) => Self::AtMost(bytes.saturating_sub(known)),
            Self::Exactly(bytes) => Self::Exactly(bytes.saturating_sub(known)),
        }
    }
}

// === impl Counts ===

impl Counts {
    fn at_rest(&self) -> u64 {
        match self.unknown {
            Unknown::Exactly(bytes) => self.known.saturating_add(bytes),
            Unknown::Anything | Unknown::AtMost(_) => self.known,
        }
    }

    /// What the catalog knows of what was there before.
    fn found(&self) -> u64 {
        self.known.saturating_sub(self.fetched)
    }

    fn at_most(&self) -> Option<u64> {
        match self.unknown {
            Unknown::Anything => None,
            Unknown::AtMost(bytes) | Unknown::Exactly(bytes) => Some(self.known.saturating_add(bytes)),
        }
    }

    /// The catalog's numbers are input: one that was tampered with must not make the counts wrap.
    fn apply(&mut self, change: Change) {
        self.known = self.known.saturating_add_signed(change.bytes);
        self.blobs = self.blobs.saturating_add_signed(change.blobs);
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
        let mut counts = self.budget.lock();
        let more = total.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let reserved = counts.reserved.checked_add(more).filter(|reserved| *reserved <= self.budget.max());
        let (Some(reserved), Some(at_rest)) = (reserved, counts.at_most()) else {
            return Err(Refusal::Never);
        };
        let above = at_rest.saturating_add(reserved).saturating_sub(self.budget.max());
        if above > 0 {
            return Err(Refusal::Evict(above));
        }
        counts.reserved = reserved;
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
        let budget = Budget::new(100, 40, 2, false);
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
        let budget = Budget::new(10, 40, 2, false);
        assert_eq!(budget.reservation().grow(5), Err(Refusal::Evict(35)));
    }

    #[test]
    fn what_a_new_catalog_does_not_know_counts() {
        let budget = Budget::new(100, 0, 0, true);
        let mut one = budget.reservation();
        assert_eq!(one.grow(1), Err(Refusal::Never), "nobody has looked");
        budget.adopt(Change { bytes: 20, blobs: 1 });
        budget.estimated(100);
        assert_eq!((budget.amounts().at_rest, one.grow(1)), (20, Err(Refusal::Evict(1))), "there may be so much");
        budget.surveyed(70);
        assert_eq!((budget.amounts().at_rest, budget.amounts().blobs), (70, 1));
        assert_eq!((one.grow(31), one.grow(30)), (Err(Refusal::Evict(1)), Ok(())));
        budget.apply(Change { bytes: 30, blobs: 1 }, Some(one));
        budget.adopt(Change { bytes: 50, blobs: 1 });
        assert_eq!(budget.amounts(), Amounts { at_rest: 100, reserved: 0, blobs: 3 });
        budget.restart(0, 0, true);
        assert_eq!(budget.amounts().at_rest, 100, "another one does not know either");
        assert_eq!(budget.reservation().grow(1), Err(Refusal::Evict(1)));
        budget.restart(60, 2, false);
        assert_eq!(budget.amounts().at_rest, 60);
        budget.restart(10, 1, true);
        budget.all_is_known();
        assert_eq!(budget.amounts(), Amounts { at_rest: 10, reserved: 0, blobs: 1 });
    }
}
