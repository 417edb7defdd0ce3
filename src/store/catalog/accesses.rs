//! Uses of content that the catalog has not been told of yet. A hit notes one in memory at most; the writer takes them in bulk.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::oci::Digest;
use crate::store::eviction::policy::{MAX_USES, is_use};
use crate::util::Hashing;

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
pub(super) struct Accesses(Mutex<HashMap<Digest, Access, Hashing>>);

impl Accesses {
    /// Notes a read at `now` of content whose last use in the catalog is `stored`, as far as the caller knows, if it is another use.
    /// Tells whether many are waiting.
    pub(super) fn note(&self, digest: &Digest, stored: Option<i64>, now: i64) -> bool {
        if stored.is_some_and(|stored| !is_use(stored, now)) {
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

    pub(super) fn take(&self) -> HashMap<Digest, Access, Hashing> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Access, Hashing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_close_together_are_noted_once() {
        let accesses = Accesses::default();
        let digest = Digest::sha256(b"x");
        let minute = 60_000;
        accesses.note(&digest, Some(0), 9 * minute);
        assert!(accesses.take().is_empty(), "the catalog knows of this use");
        for at in [10, 10, 19, 21, 29, 35] {
            accesses.note(&digest, Some(0), at * minute);
        }
        accesses.note(&digest, None, 44 * minute);
        assert_eq!(accesses.take()[&digest], Access { at: 35 * minute, uses: MAX_USES });
        accesses.note(&digest, None, 36 * minute);
        assert_eq!(accesses.take()[&digest], Access { at: 36 * minute, uses: 1 }, "what the catalog makes of this, it decides");
    }
}
