//! Asks an upstream for a blob from some position on, and makes sure that the body begins there, whatever the upstream makes of
//! `Range`.

use std::ops::Range;

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
    /// The upstream ignored that only a part was asked for: it sends the content from its first byte, and what is not
    /// wanted is read and dropped.
    pub(super) is_whole: bool,
}

/// How an upstream is asked for a part of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    /// With `Range`.
    ForRanges,
    /// For the whole: it has refused a range that it must have.
    ForTheWhole,
}

/// Asks `source` for `share` of the bytes of `digest`; one that ends at `u64::MAX` goes to the end. `size` is the whole's size as
/// known so far.
///
/// # Errors
/// What the upstream said instead; [`FillError::WrongSize`] if it knows another size than the expected one.
pub(super) async fn open(
    source: &Source,
    digest: &Digest,
    share: Range<u64>,
    size: Option<u64>,
    asking: Asking,
) -> Result<Opened, FillError> {
    let to_the_end = share.end == u64::MAX || Some(share.end) == size;
    let method = match (share.start, asking) {
        (_, Asking::ForTheWhole) => Method::Get,
        (0, _) if to_the_end => Method::Get,
        (first, _) => Method::GetRange { first, last: (!to_the_end).then(|| share.end - 1) },
    };
    let (repository, target, caller) = (source.repository.clone(), Target::Blob(*digest), source.caller);
    let question = Question { repository, target, method, caller };
    let Answer { head, body } = source.origin.ask(question).await?;
    // It would be complete before anything of it was verified.
    if head.content_length == Some(0) && *digest != Digest::of(digest.algorithm(), b"") {
        return Err(UpstreamError::Broken { reason: "the answer is empty".to_owned() }.into());
    }
    match head.content_range {
        Some(range) if range.first != share.start => {
            let reason = format!("asked for the bytes from {}, got those from {}", share.start, range.first);
            Err(UpstreamError::Broken { reason }.into())
        }
        Some(range) => Ok(Opened { size: agreed_size(range.size, size)?, body, is_whole: false }),
        None => {
            let size = agreed_size(head.content_length, size)?;
            Ok(Opened { size, body: without_first(share.start, body), is_whole: true })
        }
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
