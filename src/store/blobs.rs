//! Content at rest: opening it, and keeping the files and the catalog's rows in agreement. Files are the truth; a row is believed
//! only as to the size that a file must have. All of it blocks.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use super::Content;
use super::budget::{Budget, Change, Reservation};
use super::catalog::contents::{self, Arrival, ContentRow};
use super::catalog::{self, CatalogError};
use super::exclusive::{Claim, Exclusive};
use super::filesystem::{FileSystem, StoredFile};
use super::health::{Health, Operation};
use super::holds::Holds;
use super::last_use::LastUse;
use super::layout::Layout;
use super::limits::Allowance;
use super::open_files::OpenFiles;
use super::parts::Parts;
use super::scrub;
use super::walk;
use crate::oci::{Digest, Hasher, MANIFEST_MAX_BYTES};
use crate::util::Clock;

/// What the parts of a store share.
pub(super) struct Blobs {
    pub(super) layout: Arc<Layout>,
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) health: Arc<Health>,
    pub(super) catalog: Arc<catalog::Inner>,
    pub(super) budget: Budget,
    /// Bytes of the file system that are left to others.
    pub(super) min_free: AtomicU64,
    /// With less than so many bytes of the file system free, content goes for content.
    pub(super) margin: AtomicU64,
    /// What the two, and the limit of the budget, follow from, if somebody has said.
    pub(super) allowance: Mutex<Option<Allowance>>,
    pub(super) holds: Holds,
    pub(super) open_files: OpenFiles,
    /// A digest is held while its file and its row are changed.
    pub(super) claims: Exclusive<Digest>,
    /// Held by the one that evicts. A hit never waits for it.
    pub(super) evicting: Mutex<()>,
    pub(super) evictions: AtomicU64,
    pub(super) evicted_bytes: AtomicU64,
    pub(super) walks: walk::Pending,
    pub(super) scrubbed: scrub::Counts,
    pub(super) parts: Parts,
    /// What is wrong and could not be removed, so that it is not opened again.
    pub(super) condemned: Mutex<HashSet<Digest>>,
    /// Ends the watch over the folder when it is dropped.
    pub(super) _watch: mpsc::Sender<Infallible>,
}

impl Blobs {
    /// Content that is open already. Does not block.
    pub(super) fn get_open(&self, digest: &Digest) -> Option<Content> {
        let now = self.clock.unix_millis();
        let open = self.open_files.get(digest, now)?;
        let hold = self.holds.hold(digest)?;
        if self.condemned().contains(digest) {
            return None;
        }
        if open.is_use {
            self.catalog.database.note_access(digest, None, now);
        }
        Some(Content::new(open.file, open.size, hold))
    }

