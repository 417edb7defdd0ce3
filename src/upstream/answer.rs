//! From an HTTP answer to this layer's: its status, its headers and its body as a stream whose length is checked. It reads
//! no more of an error's body than its code.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream;
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, HeaderMap, HeaderName, LINK, RETRY_AFTER, WARNING,
};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use url::Url;

use super::error::{Party, Refusal, UpstreamError};
use super::rate_limit::RateLimit;
use super::redirect::{Hop, Reach};
use super::registry::Form;
use super::wire::{self, Wire};
use super::{Answer, Body, ContentRange, Head};

/// No `Retry-After` is taken for longer, nor for shorter.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
/// The longest error code that is passed on.
const CODE_MAX_BYTES: usize = 40;

/// The answer in `response`, which came from `hop` in answer to a request of this `form`.
pub(super) async fn read(wire: &Arc<Wire>, form: Form, hop: &Hop, response: Response) -> Result<Answer, UpstreamError> {
    let status = response.status();
    if form == Form::Probe && status == StatusCode::RANGE_NOT_SATISFIABLE {
        // Only an empty blob has no first byte.
        return probed(Head::default(), response.headers());
    }
    if status != StatusCode::OK && status != StatusCode::PARTIAL_CONTENT {
        return Err(failure(form, hop, response).await);
    }
    check_coding(&hop.url, response.headers())?;
    let mut head = head(response.headers());
    if hop.reach == Reach::Own {
        head.rate_limit = RateLimit::of(response.headers());
    }
    if status == StatusCode::PARTIAL_CONTENT {
        head.content_range = Some(checked_range(form, &head, response.headers())?);
    }
    match form {
        Form::Head => Ok(Answer { head, body: stream::empty().boxed() }),
        Form::Probe if status == StatusCode::PARTIAL_CONTENT => {
            let answer = probed(head, response.headers());
            wire::small_body(response).await;
            answer
        }
        Form::Probe => Ok(Answer { head, body: stream::empty().boxed() }),
        Form::Get | Form::GetRange { .. } => {
            let range_length = head.content_range.map(|range| range.last - range.first + 1);
            let body = body(wire, response, range_length.or(head.content_length));
            Ok(Answer { head, body })
        }
    }
}

/// What a HEAD would have said, from the `head` and the `Content-Range` of an answer to a request for the first byte.
fn probed(head: Head, headers: &HeaderMap) -> Result<Answer, UpstreamError> {
    let size = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).and_then(size_of_range);
    let size =
        size.ok_or_else(|| UpstreamError::Broken { reason: "a partial answer does not say how long the whole is".to_owned() })?;
    Ok(Answer { head: Head { content_length: Some(size), content_range: None, ..head }, body: stream::empty().boxed() })
}

/// What went wrong, by the status.
async fn failure(form: Form, hop: &Hop, response: Response) -> UpstreamError {
    let status = response.status().as_u16();
    let by = if hop.reach == Reach::Own { Party::Registry } else { Party::Storage };
    match status {
        404 | 410 => UpstreamError::NotFound,
        401 | 403 => {
            let code = error_code(&wire::small_body(response).await);
            UpstreamError::Denied { status, by, code }
        }
        416 if matches!(form, Form::GetRange { .. }) => UpstreamError::RangeNotSatisfiable,
        429 => UpstreamError::RateLimited { retry_after: retry_after(response.headers()), by },
        _ => UpstreamError::Status { status, by },
    }
}

fn head(headers: &HeaderMap) -> Head {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let digits = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    Head {
        content_length: text(CONTENT_LENGTH).and_then(digits),
        content_type: text(CONTENT_TYPE).and_then(|text| text.parse().ok()),
        digest: text(HeaderName::from_static("docker-content-digest")).and_then(|text| text.parse().ok()),
        content_range: None,
        link: text(LINK).map(str::to_owned),
        filters_applied: text(HeaderName::from_static("oci-filters-applied")).map(str::to_owned),
        warning: text(WARNING).map(str::to_owned),
        rate_limit: None,
    }
}

