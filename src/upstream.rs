//! One registry at the other end: it is asked one question at a time, with its credentials, tokens, redirects and limits, and
//! gives one answer or one typed error, or is not asked at all. It never caches content, never asks an endpoint twice, and knows of
//! who asks only that their shares are to be fair.

mod address;
mod answer;
mod auth;
mod caller;
mod challenge;
mod clients;
mod connect;
mod error;
mod gate;
mod grant;
mod proven;
mod rate;
mod rate_limit;
mod realm;
mod redirect;
mod registry;
mod resolve;
mod settings;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod wire;

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::oci::{Digest, MediaType, Reference, RepositoryName, UpstreamName};

pub use caller::Caller;
pub use error::{BuildError, Party, Phase, Refusal, UpstreamError};
pub use gate::{EndpointStanding, EndpointState, Gate, GateConfig, Standing, Unasked};
pub use rate::Rate;
pub use rate_limit::RateLimit;
pub use registry::Registry;
pub use settings::RegistryConfig;

/// A registry that can be asked. The real one is [`Registry`], behind its [`Gate`]; simulations bring their own.
pub trait Origin: Send + Sync + 'static {
    /// Asks once. The answer's body is read by the caller, at the caller's pace.
    ///
    /// # Errors
    /// See [`UpstreamError`]: an error is always one of this upstream, and says which kind of one.
    fn ask(&self, question: Question) -> BoxFuture<'static, Result<Answer, UpstreamError>>;

    /// Why a question would not be asked at the moment, if it would not: nothing is asked to find that out.
    fn refusal(&self) -> Option<UpstreamError> {
        None
    }

    /// The same of a question about content: that may be elsewhere, and out of reach while all else is not.
    fn content_refusal(&self) -> Option<UpstreamError> {
        self.refusal()
    }

    /// Why no pull should be spent on what can be served from the cache as it is: [`UpstreamError::Saving`], or nothing.
    fn saving(&self) -> Option<UpstreamError> {
        None
    }

    /// How many pulls may be spent before [`Origin::saving`] speaks against it; `None` while no limit is known.
    fn unreserved(&self) -> Option<u64> {
        None
    }

    /// What the upstream last said of its limit on pulls, as long as that is believed.
    fn rate_limit(&self) -> Option<RateLimit> {
        None
    }
}

/// What is asked of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub repository: RepositoryName,
    pub target: Target,
    pub method: Method,
    /// Whose share it comes out of.
    pub caller: Caller,
}

/// The thing in the repository that is asked for: the `end-` rows of the distribution specification that read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Manifest(Reference),
    Blob(Digest),
    /// `query` is an already validated `n=` and `last=` string, without the `?`. It may be empty.
    Tags {
        query: String,
    },
    /// `query` as for tags: `artifactType=` and whatever the upstream's own links had.
    Referrers {
        digest: Digest,
        query: String,
    },
}

/// How it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Head,
    Get,
    /// A GET of the bytes from `first` to `last`, both inclusive, or to the end (`Range: bytes=first-last`).
    GetRange {
        first: u64,
        last: Option<u64>,
    },
}

/// What the registry said.
pub struct Answer {
    pub head: Head,
    pub body: Body,
}

/// The fields of an answer that mean something to a cache. A field that is malformed counts as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The length of this answer's body in bytes; of a HEAD, the length that a GET would have.
    pub content_length: Option<u64>,
    pub content_type: Option<MediaType>,
    /// `Docker-Content-Digest`: what the registry says that the content hashes to.
    pub digest: Option<Digest>,
    /// `Some` only for a 206.
    pub content_range: Option<ContentRange>,
    pub link: Option<String>,
    /// `OCI-Filters-Applied` of the referrers API.
    pub filters_applied: Option<String>,
    pub warning: Option<String>,
    /// Of the registry's own answers; a CDN's limits are another matter.
    pub rate_limit: Option<RateLimit>,
}

/// Where the body of a 206 begins and ends within the whole (both inclusive), and the whole's size when told (RFC 9110 section 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    pub first: u64,
    pub last: u64,
    pub size: Option<u64>,
}

/// The bytes of an answer. It ends with an error, and then for good, if the connection is cut, if no byte comes for the stall
/// timeout, or if it is longer or shorter than declared.
pub type Body = BoxStream<'static, Result<Bytes, UpstreamError>>;

/// Is told what goes over the wire, for metrics. Its methods are called on the request path and must not block.
///
/// `kind` is `"manifest"`, `"blob"`, `"tags"`, `"referrers"` or `"token"`; `method` is `"GET"` or `"HEAD"`.
pub trait Observer: Send + Sync + 'static {
    /// One HTTP request has its headers or has failed. Each hop of a redirect and each token request is one of its own.
    fn asked(&self, upstream: &UpstreamName, kind: &'static str, method: &'static str, outcome: Outcome, took: Duration);
    /// So many bytes of an answer's body have arrived.
    fn received(&self, upstream: &UpstreamName, bytes: u64);
    /// The registry said how many pulls are left.
    fn rate_limit(&self, upstream: &UpstreamName, limit: &RateLimit);
    /// A question was not asked, or not to be asked for.
    fn unasked(&self, upstream: &UpstreamName, why: Unasked);
}

/// How one HTTP request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With this status.
    Answered(u16),
    /// Without an answer: no connection, no headers in time, or a rule said no.
    Failed,
}

impl Outcome {
    /// The status, or 0 if there was no answer.
    pub fn status(self) -> u16 {
        match self {
            Self::Answered(status) => status,
            Self::Failed => 0,
        }
    }
}

impl Target {
    /// The word for it in metrics and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Manifest(_) => "manifest",
            Self::Blob(_) => "blob",
            Self::Tags { .. } => "tags",
            Self::Referrers { .. } => "referrers",
        }
    }
}

impl Method {
    /// The HTTP method.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "HEAD",
            Self::Get | Self::GetRange { .. } => "GET",
        }
    }
}
