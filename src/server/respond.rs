//! Responses that carry content: headers, ranges, multipart.

use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, LINK, RANGE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};

use super::body::Body;
use super::connection::Outbox;
use super::error::ApiError;
use super::range::{RangeError, RangeSet, Selection};
use crate::fill::{ByteStream, Readable};
use crate::mirror::{
    BlobAnswer, BlobHead, CacheOutcome, Lookup, ManifestAnswer, MirrorError, Page, ReferrersAnswer, StaleReason, TagsAnswer,
};
use crate::oci::{Digest, ErrorCode, MediaType};

pub(super) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(super) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Content on its way to a connection.
struct Sendable<'a> {
    content: Readable,
    outbox: Option<&'a Outbox>,
}

/// `GET /v2/`: what every client takes for "this is a registry".
pub(super) fn version() -> Response<Body> {
    with_type(Response::new(Body::from_bytes(Bytes::from_static(b"{}"))), "application/json")
}

pub(super) fn manifest(answer: ManifestAnswer, request: &HeaderMap, is_head: bool) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    describe(headers, &answer.digest, answer.lookup);
    insert(headers, CONTENT_TYPE, answer.media_type.as_str());
    if is_not_modified(request, &answer.digest) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    match answer.bytes {
        Some(bytes) if !is_head => *response.body_mut() = Body::from_bytes(bytes),
        _ => {
            if let Some(size) = answer.size {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
            }
        }
    }
    response
}

pub(super) fn blob_head(digest: &Digest, head: &BlobHead) -> Response<Body> {
    let mut response = of_blob(digest, head.lookup);
    if let Some(size) = head.size {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
    }
    response
}

/// Where the connection has an `outbox`, it goes out of its file.
///
/// # Errors
/// If the size, which a range needs, cannot be had; or for a range that is none.
pub(super) async fn blob(
    digest: &Digest,
    answer: BlobAnswer,
    request: &Parts,
    outbox: Option<&Outbox>,
) -> Result<Response<Body>, ApiError> {
    let BlobAnswer { content, lookup } = answer;
    if is_not_modified(&request.headers, digest) {
        let mut response = of_blob(digest, lookup);
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let set = ranges(&request.headers, digest);
    // HTTP/1.0 can tell a cut from an end only by a length.
    let size = match set.is_some() || request.version < Version::HTTP_11 {
        true => content.size().await,
        false => content.known_size().await,
    };
    let size = size.map_err(|error| ApiError::from(MirrorError::Broken(error)))?;
    let response = of_blob(digest, lookup);
    let content = Sendable { content, outbox };
    // Where nobody knows where a range would end, the whole is the only answer that is right.
    let Some((set, size)) = set.zip(size) else { return Ok(whole(response, &content, size)) };
    match set.map_or(Selection::Unsatisfiable, |set| set.select(size)) {
        Selection::Single(range) => Ok(partial(response, &content, range, size)),
        Selection::Parts(parts) => Ok(multipart(response, &content.content, &parts, size)),
        Selection::Unsatisfiable => {
            let message = format!("the content has {size} bytes, and the range none of them");
            let error = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::Unsupported, message);
            let mut response = error.into_response();
            insert(response.headers_mut(), CONTENT_RANGE, format!("bytes */{size}"));
            Ok(response)
        }
        Selection::Excessive => {
            let message = "too many ranges, or more bytes than the content has";
            Err(ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message))
        }
    }
}

/// `own_target` is the path of the request, and `namespace` its `ns`: the next page is under the same address.
pub(super) fn tags(name: &str, answer: &TagsAnswer, own_target: &str, namespace: Option<&str>) -> Response<Body> {
    let tags: Vec<&str> = answer.tags.iter().map(crate::oci::Tag::as_str).collect();
    let body = serde_json::json!({"name": name, "tags": tags}).to_string();
    let mut response = with_type(Response::new(Body::from_bytes(Bytes::from(body))), "application/json");
    let headers = response.headers_mut();
    headers.insert(CACHE_STATUS, cache_status(answer.lookup));
    if let Some(page) = &answer.next {
        insert(headers, LINK, next_link(own_target, page, namespace));
    }
    response
}

