//! Why the mirror has nothing to answer with. The server maps these to status codes, in one place.

use std::time::Duration;

use crate::fill::FillError;
use crate::oci::ManifestError;
use crate::upstream::{Phase, UpstreamError};

/// Why a request cannot be answered with content. Cheap to clone: one error may answer many waiting clients.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MirrorError {
    /// The upstream, asked now or a moment ago, has no such thing.
    #[error("the upstream has no such {0}")]
    Unknown(&'static str),
    /// It is not here, and the upstream is not to be asked.
    #[error("Larder is offline, and the cache has no such {0}")]
    Offline(&'static str),
    #[error(transparent)]
    Upstream(UpstreamError),
    /// The upstream's answer is not what it should be.
    #[error("the upstream's answer is not acceptable: {0}")]
    Unacceptable(String),
    /// The upstream's blob is not what its digest or size says.
    #[error("the upstream's blob is not acceptable: {0}")]
    Corrupt(FillError),
    /// Part of the image can be neither served nor fetched: a client is better off asking its next host for all of it.
    #[error("the cached image is incomplete, and the rest cannot be fetched: {0}")]
    Incomplete(UpstreamError),
    /// The same content broke in mid-body a moment ago.
    #[error("the last transfer of this content broke: {0}")]
    Broken(FillError),
    /// The client asks for more than its share.
    #[error("this client asks for more that is not cached than its share; it was not its turn within {} s", .waited.as_secs_f64())]
    Throttled { waited: Duration },
    #[error("the cache failed: {0}")]
    Cache(String),
}

impl MirrorError {
    pub(super) fn from_upstream(error: UpstreamError, what: &'static str) -> Self {
        match error {
            UpstreamError::NotFound => Self::Unknown(what),
            UpstreamError::Offline => Self::Offline(what),
            error => Self::Upstream(error),
        }
    }

    pub(super) fn from_fill(error: FillError) -> Self {
        match error {
            FillError::Upstream(error) => Self::from_upstream(error, "blob"),
            error if error.is_integrity_failure() => Self::Corrupt(error),
            error => Self::Cache(error.to_string()),
        }
    }

    /// A task of ours ended without a result.
    pub(super) fn abandoned() -> Self {
        Self::Cache("the task that fetched it was abandoned".to_owned())
    }

    /// The failure of the upstream for which what is cached may be served instead although it is stale, where the tag's policy
    /// has nothing against it. `None` where nothing that is cached helps.
    pub(super) fn stale_cause(&self) -> Option<UpstreamError> {
        match self {
            Self::Upstream(error) => Some(error.clone()),
            Self::Unknown(_) => Some(UpstreamError::NotFound),
            Self::Offline(_) => Some(UpstreamError::Offline),
            Self::Throttled { .. } => Some(UpstreamError::Timeout { phase: Phase::Queue }),
            Self::Unacceptable(reason) => Some(UpstreamError::Broken { reason: reason.clone() }),
            _ => None,
        }
    }

    /// Whether the same question may be answered when another caller puts it.
    pub(super) fn is_for_one_caller(&self) -> bool {
        matches!(self, Self::Upstream(error) if error.is_for_one_caller())
    }

    /// After how long it is worth to ask again, if the upstream told.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Upstream(error) | Self::Incomplete(error) => error.retry_after(),
            Self::Broken(FillError::Upstream(error)) => error.retry_after(),
            Self::Throttled { waited } => Some(*waited),
            _ => None,
        }
    }
}

impl From<ManifestError> for MirrorError {
    fn from(error: ManifestError) -> Self {
        Self::Unacceptable(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Party;

    #[test]
    fn when_to_come_again_is_told_whatever_it_was_that_was_limited() {
        let after = Some(Duration::from_secs(7));
        let limited = UpstreamError::RateLimited { retry_after: after, by: Party::Registry };
        let broken = MirrorError::Broken(FillError::Upstream(limited.clone()));
        for error in [MirrorError::Upstream(limited.clone()), MirrorError::Incomplete(limited), broken] {
            assert_eq!(error.retry_after(), after, "{error}");
        }
        assert_eq!(MirrorError::Broken(FillError::BadPart).retry_after(), None);
    }
}
