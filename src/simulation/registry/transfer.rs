//! A body on its way: in chunks, at the connection's pace, to its end or to where it breaks.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::time::sleep;

use super::{Open, Registry};
use crate::oci::Digest;
use crate::upstream::{Body, Phase, UpstreamError};

/// How long no byte may come before the upstream's client gives up.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// What a trickle brings at the least, in bytes, at the most in how many times, and how often.
const TRICKLE: u64 = 1024;
const TRICKLES: u64 = 500;
const TRICKLE_INTERVAL: Duration = Duration::from_millis(300);

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    End,
    /// After so many bytes, if there are that many.
    Cut(u64),
    Stalled(u64),
}

pub(super) struct Transfer {
    registry: Registry,
    /// What was asked for, if that was a digest.
    digest: Option<Digest>,
    left: Bytes,
    sent: u64,
    until: Until,
    /// Bytes that come at a time, if it is a trickle.
    trickle: Option<u64>,
    _open: Open,
}

impl Transfer {
    pub(super) fn new(registry: Registry, digest: Option<Digest>, bytes: Bytes, until: Until, is_slow: bool, open: Open) -> Self {
        let trickle = is_slow.then(|| TRICKLE.max(bytes.len() as u64 / TRICKLES));
        Self { registry, digest, left: bytes, sent: 0, until, trickle, _open: open }
    }

    pub(super) fn into_body(self) -> Body {
        stream::unfold(Some(self), |transfer| async {
            let mut transfer = transfer?;
            match transfer.next().await {
                Some(Ok(chunk)) => Some((Ok(chunk), Some(transfer))),
                // After an error nothing comes.
                Some(Err(error)) => Some((Err(error), None)),
                None => None,
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        let (until, stalls) = match self.until {
            Until::End => (u64::MAX, false),
            Until::Cut(after) => (after, false),
            Until::Stalled(after) => (after, true),
        };
        if self.sent >= until {
            if stalls {
                sleep(STALL_TIMEOUT).await;
                return Some(Err(UpstreamError::Timeout { phase: Phase::Body }));
            }
            return Some(Err(UpstreamError::Broken { reason: "the connection was cut".to_owned() }));
        }
        if self.left.is_empty() {
            return None;
        }
        let (count, pause) = self.pace();
        let count = count.min(until - self.sent).min(self.left.len() as u64);
        sleep(pause).await;
        let chunk = self.left.split_to(usize::try_from(count).expect("at most what is left"));
        self.sent += count;
        if let Some(digest) = self.digest {
            self.registry.lock().accounts.entry(digest).or_default().bytes += count;
        }
        Some(Ok(chunk))
    }

    /// How many bytes come next, and after how long.
    fn pace(&self) -> (u64, Duration) {
        if let Some(count) = self.trickle {
            return (count, TRICKLE_INTERVAL);
        }
        let mut state = self.registry.lock();
        let range = state.network.chunk.clone();
        let count = state.dice.within(range).max(1);
        (count, Duration::from_micros(count * 1_000_000 / state.network.bandwidth))
    }
}
