//! Why content did not arrive.

use tokio::task::JoinError;

use crate::oci::Digest;
use crate::upstream::UpstreamError;

/// Why a fill ended without its content at rest. Cloned to every reader.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FillError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The upstream's bytes are not what they should be: never kept, never served whole.
    #[error("the upstream's bytes hash to {actual}, which is not what was asked for")]
    WrongDigest { actual: Digest },
    #[error("the upstream has {actual} bytes where {expected} were expected")]
    WrongSize { expected: u64, actual: u64 },
    /// There is no room in the cache: the content can pass through, but not be kept.
    #[error("the cache has no room for it")]
    NoSpace,
    /// The disk failed while the content arrived.
    #[error("the cache's disk failed: {0}")]
    Disk(String),
    /// What an earlier fill had left of it is damaged: the next fill begins anew.
    #[error("what was kept of it is damaged")]
    BadPart,
    /// Nobody reads it any more, and it is too large to be fetched for nobody.
    #[error("nobody reads it any more")]
    Unread,
    /// The process stops. Where the next start can go on with what has arrived, it is there.
    #[error("this server is stopping")]
    Stopped,
    /// The task that drove the fill ended without a word: a defect of ours.
    #[error("the fill was abandoned")]
    Abandoned,
}

/// Of a task that blocked on the fill's behalf.
impl From<JoinError> for FillError {
    fn from(error: JoinError) -> Self {
        // Nobody cancels such a task but the runtime at its end.
        if error.is_cancelled() { Self::Stopped } else { Self::Abandoned }
    }
}

impl FillError {
    /// Whether the upstream sent something other than what was asked for.
    pub fn is_integrity_failure(&self) -> bool {
        matches!(self, Self::WrongDigest { .. } | Self::WrongSize { .. })
    }

    /// Whether what has arrived can be gone on with by another fill.
    pub(super) fn leaves_a_part(&self) -> bool {
        matches!(self, Self::Upstream(_) | Self::Unread | Self::Stopped)
    }

    /// Whether the next fill is likely to fail in the same way, so that it is not worth beginning for a moment.
    pub(super) fn is_likely_to_recur(&self) -> bool {
        !matches!(self, Self::BadPart | Self::Unread | Self::Stopped)
    }

    /// Whether the cache rather than the upstream is the cause, so that the content can still pass through.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::NoSpace | Self::Disk(_))
    }
}
