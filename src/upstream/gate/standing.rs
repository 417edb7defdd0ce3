//! How an upstream stands, for people and metrics: whether it answers, what it allows, and why it is not asked. A snapshot, to be
//! shown; nothing is decided by it.

use std::time::Duration;

use crate::upstream::error::UpstreamError;
use crate::upstream::rate_limit::RateLimit;

/// How an upstream stands at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The operator has said that it is not to be asked.
    pub is_offline: bool,
    /// In the order in which they are asked; there is at least one.
    pub endpoints: Vec<EndpointStanding>,
}

/// How one endpoint of an upstream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointStanding {
    /// With its port, where that is not the scheme's own.
    pub host: String,
    /// Whether it answers questions about manifests, tags and referrers; of others, too, none is asked while it does not.
    pub state: EndpointState,
    /// Whether its blobs can be had.
    pub blobs: EndpointState,
    /// For how much longer nothing is asked because it has limited the rate.
    pub limited_for: Option<Duration>,
    /// Its limit on pulls as it was last told, as long as the window of that lasts.
    pub rate_limit: Option<RateLimit>,
}

/// Whether an endpoint is believed to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointState {
    Answers,
    /// It is left alone.
    Suspended {
        /// For how long it has been.
        since: Duration,
        /// How it failed the last time.
        cause: UpstreamError,
        /// After how long it is looked at again; zero while it is.
        next_look: Duration,
    },
}

/// Why a question was not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unasked {
    Offline,
    /// No endpoint is believed to answer.
    Suspended,
    /// The upstream has asked not to be asked for a while.
    Limited,
    /// What is left of its limit is kept for what is not cached.
    Saving,
    /// The client has had its share of the limit.
    Share,
    /// Too many questions were waiting for their answers for too long.
    Queue,
}

impl Standing {
    /// Whether there is no endpoint that is believed to answer all that it is asked.
    pub fn is_open(&self) -> bool {
        let answers = |endpoint: &EndpointStanding| [&endpoint.state, &endpoint.blobs] == [&EndpointState::Answers; 2];
        !self.endpoints.iter().any(answers)
    }

    /// For how much longer every endpoint has asked not to be asked; zero if one has not.
    pub fn limited_for(&self) -> Duration {
        self.endpoints.iter().map(|endpoint| endpoint.limited_for.unwrap_or_default()).min().unwrap_or_default()
    }
}

impl Unasked {
    /// All of them, for metrics that exist before they count.
    pub const ALL: [Self; 6] = [Self::Offline, Self::Suspended, Self::Limited, Self::Saving, Self::Share, Self::Queue];

    /// One word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Suspended => "suspended",
            Self::Limited => "limited",
            Self::Saving => "saving",
            Self::Share => "share",
            Self::Queue => "queue",
        }
    }
}
