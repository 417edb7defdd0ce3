//! Accesses that the catalog has not been told of yet. A hit notes one in memory at most; the writer takes them in bulk.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::oci::Digest;

/// An access less than this long after the last one that was stored is not noted (milliseconds).
const COARSENESS: u64 = 10 * 60 * 1000;

/// When more than this many wait, the writer is told not to wait for its next turn.
const MANY: usize = 4096;

/// Digests with the time of their last access, in milliseconds since 1970.
#[derive(Default)]
pub(super) struct Accesses(Mutex<HashMap<Digest, i64>>);

impl Accesses {
    /// Notes an access at `now` of content whose last access in the catalog is `stored`. Tells whether many are waiting.
    pub(super) fn note(&self, digest: &Digest, stored: i64, now: i64) -> bool {
        // The clock may have been set back: what lies in the future is as much out of date as what lies in the past.
        if now.abs_diff(stored) < COARSENESS {
            return false;
        }
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pending.insert(*digest, now);
        pending.len() == MANY
    }

    pub(super) fn take(&self) -> HashMap<Digest, i64> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
