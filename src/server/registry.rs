//! The registry API: a request is read, put to the mirror, and answered. Every answer, good or bad, leaves through here.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HOST, SERVER, TRANSFER_ENCODING, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};

use super::access_log::Entry;
use super::body::Body;
use super::connection::Outbox;
use super::error::ApiError;
use super::respond;
use super::route::{self, Endpoint, Route};
use crate::mirror::{CacheOutcome, Mirror, Place, Want};
use crate::oci::{Digest, ErrorCode, Reference};
use crate::telemetry::{Metrics, RequestKind};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// The registry API in front of a mirror. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    mirror: Mirror,
    metrics: Arc<Metrics>,
    /// How long a client waits for the first header at the most.
    answer_deadline: Duration,
}

/// Who is answered.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    /// What has its connection send from files, where it can.
    pub(super) outbox: Option<Outbox>,
}

/// A response, and what it says about the cache.
struct Answered {
    response: Response<Body>,
    outcome: Option<CacheOutcome>,
}

impl Registry {
    /// `answer_deadline` bounds everything before the first header of an answer.
    pub fn new(mirror: Mirror, metrics: Arc<Metrics>, answer_deadline: Duration) -> Self {
        Self { shared: Arc::new(Shared { mirror, metrics, answer_deadline }) }
    }

    /// Answers `request`, which came from `client`. Its body is not read: nothing that reads takes one.
    pub(super) async fn answer(&self, request: &Parts, client: &Client) -> Result<Response<Body>, Infallible> {
        let metrics = Arc::clone(&self.shared.metrics);
        let mut entry = Entry::begin(metrics, &request.method, client.address, request.headers.get(USER_AGENT));
        let deadline = self.shared.answer_deadline;
        let answered = {
            // In its place, not moved into the time limit: there is one in memory for each request.
            let answering = pin!(self.dispatch(request, client, &mut entry));
            tokio::time::timeout(deadline, answering).await.unwrap_or_else(|_| Err(ApiError::deadline(deadline)))
        };
        let is_head = request.method == Method::HEAD;
        let mut response = match answered {
            Ok(Answered { response, outcome }) => {
                entry.cache = outcome;
                response
            }
            Err(error) => {
                entry.error = Some(error.message.clone());
                error.into_response()
            }
        };
        if is_head {
            headers_only(&mut response);
        }
        let headers = response.headers_mut();
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        headers.insert(SERVER, HeaderValue::from_static("larder"));
        headers.insert(DATE, now());
        if has_body(request) {
            // What a client still wants to send is not waited for: see `connection`.
            if request.version < Version::HTTP_2 {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
        }
        Ok(entry.answered(response))
    }

    async fn dispatch(&self, request: &Parts, client: &Client, entry: &mut Entry) -> Result<Answered, ApiError> {
        let is_head = request.method == Method::HEAD;
        let route = route::parse(request.uri.path(), request.uri.query());
        entry.kind = kind(&route);
        if request.method != Method::GET && !is_head {
            return Err(ApiError::method_not_allowed());
        }
        one_host(request)?;
        // Nothing that reads has a body, and one whose end two parties may see in different places is how requests are smuggled.
        if request.headers.contains_key(TRANSFER_ENCODING) {
            return Err(ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, "a request that reads has no body"));
        }
        let (address, endpoint) = match route? {
            Route::Version { prefix: None } => return Ok(Answered { response: respond::version(), outcome: None }),
            Route::Version { prefix: Some(prefix) } => {
                self.shared.mirror.upstreams().named(&prefix)?;
                return Ok(Answered { response: respond::version(), outcome: None });
            }
            Route::Catalog => {
                let message = "a mirror has no catalog of its own; ask the registry itself";
                return Err(ApiError::new(StatusCode::NOT_FOUND, ErrorCode::Unsupported, message));
            }
            Route::In(_, Endpoint::Upload) => return Err(ApiError::method_not_allowed()),
            Route::In(address, endpoint) => (address, endpoint),
        };
        let host = request.uri.authority().map(|authority| authority.as_str());
        let host = host.or_else(|| request.headers.get(HOST).and_then(|host| host.to_str().ok()));
        let place = self.shared.mirror.route(&address.with_host(host))?;
        entry.upstream = Some(place.upstream.name.clone());
        entry.repository = Some(place.repository.clone());
        let namespace = address.namespace.as_deref();
        let caller = entry.caller();
        let mut answered = match endpoint {
            Endpoint::Manifest(reference) => self.manifest(&place, &reference, is_head, &request.headers, entry).await?,
            Endpoint::Blob(digest) => self.blob(&place, &digest, request, client.outbox.as_ref(), entry).await?,
            Endpoint::Tags(page) => {
                let answer = self.shared.mirror.tags(&place, &page, caller).boxed().await?;
                let response = respond::tags(place.repository.as_str(), &answer, request.uri.path(), namespace);
                Answered { response, outcome: Some(answer.lookup.outcome) }
            }
            Endpoint::Referrers(digest, page) => {
                entry.digest = Some(digest);
                let answer = self.shared.mirror.referrers(&place, &digest, &page, caller).boxed().await?;
                let outcome = Some(answer.lookup.outcome);
                Answered { response: respond::referrers(answer, request.uri.path(), namespace), outcome }
            }
            Endpoint::Upload => return Err(ApiError::method_not_allowed()),
        };
        // distribution-spec 1.2-dev, "Registry Proxying": a proxy that honours `ns` says so.
        if let Some(Ok(namespace)) = namespace.map(HeaderValue::from_str) {
            answered.response.headers_mut().insert(OCI_NAMESPACE, namespace);
        }
        Ok(answered)
    }

