//! Asks an upstream for a blob from some position on, and makes sure that the body begins there, whatever the upstream makes of
//! `Range`.

use bytes::Bytes;
use futures::StreamExt;

use super::Source;
use super::error::FillError;
use crate::oci::Digest;
use crate::upstream::{Answer, Body, Method, Question, Target, UpstreamError};

/// A body that begins at the position asked for.
pub(super) struct Opened {
    /// The whole content's size in bytes, if anybody told it.
    pub(super) size: Option<u64>,
    pub(super) body: Body,
}

/// Asks `source` for the bytes of `digest` from `position` on. `expected_size` is the whole's size as known so far.
///
/// # Errors
/// What the upstream said instead; [`FillError::WrongSize`] if it knows another size than the expected one.
pub(super) async fn open(
    source: &Source,
    digest: &Digest,
    position: u64,
    expected_size: Option<u64>,
) -> Result<Opened, FillError> {
    let method = if position == 0 { Method::Get } else { Method::GetFrom(position) };
    let question = Question { repository: source.repository.clone(), target: Target::Blob(*digest), method };
    let Answer { head, body } = source.origin.ask(question).await?;
    match head.content_range {
        Some(range) if range.first != position => {
            let reason = format!("asked for the bytes from {position}, got those from {}", range.first);
            Err(UpstreamError::Broken { reason }.into())
        }
        Some(range) => Ok(Opened { size: agreed_size(range.size, expected_size)?, body }),
        // The upstream ignored the Range: what comes first is had already.
        None => Ok(Opened { size: agreed_size(head.content_length, expected_size)?, body: without_first(position, body) }),
    }
}

/// The size that the upstream and somebody else tell, which must not be two.
fn agreed_size(told: Option<u64>, expected: Option<u64>) -> Result<Option<u64>, FillError> {
    match (told, expected) {
        (Some(actual), Some(expected)) if actual != expected => Err(FillError::WrongSize { expected, actual }),
        (told, expected) => Ok(told.or(expected)),
    }
}

fn without_first(mut count: u64, body: Body) -> Body {
    if count == 0 {
        return body;
    }
    let rest = body.map(move |chunk| {
        chunk.map(|mut chunk: Bytes| {
            let dropped = count.min(chunk.len() as u64);
            count -= dropped;
            chunk.split_off(usize::try_from(dropped).expect("no longer than the chunk"))
        })
    });
    rest.boxed()
}
