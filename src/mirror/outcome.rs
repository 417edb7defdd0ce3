//! What the cache did for a request: the words of `Cache-Status`, the access log and the metrics.

use crate::upstream::UpstreamError;

/// What the cache did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheOutcome {
    /// Answered from the cache; nothing was asked.
    Hit,
    /// Answered from the cache after the upstream confirmed that it is right.
    Revalidated,
    /// The same, by a question of another client that was under way.
    RevalidatedJoined,
    /// Answered from the cache although the upstream could not confirm it.
    Stale(StaleReason),
    /// Fetched, and kept.
    Miss,
    /// Answered by the upstream's headers: nobody wanted the content, so nothing was fetched.
    Forwarded,
    /// Fetched by another client's request that was under way.
    Joined,
    /// Fetched, and not kept: the cache has no room or its disk fails.
    PassedThrough,
}

/// Why a stale answer was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StaleReason {
    RateLimited,
    Denied,
    ServerError,
    Timeout,
    Unreachable,
    Refused,
    /// It is not to be asked.
    Offline,
    /// What is left of its limit is saved.
    Saving,
    /// It is being asked behind the client's back.
    Revalidating,
    /// It has the tag no more, and the operator wants what there was.
    Missing,
}

/// What the cache did, and how an upstream's failure shows in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    pub outcome: CacheOutcome,
    /// The status of the upstream's answer that made the difference.
    pub upstream_status: Option<u16>,
}

impl CacheOutcome {
    /// All outcomes, for metrics that exist before they count.
    pub const ALL: [Self; 17] = [
        Self::Hit,
        Self::Revalidated,
        Self::RevalidatedJoined,
        Self::Stale(StaleReason::RateLimited),
        Self::Stale(StaleReason::Denied),
        Self::Stale(StaleReason::ServerError),
        Self::Stale(StaleReason::Timeout),
        Self::Stale(StaleReason::Unreachable),
        Self::Stale(StaleReason::Refused),
        Self::Stale(StaleReason::Offline),
        Self::Stale(StaleReason::Saving),
        Self::Stale(StaleReason::Revalidating),
        Self::Stale(StaleReason::Missing),
        Self::Miss,
        Self::Forwarded,
        Self::Joined,
        Self::PassedThrough,
    ];

    /// Whether a body comes with it for which no upstream was asked on behalf of that client.
    pub const fn is_saving(self) -> bool {
        match self {
            Self::Hit | Self::Revalidated | Self::RevalidatedJoined | Self::Stale(_) | Self::Joined => true,
            Self::Miss | Self::Forwarded | Self::PassedThrough => false,
        }
    }

    /// One word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Revalidated => "revalidated",
            Self::RevalidatedJoined => "revalidated-joined",
            Self::Stale(reason) => reason.as_str(),
            Self::Miss => "miss",
            Self::Forwarded => "forwarded",
            Self::Joined => "joined",
            Self::PassedThrough => "passed-through",
        }
    }
}

impl StaleReason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "stale-rate-limited",
            Self::Denied => "stale-denied",
            Self::ServerError => "stale-server-error",
            Self::Timeout => "stale-timeout",
            Self::Unreachable => "stale-unreachable",
            Self::Refused => "stale-refused",
            Self::Offline => "stale-offline",
            Self::Saving => "stale-saving",
            Self::Revalidating => "stale-while-revalidate",
            Self::Missing => "stale-missing",
        }
    }
}

impl From<&UpstreamError> for StaleReason {
    fn from(error: &UpstreamError) -> Self {
        match error.cause() {
            UpstreamError::RateLimited { .. } => Self::RateLimited,
            UpstreamError::Denied { .. } => Self::Denied,
            UpstreamError::Timeout { .. } => Self::Timeout,
            UpstreamError::Unreachable { .. } => Self::Unreachable,
            UpstreamError::Refused(_) => Self::Refused,
            UpstreamError::Offline => Self::Offline,
            UpstreamError::Saving { .. } | UpstreamError::ShareSpent { .. } => Self::Saving,
            UpstreamError::NotFound => Self::Missing,
            UpstreamError::RangeNotSatisfiable
            | UpstreamError::Status { .. }
            | UpstreamError::NoAnswer { .. }
            | UpstreamError::Broken { .. }
            | UpstreamError::Suspended { .. } => Self::ServerError,
        }
    }
}

impl Lookup {
    pub(super) fn of(outcome: CacheOutcome) -> Self {
        Self { outcome, upstream_status: None }
    }

    pub(super) fn stale(error: &UpstreamError) -> Self {
        Self { outcome: CacheOutcome::Stale(error.into()), upstream_status: error.status_code() }
    }
}
