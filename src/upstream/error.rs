//! Everything that can go wrong with an upstream, as one value that can be kept and given to many waiters. Its text names hosts
//! and statuses; it never holds a credential, a token, a query or a user name.

use std::fmt;
use std::time::Duration;

/// After how long it is worth to ask again when too many are asking.
const QUEUE_PAUSE: Duration = Duration::from_secs(1);

/// For how long an upstream is left alone at the most that has only begun to answer with errors.
const FLAPPING: Duration = Duration::from_secs(1);

/// Why a question has no answer, or why a body ended early. Cheap enough to clone for every waiter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// 404 or 410.
    #[error("the upstream does not have it")]
    NotFound,
    /// 401 after authentication was tried once, 403, or a token server that gave no token.
    #[error("{by} denied access (status {status}{})", .code.as_deref().map(|code| format!(", {code}")).unwrap_or_default())]
    Denied {
        status: u16,
        /// Who said so: with [`Party::TokenServer`] it is the credential that is at fault.
        by: Party,
        /// The first code of an OCI error body, e.g. `DENIED`: upper-case letters and `_` only.
        code: Option<String>,
    },
    /// 429, or nothing was asked because of an earlier one.
    #[error("{by} limits the rate of requests{}", .retry_after.map(|after| format!("; it asks to wait {} s", after.as_secs())).unwrap_or_default())]
    RateLimited {
        retry_after: Option<Duration>,
        /// Whose limit it is: that of [`Party::Storage`] is no matter of the registry.
        by: Party,
    },
    /// 416.
    #[error("the upstream has no such range")]
    RangeNotSatisfiable,
    /// Any other status that is no answer: 5xx, 405, 400, ...
    #[error("{by} answered with status {status}")]
    Status {
        status: u16,
        /// Who said so: with [`Party::TokenServer`] the registry was not asked.
        by: Party,
    },
    #[error("the upstream took too long ({phase})")]
    Timeout { phase: Phase },
    /// Name resolution, connect or TLS failed.
    #[error("the upstream cannot be reached: {reason}")]
    Unreachable { reason: String },
    /// The connection was cut before the head of an answer, or what came is none; or a token server gave no token that is one.
    #[error("the upstream gave no answer: {reason}")]
    NoAnswer { reason: String },
    /// The answer is cut, or not what HTTP allows, or has another length than declared.
    #[error("the upstream's answer is broken: {reason}")]
    Broken { reason: String },
    /// One of our own rules said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The operator has said that it is not to be asked. Nothing was.
    #[error("the upstream is not asked: Larder is offline towards it")]
    Offline,
    /// It failed a moment ago, and is left alone until it is found to answer again. Nothing was asked.
    #[error("{cause} (a moment ago; it is looked for again in {} s)", .retry_after.as_secs().max(1))]
    Suspended {
        /// How it failed. Never one of this kind itself.
        cause: Box<UpstreamError>,
        /// Until when it is not looked for again.
        retry_after: Duration,
    },
    /// What is left of its limit on pulls is for those who have nothing cached to go by. Nothing was asked.
    #[error("only {remaining} pulls are left of the upstream's limit, and they are saved for what is not cached")]
    Saving { remaining: u64 },
    /// The client on whose behalf it would be has had its share of the limit on pulls. Nothing was asked.
    #[error("this client has had its share of the upstream's limit on pulls; the {remaining} that are left are for others")]
    ShareSpent {
        remaining: u64,
        /// Until when it has no other.
        retry_after: Duration,
    },
}

/// What was being waited for when time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// For our own limits on requests per second, or at a time.
    Queue,
    /// For the addresses of a name.
    Resolve,
    /// TCP and TLS together, once an address is known.
    Connect,
    /// From the request to the answer's headers.
    Headers,
    /// For the next byte of a body.
    Body,
    /// For a token, from the request to its last byte.
    Token,
}

/// Who of those at the other end it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// The registry.
    Registry,
    /// Where the registry redirected to: a CDN, an object store.
    Storage,
    /// The identity provider that the registry's challenge names.
    TokenServer,
}

