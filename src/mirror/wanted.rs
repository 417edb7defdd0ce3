//! What clients asked for in vain because nobody could be asked for it: noted, so that an operator can bring it.

use std::num::NonZeroU32;
use std::time::Duration;

use futures::FutureExt;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

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

impl Mirror {
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