    async fn manifest(
        &self,
        place: &Place,
        reference: &Reference,
        is_head: bool,
        headers: &HeaderMap,
        entry: &mut Entry,
    ) -> Result<Answered, ApiError> {
        entry.reference = Some(reference.clone());
        let want = if is_head { Want::Head } else { Want::Body };
        let answer = self.shared.mirror.manifest(place, reference, want, entry.caller()).await?;
        entry.digest = Some(answer.digest);
        let outcome = Some(answer.lookup.outcome);
        Ok(Answered { response: respond::manifest(answer, headers, is_head), outcome })
    }

    async fn blob(
        &self,
        place: &Place,
        digest: &Digest,
        request: &Parts,
        outbox: Option<&Outbox>,
        entry: &mut Entry,
    ) -> Result<Answered, ApiError> {
        entry.digest = Some(*digest);
        if request.method == Method::HEAD {
            let head = self.shared.mirror.blob_head(place, digest, entry.caller()).boxed().await?;
            return Ok(Answered { response: respond::blob_head(digest, &head), outcome: Some(head.lookup.outcome) });
        }
        let answer = self.shared.mirror.blob(place, digest, entry.caller()).await?;
        let outcome = Some(answer.lookup.outcome);
        Ok(Answered { response: respond::blob(digest, answer, request, outbox).await?, outcome })
    }
}

/// The kind of a request, for logs and metrics.
fn kind(route: &Result<Route, route::RouteError>) -> RequestKind {
    match route {
        Ok(Route::Version { .. }) => RequestKind::Version,
        Ok(Route::In(_, Endpoint::Manifest(_))) => RequestKind::Manifest,
        Ok(Route::In(_, Endpoint::Blob(_))) => RequestKind::Blob,
        Ok(Route::In(_, Endpoint::Tags(_))) => RequestKind::Tags,
        Ok(Route::In(_, Endpoint::Referrers(..))) => RequestKind::Referrers,
        Ok(Route::In(_, Endpoint::Upload) | Route::Catalog) | Err(_) => RequestKind::Other,
    }
}

/// RFC 9112 section 3.2. The host may decide which upstream is meant, so that two hosts would be two opinions.
fn one_host(request: &Parts) -> Result<(), ApiError> {
    let count = request.headers.get_all(HOST).iter().count();
    if count > 1 || (count == 0 && request.version == Version::HTTP_11) {
        let message = "a request names its host, and only one";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message));
    }
    Ok(())
}

/// Makes `response` one to a HEAD: the headers of a GET, without its body (RFC 9110 section 9.3.2).
fn headers_only(response: &mut Response<Body>) {
    let body = std::mem::replace(response.body_mut(), Body::empty());
    let length = http_body::Body::size_hint(&body).exact().filter(|length| *length > 0);
    let headers = response.headers_mut();
    if let Some(length) = length {
        headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
}

fn has_body(request: &Parts) -> bool {
    let length = request.headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    length || request.headers.contains_key(TRANSFER_ENCODING)
}

/// The time, to the second: it is put into words once in a second and thread.
fn now() -> HeaderValue {
    thread_local! {
        static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|(at, text)| {
        if *at != second || text.is_empty() {
            let date = httpdate::fmt_http_date(now);
            (*at, *text) = (second, HeaderValue::try_from(date).expect("a date has only visible ASCII characters"));
        }
        text.clone()
    })
}