    /// Opens content. What is missing, short or empty is not there; neither is what cannot be read.
    pub(super) fn get(&self, digest: &Digest) -> Option<Content> {
        self.open_files.forget(digest);
        let hold = self.holds.hold(digest)?;
        if self.condemned().contains(digest) {
            return None;
        }
        let row = self.row(digest);
        let path = self.layout.blob(digest);
        let (file, size) = match self.open(&path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if row.is_some() {
                    self.reconcile(digest);
                }
                return None;
            }
            Err(error) => {
                self.health.disk_error(Operation::OpenBlob, &path, &error);
                return None;
            }
        };
        match row {
            Some(row) if row.size == size && is_plausible(digest, size) => {
                let now = self.clock.unix_millis();
                self.catalog.database.note_access(digest, Some(row.accessed_at), now);
                // It is held, so that it is not evicted in this moment.
                let last_use = LastUse::at(row.accessed_at);
                last_use.renew(now);
                self.open_files.keep(digest, &file, size, last_use);
            }
            None if is_plausible(digest, size) && self.walks.is_any() => self.enter_later(digest),
            None if is_plausible(digest, size) => self.reconcile(digest),
            _ => {
                self.reconcile(digest);
                return None;
            }
        }
        Some(Content::new(file, size, hold))
    }

    fn open(&self, path: &Path) -> io::Result<(Arc<dyn StoredFile>, u64)> {
        let file = self.fs.open(path)?;
        let size = file.len()?;
        Ok((file, size))
    }

    /// Removes content that was found to be wrong, open or not. Where the disk does not let that happen, it is not opened any more.
    pub(super) fn remove(&self, digest: &Digest) {
        self.remove_claimed(digest, self.claims.claim(digest));
    }

    /// As [`Blobs::remove`], for the holder of the digest.
    pub(super) fn remove_claimed(&self, digest: &Digest, _claim: DigestClaim) {
        if !self.unlink(digest) {
            self.condemned().insert(*digest);
        }
        self.align(digest);
    }

    pub(super) fn condemned(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.condemned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the row say what the file is. Whoever holds the digest does that anyway, so then there is nothing to do.
    pub(super) fn reconcile(&self, digest: &Digest) {
        if let Some(_claim) = self.claims.try_claim(digest) {
            self.align(digest);
        }
    }

    /// As [`Blobs::reconcile`], for the holder of the digest. A file that cannot be what it is named after is removed.
    pub(super) fn align(&self, digest: &Digest) {
        let path = self.layout.blob(digest);
        let row = self.row(digest);
        let stored = match self.fs.metadata(&path) {
            Ok(metadata) if metadata.is_file => Some(metadata),
            Ok(_) => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return self.health.disk_error(Operation::StatBlob, &path, &error),
        };
        let good = stored.filter(|file| is_plausible(digest, file.size) && row.is_none_or(|row| row.size == file.size));
        let outcome = match (stored, good, row) {
            (_, Some(_), Some(_)) | (None, _, None) => return,
            (_, Some(file), None) => self.enter(digest, file.size, Arrival::Found { used_at: file.used_at }, None),
            (Some(file), None, _) => {
                tracing::warn!(%digest, size_bytes = file.size, "a file has a size that its content cannot have; it is removed");
                if self.unlink(digest) { self.strike(digest) } else { return }
            }
            (None, None, Some(_)) => self.strike(digest),
        };
        if let Err(error) = outcome {
            self.health.catalog_error("align blob", &error);
        }
    }

    /// Enters content into the catalog and the budget, in which it takes the place of its reservation.
    pub(super) fn enter(
        &self,
        digest: &Digest,
        size: u64,
        arrival: Arrival,
        reservation: Option<Reservation>,
    ) -> Result<(), CatalogError> {
        let (digest, budget) = (*digest, self.budget.clone());
        let put = move |connection: &_| contents::put(connection, &digest, size, arrival);
        self.catalog.database.write_then(put, move |change| match arrival {
            Arrival::Fetched { .. } => budget.apply(change, reservation),
            Arrival::Found { .. } => budget.adopt(change),
        })
    }

    /// Enters content that was found, without waiting for it: while the catalog is made anew the writer has much to do, and a hit is
    /// not to wait for that. Whoever holds the digest enters it anyway.
    fn enter_later(&self, digest: &Digest) {
        let Some(claim) = self.claims.try_claim(digest) else { return };
        // What is wrong with it is seen by the walk, too.
        let Ok(file) = self.fs.metadata(&self.layout.blob(digest)) else { return };
        if !file.is_file || !is_plausible(digest, file.size) {
            return;
        }
        let (digest, budget, health) = (*digest, self.budget.clone(), Arc::clone(&self.health));
        let arrival = Arrival::Found { used_at: file.used_at };
        let put = move |connection: &_| contents::put(connection, &digest, file.size, arrival);
        self.catalog.database.submit(put, move |outcome| {
            match outcome {
                Ok(change) => budget.adopt(change),
                Err(error) => health.catalog_error("adopt blob", &error),
            }
            drop(claim);
        });
    }

    /// Takes content out of the catalog and the budget.
    fn strike(&self, digest: &Digest) -> Result<(), CatalogError> {
        let (digest, budget) = (*digest, self.budget.clone());
        let delete = move |connection: &_| contents::delete(connection, &digest);
        self.catalog.database.write_then(delete, move |change: Change| budget.apply(change, None))
    }

    /// Removes the file. Tells whether it is gone.
    pub(super) fn unlink(&self, digest: &Digest) -> bool {
        self.open_files.forget(digest);
        let path = self.layout.blob(digest);
        match self.fs.remove(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => {
                self.health.disk_error(Operation::RemoveBlob, &path, &error);
                // What was done all the same is not to be counted as being there.
                self.fs.metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            }
        }
    }

    fn row(&self, digest: &Digest) -> Option<ContentRow> {
        self.catalog.read("read blob", |connection| contents::get(connection, digest)).flatten()
    }
}

/// Whether content of that digest can have that size: only one content is empty.
pub(super) fn is_plausible(digest: &Digest, size: u64) -> bool {
    size > 0 || *digest == Digest::of(digest.algorithm(), b"")
}

/// A manifest at rest, if it is there, of a size that manifests have, and what its name says.
pub(super) fn read_manifest(fs: &dyn FileSystem, layout: &Layout, digest: &Digest) -> Option<Vec<u8>> {
    let bytes = fs.open(&layout.blob(digest)).and_then(|file| file.read_all(MANIFEST_MAX_BYTES as u64)).ok()?;
    let mut hasher = Hasher::new(digest.algorithm());
    hasher.update(&bytes);
    (hasher.finish() == *digest).then_some(bytes)
}

/// What keeps a digest to its holder.
pub(super) type DigestClaim = Claim<Digest>;
