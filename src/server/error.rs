//! Errors as answers: the one place that knows which status and which code stand for what went wrong.
//! The rules are those of the design, section 3: no outage ever looks like "not found", no limit reaches a client as a 429.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use super::body::Body;
use super::respond::CACHE_STATUS;
use super::route::RouteError;
use crate::fill::FillError;
use crate::mirror::{MirrorError, RoutingError};
use crate::oci::ErrorCode;
use crate::upstream::{Party, Phase, UpstreamError};

/// An error as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) code: ErrorCode,
    pub(super) message: String,
    pub(super) retry_after: Option<Duration>,
    /// What the cache did, where it came to that: it has nothing to answer with, and this is how the upstream answered.
    pub(super) cache_status: Option<String>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None, cache_status: None }
    }

    pub(super) fn method_not_allowed() -> Self {
        let message = "this is a read-only mirror; push to the registry itself";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message)
    }

    /// The answer was not ready within the deadline.
    pub(super) fn deadline(deadline: Duration) -> Self {
        let message = format!("there was no answer within {} s", deadline.as_secs_f64());
        let cache_status = Some("larder; fwd=miss".to_owned());
        Self { cache_status, ..Self::new(StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unavailable, message) }
    }

    /// The bytes of the answer: `{"errors":[{"code","message"}]}` (distribution-spec, "Error codes").
    pub(super) fn json(&self) -> Vec<u8> {
        let body = serde_json::json!({"errors": [{"code": self.code.as_str(), "message": self.message}]});
        body.to_string().into_bytes()
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from_bytes(Bytes::from(self.json())));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // What went wrong now says nothing about later.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(Ok(status)) = self.cache_status.as_deref().map(HeaderValue::from_str) {
            headers.insert(CACHE_STATUS, status);
        }
        if let Some(after) = self.retry_after {
            // Rounded up: who comes back too early has come in vain.
            let seconds = after.as_millis().div_ceil(1000).max(1);
            headers.insert(RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX)));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}

impl From<RouteError> for ApiError {
    fn from(error: RouteError) -> Self {
        let (status, code) = match &error {
            RouteError::NotTheApi => (StatusCode::NOT_FOUND, ErrorCode::Unsupported),
            RouteError::BadEncoding => (StatusCode::BAD_REQUEST, ErrorCode::NameInvalid),
            RouteError::BadDigest(..) => (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid),
            RouteError::BadReference(_, crate::oci::ReferenceError::BadDigest(_)) => {
                (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid)
            }
            RouteError::BadReference(..) => (StatusCode::BAD_REQUEST, ErrorCode::ManifestInvalid),
            RouteError::BadPage => (StatusCode::BAD_REQUEST, ErrorCode::Unsupported),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<RoutingError> for ApiError {
    fn from(error: RoutingError) -> Self {
        let (status, code) = match &error {
            RoutingError::UnknownUpstream(_) => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
            RoutingError::Conflict(..) | RoutingError::NoRepository(_) | RoutingError::BadName { .. } => {
                (StatusCode::BAD_REQUEST, ErrorCode::NameInvalid)
            }
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<MirrorError> for ApiError {
    fn from(error: MirrorError) -> Self {
        let (status, code) = match &error {
            MirrorError::Unknown(what) | MirrorError::Offline(what) => (StatusCode::NOT_FOUND, unknown(what)),
            MirrorError::Upstream(error) => of_upstream(error),
            MirrorError::Incomplete(UpstreamError::Offline) => (StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown),
            MirrorError::Incomplete(error) if matches!(error.cause(), UpstreamError::RateLimited { .. }) => {
                (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TooManyRequests)
            }
            MirrorError::Throttled { .. } => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TooManyRequests),
            MirrorError::Incomplete(_) => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable),
            MirrorError::Unacceptable(_) => (StatusCode::BAD_GATEWAY, ErrorCode::ManifestInvalid),
            MirrorError::Corrupt(_) => (StatusCode::BAD_GATEWAY, ErrorCode::Unknown),
            MirrorError::Broken(error) => (StatusCode::SERVICE_UNAVAILABLE, of_fill(error)),
            MirrorError::Cache(_) => (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown),
        };
        let upstream_status = match &error {
            MirrorError::Unknown(_) => Some(404),
            MirrorError::Upstream(error) | MirrorError::Incomplete(error) => error.status_code(),
            MirrorError::Unacceptable(_)
            | MirrorError::Corrupt(_)
            | MirrorError::Broken(_)
            | MirrorError::Throttled { .. }
            | MirrorError::Offline(_)
            | MirrorError::Cache(_) => None,
        };
        let upstream_status = upstream_status.map(|status| format!("; fwd-status={status}")).unwrap_or_default();
        let cache_status = match &error {
            MirrorError::Offline(_) | MirrorError::Incomplete(UpstreamError::Offline) => "larder; detail=offline".to_owned(),
            _ => format!("larder; fwd=miss{upstream_status}"),
        };
        Self { retry_after: error.retry_after(), cache_status: Some(cache_status), ..Self::new(status, code, error.to_string()) }
    }
}

/// The code for what an upstream does not have. Clients of containers/image and oras look at it.
fn unknown(what: &str) -> ErrorCode {
    match what {
        "blob" => ErrorCode::BlobUnknown,
        "repository" => ErrorCode::NameUnknown,
        // Not NAME_UNKNOWN: oras takes that for an error where any other code means "use the tag scheme".
        _ => ErrorCode::ManifestUnknown,
    }
}

fn of_upstream(error: &UpstreamError) -> (StatusCode, ErrorCode) {
    match error.cause() {
        UpstreamError::NotFound | UpstreamError::Offline => (StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown),
        UpstreamError::Denied { .. } => (StatusCode::FORBIDDEN, ErrorCode::Denied),
        // Never 429: containerd would ask five times more for every object, and Podman sleep.
        UpstreamError::RateLimited { .. } | UpstreamError::Saving { .. } | UpstreamError::ShareSpent { .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TooManyRequests)
        }
        // It is Larder that is too busy: it will not be for long.
        UpstreamError::Timeout { phase: Phase::Queue } => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable),
        UpstreamError::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unavailable),
        UpstreamError::Unreachable { .. } => (StatusCode::BAD_GATEWAY, ErrorCode::Unavailable),
        UpstreamError::Status { status: 503, by: Party::Registry | Party::Storage } => {
            (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable)
        }
        UpstreamError::Status { .. }
        | UpstreamError::NoAnswer { .. }
        | UpstreamError::Broken { .. }
        | UpstreamError::RangeNotSatisfiable
        | UpstreamError::Suspended { .. }
        | UpstreamError::Refused(_) => (StatusCode::BAD_GATEWAY, ErrorCode::Unavailable),
    }
}

fn of_fill(error: &FillError) -> ErrorCode {
    match error {
        FillError::Upstream(error) if matches!(error.cause(), UpstreamError::RateLimited { .. }) => ErrorCode::TooManyRequests,
        _ => ErrorCode::Unavailable,
    }
}
