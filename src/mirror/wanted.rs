//! What clients asked for in vain because nobody could be asked for it: noted, so that an operator can bring it.

use std::num::NonZeroU32;
use std::time::Duration;

use futures::FutureExt;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::Instant;

use super::{Mirror, MirrorError, Place};
use crate::oci::{Reference, RepositoryName, UpstreamName};
use crate::store::Kind;
use crate::upstream::UpstreamError;

/// How often the same thing is noted at the most, and of how many things that is remembered.
pub(super) const PAUSE: Duration = Duration::from_secs(60);
pub(super) const REMEMBERED: usize = 4096;

/// How many notes are made in a second; what is more goes without one. Each is written to the disk.
const NOTES_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).expect("twenty is not zero");
const NOTES_AT_ONCE: NonZeroU32 = NonZeroU32::new(500).expect("it is not zero");

pub(super) type NotePace = DefaultDirectRateLimiter;

pub(super) fn note_pace() -> NotePace {
    RateLimiter::direct(Quota::per_second(NOTES_PER_SECOND).allow_burst(NOTES_AT_ONCE))
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    upstream: UpstreamName,
    repository: RepositoryName,
    kind: Kind,
    reference: Reference,
}

/// The part of the time that a question may take after which a client that leaves has seen that nothing comes.
const TELLING_PART: u32 = 3;

/// A client that waits for what is not here. If it leaves, or its time is over, before there is an answer, that is noted when this
/// is dropped.
struct Waiting<'a> {
    mirror: &'a Mirror,
    place: &'a Place,
    kind: Kind,
    reference: Option<Reference>,
    since: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(reference) = self.reference.take() else { return };
        let has_seen = self.since.elapsed() >= self.mirror.shared.timing.patience / TELLING_PART;
        // Without a runtime the process is about to end.
        if has_seen && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (mirror, place, kind) = (self.mirror.clone(), self.place.clone(), self.kind);
            runtime.spawn(async move { mirror.note_wanted_now(&place, kind, &reference).await });
        }
    }
}

impl Mirror {
    /// Waits for what comes of `asking` for `reference`. That it was asked for is noted if nobody waits for so long.
    pub(super) async fn note_if_left<T>(
        &self,
        place: &Place,
        kind: Kind,
        reference: Reference,
        asking: impl Future<Output = T>,
    ) -> T {
        let mut waiting = Waiting { mirror: self, place, kind, reference: Some(reference), since: Instant::now() };
        let answer = asking.await;
        waiting.reference = None;
        answer
    }

    /// Notes that `reference` was asked for, if it is for want of an upstream that `result` is none.
    pub(super) async fn note_wanted<T>(&self, place: &Place, kind: Kind, reference: &Reference, result: &Result<T, MirrorError>) {
        if result.as_ref().err().is_some_and(is_outage) {
            self.note_wanted_now(place, kind, reference).boxed().await;
        }
    }

    async fn note_wanted_now(&self, place: &Place, kind: Kind, reference: &Reference) {
        let key = Key {
            upstream: place.upstream.name.clone(),
            repository: place.repository.clone(),
            kind,
            reference: reference.clone(),
        };
        if self.shared.wanted.get(&key).is_some() || self.shared.wanted_pace.check().is_err() {
            return;
        }
        self.shared.wanted.insert(key.clone(), ());
        let now = self.shared.clock.unix_millis();
        let Key { upstream, repository, kind, reference } = key;
        self.shared.store.catalog().note_wanted(&upstream, &repository, kind, reference, now).await;
    }
}

/// Whether it might have been had, if somebody could have been asked.
fn is_outage(error: &MirrorError) -> bool {
    let cause = match error {
        MirrorError::Offline(_) => return true,
        MirrorError::Upstream(cause) | MirrorError::Incomplete(cause) => cause,
        _ => return false,
    };
    match cause.cause() {
        UpstreamError::Offline
        | UpstreamError::Unreachable { .. }
        | UpstreamError::Timeout { .. }
        | UpstreamError::RateLimited { .. }
        | UpstreamError::NoAnswer { .. }
        | UpstreamError::Broken { .. } => true,
        UpstreamError::Status { status, .. } => *status >= 500,
        UpstreamError::NotFound
        | UpstreamError::Denied { .. }
        | UpstreamError::RangeNotSatisfiable
        | UpstreamError::Refused(_)
        | UpstreamError::Suspended { .. }
        | UpstreamError::Saving { .. }
        | UpstreamError::ShareSpent { .. } => false,
    }
}
