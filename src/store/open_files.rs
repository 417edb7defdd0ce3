//! Files of content that is much used, kept open: to look into the catalog and to open a file takes a thread that may block, and costs
//! more than all the rest of a small blob's hit. Nothing in here keeps content from being evicted, replaced or removed; whoever
//! removes it says so first, so that its room is free as soon as nobody reads it.
//!
//! It is a set-associative cache, as a processor's: there are never more files than it has places, and one that is let go of is closed in
//! that moment. moka, which has what else is in memory, promises neither: it drops values when its epochs allow (crossbeam-epoch).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::filesystem::StoredFile;
use super::last_use::LastUse;
use crate::oci::Digest;

/// How many files there are at the most.
pub const OPEN_FILES_MAX: usize = SETS * WAYS;

const SETS: usize = 32;
const WAYS: usize = 4;

/// The files, in the set that their digest falls into, and there the one used last at the beginning.
#[derive(Default)]
pub(super) struct OpenFiles([Mutex<Vec<OpenFile>>; SETS]);

struct OpenFile {
    digest: Digest,
    file: Arc<dyn StoredFile>,
    size: u64,
    last_use: LastUse,
}

/// A file that is as it was when it was opened.
pub(super) struct Found {
    pub(super) file: Arc<dyn StoredFile>,
    /// Bytes.
    pub(super) size: u64,
    /// Whether this is to be noted as another use.
    pub(super) is_use: bool,
}

impl OpenFiles {
    /// The file of `digest`, to be used at `now`, unless it has been removed or is not of its size any more. Does not block.
    pub(super) fn get(&self, digest: &Digest, now: i64) -> Option<Found> {
        let found = self.find(digest, now)?;
        (found.file.len_if_named() == Some(found.size)).then_some(found)
    }

    fn find(&self, digest: &Digest, now: i64) -> Option<Found> {
        let mut set = self.set(digest);
        let at = set.iter().position(|open| open.digest == *digest)?;
        set[..=at].rotate_right(1);
        let OpenFile { file, size, last_use, .. } = &set[0];
        Some(Found { file: Arc::clone(file), size: *size, is_use: last_use.renew(now) })
    }

    /// Keeps an open file, in the place of another one if need be.
    pub(super) fn keep(&self, digest: &Digest, file: &Arc<dyn StoredFile>, size: u64, last_use: LastUse) {
        // One that cannot tell is never used again.
        if file.len_if_named() != Some(size) {
            return;
        }
        let mut set = self.set(digest);
        set.retain(|open| open.digest != *digest);
        set.truncate(WAYS - 1);
        set.insert(0, OpenFile { digest: *digest, file: Arc::clone(file), size, last_use });
    }

    /// Lets go of the file, because it is going, or not what it was.
    pub(super) fn forget(&self, digest: &Digest) {
        self.set(digest).retain(|open| open.digest != *digest);
    }

    /// Lets go of those files that somebody else has removed: their room is not to be taken for longer.
    pub(super) fn forget_removed(&self) {
        self.0.iter().for_each(|set| lock(set).retain(|open| open.file.len_if_named().is_some()));
    }

    /// Lets go of all.
    pub(super) fn clear(&self) {
        self.0.iter().for_each(|set| lock(set).clear());
    }

    fn set(&self, digest: &Digest) -> MutexGuard<'_, Vec<OpenFile>> {
        // What a hash function gives falls into all sets alike.
        let number = digest.as_bytes().first().copied().unwrap_or_default();
        lock(&self.0[usize::from(number) % SETS])
    }
}

fn lock(set: &Mutex<Vec<OpenFile>>) -> MutexGuard<'_, Vec<OpenFile>> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}