pub(super) fn referrers(answer: ReferrersAnswer, own_target: &str, namespace: Option<&str>) -> Response<Body> {
    let mut response = with_type(Response::new(Body::from_bytes(answer.bytes)), MediaType::OCI_INDEX);
    let headers = response.headers_mut();
    headers.insert(CACHE_STATUS, cache_status(answer.lookup));
    if let Some(filters) = &answer.filters_applied {
        insert(headers, OCI_FILTERS_APPLIED, filters);
    }
    if let Some(page) = &answer.next {
        insert(headers, LINK, next_link(own_target, page, namespace));
    }
    response
}

/// The `Cache-Status` of what the cache did (RFC 9211).
fn cache_status(lookup: Lookup) -> HeaderValue {
    let status = lookup.upstream_status.map(|status| format!("; fwd-status={status}")).unwrap_or_default();
    let text = match lookup.outcome {
        CacheOutcome::Hit => "larder; hit",
        CacheOutcome::Revalidated => "larder; fwd=stale; fwd-status=200; detail=revalidated",
        CacheOutcome::RevalidatedJoined => "larder; fwd=stale; fwd-status=200; collapsed; detail=revalidated",
        // Nobody was asked, or not for this answer.
        CacheOutcome::Stale(StaleReason::Offline | StaleReason::Revalidating) => {
            return composed(format!("larder; hit; detail={}", lookup.outcome.as_str()));
        }
        CacheOutcome::Stale(_) => return composed(format!("larder; fwd=stale{status}; detail={}", lookup.outcome.as_str())),
        CacheOutcome::Miss => "larder; fwd=uri-miss; stored",
        CacheOutcome::Forwarded => "larder; fwd=uri-miss",
        CacheOutcome::Joined => "larder; fwd=uri-miss; collapsed",
        CacheOutcome::PassedThrough => "larder; fwd=uri-miss; detail=not-stored",
    };
    HeaderValue::from_static(text)
}

/// A header value that is put together from words of ours.
fn composed(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("our words have only visible ASCII characters")
}

impl Sendable<'_> {
    fn whole(&self, size: Option<u64>) -> Body {
        match self.outbox {
            Some(outbox) => Body::from_chunks(self.content.locate_all(), size, outbox.clone()),
            None => Body::from_stream(self.content.read_all(), size),
        }
    }

    fn part(&self, range: Range<u64>) -> Body {
        let length = Some(range.end - range.start);
        match self.outbox {
            Some(outbox) => Body::from_chunks(self.content.locate(range), length, outbox.clone()),
            None => Body::from_stream(self.content.read(range), length),
        }
    }
}

fn whole(mut response: Response<Body>, content: &Sendable<'_>, size: Option<u64>) -> Response<Body> {
    if let Some(size) = size {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
    }
    *response.body_mut() = content.whole(size);
    response
}

fn partial(mut response: Response<Body>, content: &Sendable<'_>, range: Range<u64>, size: u64) -> Response<Body> {
    let length = range.end - range.start;
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    insert(headers, CONTENT_RANGE, content_range(&range, size));
    *response.body_mut() = content.part(range);
    response
}

