//! Counts and logs what goes wrong with the disk and the catalog. It never decides what follows from an error.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::catalog::CatalogError;
use super::error::StoreError;

/// A step that the store takes on the disk. A closed list, so that metrics have a series for each from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    OpenBlob,
    ReadBlob,
    StatBlob,
    RemoveBlob,
    CreatePart,
    StatPart,
    ReopenPart,
    AllocatePart,
    WritePart,
    WriteMap,
    SyncPart,
    ProtectPart,
    RenamePart,
    RemovePart,
    CreateFolder,
    SyncFolder,
    ListFolder,
    ReadRef,
    WriteRef,
    RemoveRef,
}

/// Error counts since the store was opened.
#[derive(Debug, Default)]
pub(super) struct Health {
    disk: [AtomicU64; Operation::ALL.len()],
    catalog: AtomicU64,
    /// Why the last content could not be stored, if it could not.
    trouble: Mutex<Option<String>>,
    /// Why the folder is out of reach, if it is.
    absence: Mutex<Option<String>>,
    /// Why the catalog is not open, if it is not.
    closure: Mutex<Option<String>>,
}

// === impl Operation ===

impl Operation {
    pub(super) const ALL: [Self; 20] = [
        Self::OpenBlob,
        Self::ReadBlob,
        Self::StatBlob,
        Self::RemoveBlob,
        Self::CreatePart,
        Self::StatPart,
        Self::ReopenPart,
        Self::AllocatePart,
        Self::WritePart,
        Self::WriteMap,
        Self::SyncPart,
        Self::ProtectPart,
        Self::RenamePart,
        Self::RemovePart,
        Self::CreateFolder,
        Self::SyncFolder,
        Self::ListFolder,
        Self::ReadRef,
        Self::WriteRef,
        Self::RemoveRef,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::OpenBlob => "open blob",
            Self::ReadBlob => "read blob",
            Self::StatBlob => "stat blob",
            Self::RemoveBlob => "remove blob",
            Self::CreatePart => "create part",
            Self::StatPart => "stat part",
            Self::ReopenPart => "reopen part",
            Self::AllocatePart => "allocate part",
            Self::WritePart => "write part",
            Self::WriteMap => "write map",
            Self::SyncPart => "sync part",
            Self::ProtectPart => "protect part",
            Self::RenamePart => "rename part",
            Self::RemovePart => "remove part",
            Self::CreateFolder => "create folder",
            Self::SyncFolder => "sync folder",
            Self::ListFolder => "list folder",
            Self::ReadRef => "read ref",
            Self::WriteRef => "write ref",
            Self::RemoveRef => "remove ref",
        }
    }
}

// === impl Health ===

impl Health {
    /// Notes that `operation` on `path` failed.
    pub(super) fn disk_error(&self, operation: Operation, path: &Path, error: &io::Error) {
        self.disk[operation as usize].fetch_add(1, Ordering::Relaxed);
        // That the folder is gone has been said, once.
        if self.absence().is_some() {
            return;
        }
        tracing::warn!(op = operation.as_str(), path = %path.display(), %error, "disk error in the store");
    }

    /// Notes that the catalog could not be asked or written.
    pub(super) fn catalog_error(&self, what: &'static str, error: &CatalogError) {
        self.catalog.fetch_add(1, Ordering::Relaxed);
        // As above.
        if self.absence().is_some() || self.is_catalog_closed() {
            return;
        }
        tracing::warn!(op = what, %error, "catalog error in the store");
    }

    /// Notes how it went to store a content. Tells operators when that changes.
    pub(super) fn stored<T>(&self, outcome: &Result<T, StoreError>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (outcome, &*trouble) {
            (Err(error), None) => tracing::warn!(%error, "content cannot be stored: it passes through until that is over"),
            (Ok(_), Some(_)) => tracing::info!("content is stored again"),
            _ => {}
        }
        *trouble = outcome.as_ref().err().map(StoreError::to_string);
    }

    /// Notes that the folder is out of reach. Tells operators when that is new, or for another reason.
    pub(super) fn folder_is_gone(&self, reason: String) {
        let mut absence = self.absence();
        if absence.as_ref() != Some(&reason) {
            tracing::error!(reason, "the cache's folder is out of reach: all passes through until it is back");
        }
        *absence = Some(reason);
    }

    /// Notes that the folder can be used again, and that nothing is known against it.
    pub(super) fn folder_is_back(&self) {
        *self.absence() = None;
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes that the catalog cannot be opened. Tells operators when that is new, or for another reason.
    pub(super) fn catalog_is_closed(&self, error: &CatalogError) {
        let mut closure = self.closure();
        let reason = format!("it cannot be noted: {error}");
        if closure.as_ref() != Some(&reason) {
            tracing::error!(%error, "the catalog cannot be opened: content is served by the files, and none is stored");
        }
        *closure = Some(reason);
    }

    pub(super) fn catalog_is_open(&self) {
        if self.closure().take().is_some() {
            tracing::info!("the catalog is open again");
        }
    }

    pub(super) fn is_catalog_closed(&self) -> bool {
        self.closure().is_some()
    }

    /// Whether the last content could not be stored.
    pub(super) fn has_failed_to_store(&self) -> bool {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn closure(&self) -> MutexGuard<'_, Option<String>> {
        self.closure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn absence(&self) -> MutexGuard<'_, Option<String>> {
        self.absence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing can be stored, as far as is known.
    pub(super) fn trouble(&self) -> Option<String> {
        if let Some(reason) = self.absence().clone() {
            return Some(reason);
        }
        if let Some(reason) = self.closure().clone() {
            return Some(reason);
        }
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every operation with the number of times that it failed, zero included.
    pub(super) fn disk_errors(&self) -> Vec<(&'static str, u64)> {
        Operation::ALL
            .into_iter()
            .map(|operation| (operation.as_str(), self.disk[operation as usize].load(Ordering::Relaxed)))
            .collect()
    }

    pub(super) fn catalog_errors(&self) -> u64 {
        self.catalog.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_counts_for_itself() {
        let health = Health::default();
        for (index, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, index, "{operation:?} stands in the order of the list");
            health.disk_error(operation, Path::new("x"), &io::Error::other("as the test wants"));
        }
        health.disk_error(Operation::SyncPart, Path::new("x"), &io::Error::other("as the test wants"));
        for (name, count) in health.disk_errors() {
            assert_eq!(count, if name == "sync part" { 2 } else { 1 }, "{name}");
        }
    }
}
