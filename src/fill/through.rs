//! Content that passes through without being kept, when the cache has no room or its disk fails (P6). It is read from the upstream
//! for one client, and still never complete unless it hashes to its digest.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream;
use futures::{StreamExt, TryStreamExt};

use super::error::FillError;
use super::origin::{self, Asking, Opened};
use super::{ByteStream, Source, WITHHELD_TAIL};
use crate::oci::{Digest, Hasher};
use crate::upstream::{Body, UpstreamError};

/// Content that an upstream has answered for, to be read by one client.
pub struct Through {
    source: Source,
    digest: Digest,
    size: Option<u64>,
    /// The body of the answer that opened it, until somebody reads it.
    body: Mutex<Option<Body>>,
}

impl Through {
    /// Asks `source` for the content. `expected_size` is what a manifest says, in bytes.
    ///
    /// # Errors
    /// What the upstream said instead, or that its size is not the expected one.
    pub async fn open(source: Source, digest: Digest, expected_size: Option<u64>) -> Result<Self, FillError> {
        let Opened { size, body, .. } = origin::open(&source, &digest, 0..u64::MAX, expected_size, Asking::ForRanges).await?;
        Ok(Self { source, digest, size, body: Mutex::new(Some(body)) })
    }

    /// The size in bytes, if the upstream or a manifest told it.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    pub(super) fn read_all(self: Arc<Self>) -> ByteStream {
        let (digest, size) = (self.digest, self.size);
        verified(self.open_at(0), digest, size).boxed()
    }

    pub(super) fn read(self: Arc<Self>, range: Range<u64>) -> ByteStream {
        if self.size == Some(range.end) && range.start == 0 {
            return self.read_all();
        }
        let body = self.open_at(range.start);
        stream::try_unfold((body, range.end - range.start), |(mut body, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            let mut bytes = body.next().await.unwrap_or_else(|| Err(ended_early()))?;
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            let left = left - bytes.len() as u64;
            Ok(Some((bytes, (body, left))))
        })
        .boxed()
    }

    /// The bytes from `position` on: the opening answer's where it can be, else of a further one.
    fn open_at(self: Arc<Self>, position: u64) -> ByteStream {
        let open = async move {
            let first = self.body.lock().unwrap_or_else(PoisonError::into_inner).take();
            match first {
                Some(body) if position == 0 => Ok(body),
                _ => {
                    let share = position..u64::MAX;
                    origin::open(&self.source, &self.digest, share, self.size, Asking::ForRanges).await.map(|opened| opened.body)
                }
            }
        };
        stream::once(open).map_ok(|body| body.map_err(FillError::from)).try_flatten().boxed()
    }
}

fn ended_early() -> FillError {
    UpstreamError::Broken { reason: "the body ended early".to_owned() }.into()
}

/// Passes `body` on, holding back its tail until all of it is seen to hash to `digest`.
fn verified(body: ByteStream, digest: Digest, size: Option<u64>) -> impl futures::Stream<Item = Result<Bytes, FillError>> {
    struct State {
        body: ByteStream,
        hasher: Option<Hasher>,
        seen: u64,
        held: std::collections::VecDeque<Bytes>,
        held_bytes: u64,
    }
    let hasher = Some(Hasher::new(digest.algorithm()));
    let state = State { body, hasher, seen: 0, held: Default::default(), held_bytes: 0 };
    stream::try_unfold(state, move |mut state| async move {
        loop {
            if state.hasher.is_none() {
                return Ok(state.held.pop_front().map(|bytes| (bytes, state)));
            }
            // Enough is held back behind the first chunk: it may go.
            if let Some(first) = state.held.front().map(|first| first.len() as u64)
                && state.held_bytes - first >= WITHHELD_TAIL
                && let Some(bytes) = state.held.pop_front()
            {
                state.held_bytes -= first;
                return Ok(Some((bytes, state)));
            }
            match state.body.next().await {
                Some(chunk) => {
                    let chunk = chunk?;
                    state.seen += chunk.len() as u64;
                    if let Some(hasher) = &mut state.hasher {
                        hasher.update(&chunk);
                    }
                    state.held_bytes += chunk.len() as u64;
                    state.held.push_back(chunk);
                }
                None => {
                    if let Some(expected) = size.filter(|expected| *expected != state.seen) {
                        return Err(FillError::WrongSize { expected, actual: state.seen });
                    }
                    if let Some(hasher) = state.hasher.take() {
                        let actual = hasher.finish();
                        if actual != digest {
                            return Err(FillError::WrongDigest { actual });
                        }
                    }
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pass(chunks: &[&'static [u8]], digest: Digest, size: Option<u64>) -> (usize, Option<FillError>) {
        let body = stream::iter(chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk))).collect::<Vec<_>>()).boxed();
        let mut passed = 0;
        let mut stream = Box::pin(verified(body, digest, size));
        while let Some(chunk) = stream.next().await {
            match chunk {
                Ok(bytes) => passed += bytes.len(),
                Err(error) => return (passed, Some(error)),
            }
        }
        (passed, None)
    }

    static CHUNK: [u8; 50_000] = [7; 50_000];

    #[tokio::test]
    async fn right_bytes_pass_whole() {
        let digest = Digest::sha256(&CHUNK.repeat(5));
        let (passed, error) = pass(&[&CHUNK, &CHUNK, &CHUNK, &CHUNK, &CHUNK], digest, Some(250_000)).await;
        assert_eq!((passed, error.is_none()), (250_000, true));
        let (passed, error) = pass(&[], Digest::sha256(b""), None).await;
        assert_eq!((passed, error.is_none()), (0, true));
    }

    #[tokio::test]
    async fn wrong_bytes_never_pass_whole() {
        let (passed, error) = pass(&[&CHUNK, &CHUNK, &CHUNK, &CHUNK, &CHUNK], Digest::sha256(b"else"), None).await;
        assert!(passed as u64 <= 250_000 - WITHHELD_TAIL, "{passed} of 250000 bytes passed");
        assert!(matches!(error, Some(FillError::WrongDigest { .. })));
        let (passed, error) = pass(&[b"short"], Digest::sha256(b"short"), Some(6)).await;
        assert!(passed == 0 && matches!(error, Some(FillError::WrongSize { .. })));
    }
}
