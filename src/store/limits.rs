//! How much the store may hold, and what it leaves to others, as an operator says it: in bytes, or as a share of the file system
//! that the folder is on. Which one that is shows when the folder is there: so it is worked out whenever the folder is taken, and
//! never from what is at its path otherwise. It decides nothing about content.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use super::blobs::Blobs;
use crate::config::MaxSize;

/// Of a share of a file system, as of any promise of what others use as well, a twentieth is not grown into: while less is free,
/// content goes for content, and what is cached stays.
const MARGIN: u64 = 20;

/// What an operator allows a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most that it may hold.
    pub max_size: MaxSize,
    /// What is left of the file system to others: content goes, or is not stored, rather than that.
    pub min_free: MaxSize,
}

/// Limits, and whether all of them are known in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    limits: Limits,
    is_known: bool,
}

/// All of these block for a look at the file system.
impl Blobs {
    /// Has these limits kept from now on. What is at rest beyond them goes when room is made.
    pub(super) fn limit(&self, limits: Limits) {
        let mut allowance = self.allowance();
        *allowance = Some(Allowance { limits, is_known: false });
        self.work_out(&mut allowance);
    }

    /// Works the limits out, if they are not known.
    pub(super) fn know_limits(&self) {
        self.work_out(&mut self.allowance());
    }

    /// Works the limits out anew: the folder may be on another file system than before.
    pub(super) fn review_limits(&self) {
        let mut allowance = self.allowance();
        if let Some(allowance) = &mut *allowance {
            allowance.is_known = false;
        }
        self.work_out(&mut allowance);
    }

    /// Whether there are limits of which nobody knows yet how many bytes they are.
    pub(super) fn awaits_limits(&self) -> bool {
        self.allowance().is_some_and(|allowance| !allowance.is_known)
    }

    fn work_out(&self, allowance: &mut Option<Allowance>) {
        let Some(allowance) = allowance.as_mut().filter(|allowance| !allowance.is_known) else { return };
        let Limits { max_size, min_free } = allowance.limits;
        let is_share = |size| matches!(size, MaxSize::Share(_));
        // It does not tell of a folder that is out of reach.
        let size = self.fs.space(self.layout.root()).ok().map(|space| space.size);
        if let Some(bytes) = in_bytes(max_size, size) {
            self.budget.set_max(bytes);
        }
        if let Some(bytes) = in_bytes(min_free, size) {
            self.min_free.store(bytes, Ordering::Relaxed);
        }
        // Bytes are a promise that others have to keep; a share of a file system that is in use already is none.
        let margin = size.filter(|_| is_share(max_size)).map_or(0, |size| size / MARGIN);
        self.margin.store(margin, Ordering::Relaxed);
        allowance.is_known = size.is_some() || !(is_share(max_size) || is_share(min_free));
    }

    fn allowance(&self) -> MutexGuard<'_, Option<Allowance>> {
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A size in bytes, of which a share is one of `whole` bytes, if that is known.
fn in_bytes(size: MaxSize, whole: Option<u64>) -> Option<u64> {
    match size {
        MaxSize::Bytes(bytes) => Some(bytes),
        MaxSize::Share(percent) => whole.map(|whole| (whole / 100).saturating_mul(u64::from(percent))),
    }
}
