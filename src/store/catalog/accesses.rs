//! Uses of content that the catalog has not been told of yet. A hit notes one in memory at most; the writer takes them in bulk.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::contents::ContentRow;
use crate::oci::Digest;
use crate::store::eviction::policy::{MAX_USES, is_use};

/// Of content whose uses are counted to the full, one less than this long after the last that was stored is not noted
/// (milliseconds).
const COARSENESS: u64 = 10 * 60 * 1000;

/// When more than this many wait, the writer is told not to wait for its next turn.
const MANY: usize = 4096;

/// What is to be noted of one content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    /// When the last use was, in milliseconds since 1970.
    pub(super) at: i64,
    /// How many uses there were, up to [`MAX_USES`].
    pub(super) uses: u8,
}

/// By digest, what waits.
#[derive(Default)]
pub(super) struct Accesses(Mutex<HashMap<Digest, Access>>);

impl Accesses {
    /// Notes a read at `now` of content of which the catalog says `stored`, if it is another use. Tells whether many are waiting.
    pub(super) fn note(&self, digest: &Digest, stored: &ContentRow, now: i64) -> bool {
        let is_full = stored.uses >= MAX_USES && now.abs_diff(stored.accessed_at) < COARSENESS;
        if is_full || !is_use(stored.accessed_at, now) {
            return false;
        }
        let mut pending = self.lock();
        match pending.entry(*digest) {
            Entry::Occupied(mut access) => {
                let access = access.get_mut();
                if is_use(access.at, now) {
                    *access = Access { at: now, uses: MAX_USES.min(access.uses + 1) };
                }
                false
            }
            Entry::Vacant(vacant) => {
                vacant.insert(Access { at: now, uses: 1 });
                pending.len() == MANY
            }
        }
    }

    pub(super) fn take(&self) -> HashMap<Digest, Access> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Access>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_often_is_noted_seldom() {
        let accesses = Accesses::default();
        let digest = Digest::sha256(b"x");
        let minute = 60_000;
        let row = |uses| ContentRow { size: 1, accessed_at: 0, uses };
        accesses.note(&digest, &row(0), minute - 1);
        accesses.note(&digest, &row(3), 9 * minute);
        assert!(accesses.take().is_empty(), "the same use, and one that would change nothing");
        for at in [1, 1, 2, 7, 8, 9] {
            accesses.note(&digest, &row(0), at * minute);
        }
        assert_eq!(accesses.take()[&digest], Access { at: 9 * minute, uses: MAX_USES });
        accesses.note(&digest, &row(3), 10 * minute);
        assert_eq!(accesses.take()[&digest], Access { at: 10 * minute, uses: 1 });
    }
}
