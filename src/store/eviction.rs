//! Room for new content: what was least recently used goes first, small content and manifests last, and nothing that is open.
//! Nothing in here decides whether content may be stored; it gives what room there is.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::blobs::{Blobs, DigestClaim};
use super::budget::{Change, Refusal, Reservation};
use super::catalog::contents::{self, Candidate};
use super::error::StoreError;
use super::pins::Leave;
use crate::oci::Digest;

/// How many contents are looked at, and go, at a time.
const BATCH: usize = 128;

/// Content that is about to go. Nobody opens or replaces it until its row is gone, too: the digest is held
/// before it leaves, and let go of after.
struct Victim {
    digest: Digest,
    _leave: Leave,
    _claim: DigestClaim,
}

/// All of these block.
impl Blobs {
    /// Makes the reservation at least `total` bytes large, and room for it if need be.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] if there is no room and nothing that may go.
    pub(super) fn reserve(&self, reservation: &mut Reservation, total: u64) -> Result<(), StoreError> {
        if total > self.budget.max() {
            return Err(StoreError::NoSpace);
        }
        loop {
            match reservation.grow(total) {
                Ok(()) => return Ok(()),
                // What is of use only if somebody comes back for it goes before what is whole.
                Err(_) if self.parts.give_up_oldest() => continue,
                Err(Refusal::Never) => return Err(StoreError::NoSpace),
                Err(Refusal::Evict(_)) => {}
            }
            let _turn = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever had the turn before may have made room for this one, too.
            match reservation.grow(total) {
                Ok(()) => return Ok(()),
                Err(Refusal::Never) => return Err(StoreError::NoSpace),
                Err(Refusal::Evict(bytes)) if self.evict(bytes) == 0 => return Err(StoreError::NoSpace),
                Err(Refusal::Evict(_)) => {}
            }
        }
    }

    /// Evicts content of `bytes` bytes or a little more, or all that may go. Gives how many bytes went.
    fn evict(&self, bytes: u64) -> u64 {
        if let Err(error) = self.catalog.database.flush_accesses() {
            self.health.catalog_error("flush accesses", &error);
        }
        let mut evicted = 0;
        for protected in [false, true] {
            let mut last = None;
            while evicted < bytes {
                let page = |connection: &_| contents::least_recently_used(connection, protected, last, BATCH);
                let page = self.catalog.read("read eviction candidates", page).unwrap_or_default();
                let Some(end) = page.last() else { break };
                last = Some(*end);
                evicted += self.evict_from(&page, bytes - evicted);
            }
        }
        evicted
    }

    /// Evicts from a page of candidates until `bytes` have gone. Files go before rows, so that what is counted as free is free.
    fn evict_from(&self, page: &[Candidate], bytes: u64) -> u64 {
        let mut victims = Vec::new();
        let mut expected = 0;
        for candidate in page {
            if expected >= bytes {
                break;
            }
            let Some(victim) = self.victim(&candidate.digest) else { continue };
            if self.unlink(&victim.digest) {
                expected += candidate.size;
                victims.push(victim);
            }
        }
        if victims.is_empty() {
            return 0;
        }
        let digests: Vec<Digest> = victims.iter().map(|victim| victim.digest).collect();
        let count = digests.len() as u64;
        let delete = move |connection: &_| {
            digests.iter().try_fold(Change::default(), |total, digest| Ok(total + contents::delete(connection, digest)?))
        };
        let budget = self.budget.clone();
        let outcome = self.catalog.database.write_then(delete, move |change| {
            budget.apply(change, None);
            change.bytes.unsigned_abs()
        });
        match outcome {
            Ok(evicted) => {
                tracing::debug!(blobs = count, size_bytes = evicted, "evicted");
                self.evictions.fetch_add(count, Ordering::Relaxed);
                self.evicted_bytes.fetch_add(evicted, Ordering::Relaxed);
                evicted
            }
            // The rows stay, and count, until a walk finds that they have no files.
            Err(error) => {
                self.health.catalog_error("evict", &error);
                0
            }
        }
    }

    fn victim(&self, digest: &Digest) -> Option<Victim> {
        let claim = self.claims.try_claim(digest)?;
        let leave = self.pins.leave(digest)?;
        Some(Victim { digest: *digest, _leave: leave, _claim: claim })
    }
}
