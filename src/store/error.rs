//! What can go wrong with content at rest, as types. Nothing in here decides what a client is told: a mirror passes through
//! whatever it cannot store.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::catalog::CatalogError;
use super::health::Operation;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the folder {} is in use by another process{}", .dir.display(), .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    InUse {
        dir: PathBuf,
        pid: Option<u32>,
        /// Where the other process answers, if it has said so.
        address: Option<SocketAddr>,
    },
    /// The folder has files in it but not our marker: it may be somebody's home.
    #[error("the folder {} is not empty and was not made by Larder; give it a folder of its own", .0.display())]
    NotOurs(PathBuf),
    /// It is empty, and on another mount than it was: what is mounted there as a rule seems to be missing.
    #[error("the folder {} is empty and not on the file system that it was on; mount that, or restart Larder to begin anew there", .0.display())]
    NotMounted(PathBuf),
    #[error("the folder {} has layout {found}, this version knows layout {known} only", .dir.display())]
    OtherLayout { dir: PathBuf, found: String, known: u32 },
    #[error("cannot use the folder {}: {what}: {source}", .dir.display())]
    Io { dir: PathBuf, what: &'static str, source: io::Error },
    #[error("cannot open the catalog: {0}")]
    Catalog(#[from] CatalogError),
}

/// Why content could not be stored. Never a reason to refuse a pull.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The budget has no room even after eviction, or the disk (`ENOSPC`) or the quota (`EDQUOT`) has none.
    #[error("no space left for the content")]
    NoSpace,
    /// `op` names the step and what it was done to.
    #[error("cannot {op}: {source}")]
    Io { op: &'static str, source: Arc<io::Error> },
    /// The content could not be entered into the catalog, and was dropped.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl StoreError {
    pub(super) fn io(operation: Operation, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Io { op: operation.as_str(), source: Arc::new(source) },
        }
    }
}