/// RFC 9110 section 14.6: each part with its own `Content-Range`, in the order of the request.
fn multipart(mut response: Response<Body>, content: &Readable, parts: &[Range<u64>], size: u64) -> Response<Body> {
    let mut random = [0; 16];
    // The boundary only has to be improbable in the content; without randomness the fixed one still parses.
    let _ = getrandom::fill(&mut random);
    let boundary: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let head = |range: &Range<u64>| {
        let range = content_range(range, size);
        Bytes::from(format!("\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: {range}\r\n\r\n"))
    };
    let tail = Bytes::from(format!("\r\n--{boundary}--\r\n"));
    let heads: Vec<Bytes> = parts.iter().map(head).collect();
    let length = heads.iter().map(|head| head.len() as u64).sum::<u64>()
        + parts.iter().map(|part| part.end - part.start).sum::<u64>()
        + tail.len() as u64;

    let content = content.clone();
    let parts: Vec<_> = heads.into_iter().zip(parts.iter().cloned()).collect();
    let body = stream::iter(parts).flat_map(move |(head, range)| {
        let content = content.clone();
        // Each part is opened when its turn comes: a thousand parts hold one buffer, not a thousand.
        stream::once(async { Ok(head) }).chain(stream::once(async move { content.read(range) }).flatten())
    });
    let body: ByteStream = body.chain(stream::once(async { Ok(tail) })).boxed();

    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    insert(headers, CONTENT_TYPE, format!("multipart/byteranges; boundary={boundary}"));
    *response.body_mut() = Body::from_stream(body, Some(length));
    response
}

fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}

/// The ranges that the request is for: `None` for all of the content.
fn ranges(request: &HeaderMap, digest: &Digest) -> Option<Result<RangeSet, RangeError>> {
    let header = request.get(RANGE)?;
    // The content under a digest never changes, so a validator that is not its digest belongs to something else.
    if request.get(IF_RANGE).is_some_and(|validator| validator.as_bytes() != etag(digest).as_bytes()) {
        return None;
    }
    match header.to_str().map_err(|_| RangeError::Malformed).and_then(RangeSet::parse) {
        Err(RangeError::OtherUnit) => None,
        parsed => Some(parsed),
    }
}

fn is_not_modified(request: &HeaderMap, digest: &Digest) -> bool {
    let validators = request.get_all(IF_NONE_MATCH);
    if validators.iter().next().is_none() {
        return false;
    }
    let etag = etag(digest);
    validators.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|value| {
        let value = value.trim();
        value == "*" || value.strip_prefix("W/").unwrap_or(value) == etag
    })
}

fn etag(digest: &Digest) -> String {
    let mut tag = String::with_capacity(Digest::TEXT_MAX_BYTES + 2);
    tag.push('"');
    digest.push_onto(&mut tag);
    tag.push('"');
    tag
}

fn describe(headers: &mut HeaderMap, digest: &Digest, lookup: Lookup) {
    // What all answers have, and some more: it grows only once.
    headers.reserve(12);
    // The digest is the tag without its quotes, and shares its memory.
    let tag = Bytes::from(etag(digest));
    let digest = tag.slice(1..tag.len() - 1);
    for (name, value) in [(DOCKER_CONTENT_DIGEST, digest), (ETAG, tag)] {
        headers.extend(HeaderValue::from_maybe_shared(value).map(|value| (name, value)));
    }
    headers.insert(CACHE_STATUS, cache_status(lookup));
}

/// What all answers about a blob have.
fn of_blob(digest: &Digest, lookup: Lookup) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    describe(headers, digest, lookup);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=31536000, immutable"));
    response
}

fn with_type(mut response: Response<Body>, media_type: &'static str) -> Response<Body> {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// The link to a page that follows, under the address that this one was asked at.
fn next_link(own_target: &str, page: &Page, namespace: Option<&str>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(page.rest.clone());
    if let Some(size) = page.size {
        query.append_pair("n", &size.to_string());
    }
    if let Some(namespace) = namespace {
        query.append_pair("ns", namespace);
    }
    format!("<{own_target}?{}>; rel=\"next\"", query.finish())
}

/// Sets a header whose value comes from somewhere else. One that cannot stand in a header is left out.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: impl TryInto<HeaderValue>) {
    if let Ok(value) = value.try_into() {
        headers.insert(name, value);
    }
}