/// The range of a 206, if it is one that was asked for.
fn checked_range(form: Form, head: &Head, headers: &HeaderMap) -> Result<ContentRange, UpstreamError> {
    let wrong = |reason: &str| Err(UpstreamError::Broken { reason: reason.to_owned() });
    let Some(range) = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).and_then(parse_range) else {
        return wrong("a partial answer does not say which part it is");
    };
    let asked = match form {
        Form::GetRange { first, .. } => first,
        Form::Probe => 0,
        Form::Get | Form::Head => return wrong("a partial answer to a request for the whole"),
    };
    if range.first != asked {
        return wrong("the answer is another part than asked for");
    }
    if head.content_length.is_some_and(|length| length != range.last - range.first + 1) {
        return wrong("the answer's length is not that of its range");
    }
    Ok(range)
}

/// `bytes first-last/size` (RFC 9110 section 14.4), with `first <= last < size`.
fn parse_range(text: &str) -> Option<ContentRange> {
    let (positions, size) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
    let (first, last) = positions.split_once('-')?;
    let range =
        ContentRange { first: number(first)?, last: number(last)?, size: if size == "*" { None } else { Some(number(size)?) } };
    (range.first <= range.last && range.last < u64::MAX && range.size.is_none_or(|size| range.last < size)).then_some(range)
}

/// The size of the whole in `bytes 0-0/size` or `bytes */size`.
fn size_of_range(text: &str) -> Option<u64> {
    number(text.strip_prefix("bytes ")?.rsplit_once('/')?.1)
}

fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// The body of `response`, which is to have `length` bytes, if that is known.
fn body(wire: &Arc<Wire>, response: Response, length: Option<u64>) -> Body {
    let wire = Arc::clone(wire);
    stream::try_unfold((wire, response, 0_u64), move |(wire, mut response, read)| async move {
        let short =
            |read: u64| UpstreamError::Broken { reason: format!("the body has {read} of {} bytes", length.unwrap_or_default()) };
        match wire::next_chunk(&mut response, wire.stall_timeout).await? {
            Some(chunk) => {
                wire.observer.received(&wire.upstream, chunk.len() as u64);
                let read = read + chunk.len() as u64;
                if length.is_some_and(|length| read > length) {
                    return Err(UpstreamError::Broken { reason: "the body is longer than declared".to_owned() });
                }
                Ok(Some((chunk, (wire, response, read))))
            }
            None if length.is_some_and(|length| read < length) => Err(short(read)),
            None => Ok(None),
        }
    })
    .boxed()
}

/// Refuses a body whose bytes are not those of the content. Nobody asked for a coding, and none is ever undone here.
pub(super) fn check_coding(url: &Url, headers: &HeaderMap) -> Result<(), Refusal> {
    for value in headers.get_all(CONTENT_ENCODING) {
        let coding = String::from_utf8_lossy(value.as_bytes());
        if !coding.trim().is_empty() && !coding.trim().eq_ignore_ascii_case("identity") {
            let coding = coding.chars().take(CODE_MAX_BYTES).collect();
            return Err(Refusal::Encoded { host: url.host_str().unwrap_or_default().to_owned(), coding });
        }
    }
    Ok(())
}

/// How long a 429 with these `headers` asks to wait: seconds or a date (RFC 9110 section 10.2.3). A date counts from the answer's
/// own, because our clock need not be right; where there is none, from our clock as long as it makes sense. What is not understood,
/// or has passed, counts as not said.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let date = |text: &str| httpdate::parse_http_date(text).ok();
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let after = match number(text) {
        Some(seconds) => Duration::from_secs(seconds),
        None => {
            let until = date(text)?;
            let after = match headers.get(DATE).and_then(|value| value.to_str().ok()).and_then(date) {
                Some(now) => until.duration_since(now).ok(),
                None => until.duration_since(SystemTime::now()).ok().filter(|after| *after <= RETRY_AFTER_MAX),
            };
            after.filter(|after| !after.is_zero())?
        }
    };
    Some(after.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX))
}

/// The first code in an OCI error body. Codes are upper-case words: anything else could be anything, and is not passed on.
pub(super) fn error_code(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Error>,
    }
    #[derive(Deserialize)]
    struct Error {
        code: String,
    }
    let errors: Errors = serde_json::from_slice(body).ok()?;
    let code = errors.errors.into_iter().next()?.code;
    let is_word = code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    (is_word && (1..=CODE_MAX_BYTES).contains(&code.len())).then_some(code)
}