/// A rule of ours that an upstream ran into. The texts name hosts only.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The challenge names a token server that this upstream is not trusted to name.
    #[error("the realm at {host} is not trusted: {why}")]
    Realm { host: String, why: &'static str },
    /// A redirect leads where none may lead.
    #[error("the redirect to {host} is not followed: {why}")]
    Redirect { host: String, why: &'static str },
    /// A host outside the configuration has, or resolves to, none but private addresses.
    #[error("{host} has no public address")]
    Address { host: String },
    /// The body has a content coding, although none was asked for: its bytes would not be those of the digest.
    #[error("{host} answered with content coding {coding:?}")]
    Encoded { host: String, coding: String },
}

/// Why a registry cannot be set up from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("the upstream's URL must be http(s)://host[:port][/path], without user, query or fragment")]
    BadUrl,
    #[error("the realm must be an http(s) URL without user and fragment")]
    BadRealm,
    #[error("a credential is sent only over https or to this machine itself")]
    CredentialInClear,
    #[error("the user agent is not a valid header value")]
    BadUserAgent,
    #[error("the CA certificates cannot be read: {0}")]
    BadCa(String),
    #[error("the HTTP client cannot be set up: {0}")]
    Client(String),
}

impl UpstreamError {
    /// The registry denies access, with this status.
    pub fn denied(status: u16) -> Self {
        Self::Denied { status, by: Party::Registry, code: None }
    }

    /// The registry answers with this status, which is no answer.
    pub const fn status(status: u16) -> Self {
        Self::Status { status, by: Party::Registry }
    }

    /// Whether the same question may have an answer from the same upstream right now.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Timeout { phase } => *phase != Phase::Queue,
            Self::Status { status, .. } => *status == 408 || is_server_failure(*status),
            Self::Unreachable { .. } | Self::NoAnswer { .. } | Self::Broken { .. } => true,
            Self::NotFound
            | Self::Denied { .. }
            | Self::RateLimited { .. }
            | Self::RangeNotSatisfiable
            | Self::Refused(_)
            | Self::Offline
            | Self::Suspended { .. }
            | Self::Saving { .. }
            | Self::ShareSpent { .. } => false,
        }
    }

    /// Whether the same question may have an answer for another caller: it was not asked for the sake of who put it.
    pub fn is_for_one_caller(&self) -> bool {
        matches!(self, Self::Timeout { phase: Phase::Queue } | Self::ShareSpent { .. })
    }

    /// Whether it is left alone for a moment because of how it answered, and has not been for long: it is there, if not well.
    pub fn is_flapping(&self) -> bool {
        let Self::Suspended { cause, retry_after } = self else { return false };
        matches!(**cause, Self::Status { .. } | Self::NoAnswer { .. }) && *retry_after <= FLAPPING
    }

    /// How the upstream itself failed, if it was that: of what it was not asked because of an earlier failure, that failure.
    pub fn cause(&self) -> &Self {
        match self {
            Self::Suspended { cause, .. } => cause,
            error => error,
        }
    }

    /// After how long it is worth to ask again, if that can be told.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => *retry_after,
            Self::Suspended { retry_after, .. } | Self::ShareSpent { retry_after, .. } => Some(*retry_after),
            Self::Timeout { phase: Phase::Queue } => Some(QUEUE_PAUSE),
            _ => None,
        }
    }

    /// The HTTP status behind it, if an answer was.
    pub fn status_code(&self) -> Option<u16> {
        match self {
            Self::NotFound => Some(404),
            Self::Denied { status, .. } | Self::Status { status, .. } => Some(*status),
            Self::RateLimited { .. } => Some(429),
            Self::RangeNotSatisfiable => Some(416),
            Self::Timeout { .. }
            | Self::Unreachable { .. }
            | Self::NoAnswer { .. }
            | Self::Broken { .. }
            | Self::Refused(_)
            | Self::Offline
            | Self::Suspended { .. }
            | Self::Saving { .. }
            | Self::ShareSpent { .. } => None,
        }
    }
}

/// Whether a server says with this status that it cannot answer at the moment. That it does not know how to is an answer (501, 505);
/// those beyond 511 are what proxies and CDNs say when there is nobody behind them.
pub(super) fn is_server_failure(status: u16) -> bool {
    matches!(status, 500..=599) && !matches!(status, 501 | 505)
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queue => "waiting for its turn by our own limits",
            Self::Resolve => "looking up its name",
            Self::Connect => "connecting",
            Self::Headers => "waiting for its answer",
            Self::Body => "waiting for more of the body",
            Self::Token => "waiting for a token",
        })
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registry => "the upstream",
            Self::Storage => "the upstream's storage",
            Self::TokenServer => "the upstream's token server",
        })
    }
}
