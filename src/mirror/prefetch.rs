//! Content that is fetched before it is asked for: what a manifest that a client pulled refers to. It never takes from clients: not
//! the last pulls that an upstream grants, not an upstream in trouble, not the place of other content on the disk, and few fills.

mod allowance;
mod image;
mod platforms;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::allowance::Promised;
use self::platforms::Platforms;
use super::{ContentKey, MirrorError};
use crate::fill::FillError;
use crate::oci::UpstreamName;
use crate::upstream::UpstreamError;
use crate::util::Remembered;

/// For how long a manifest is not looked at again whose content was seen to.
const SEEN_TO: Duration = Duration::from_secs(60);

/// For how long nothing is fetched ahead from an upstream from which that failed.
const REST: Duration = Duration::from_secs(60);

/// How many such facts are remembered, of each kind.
const FACTS: usize = 4096;

/// How many contents are fetched ahead at once from one upstream: as many as most clients fetch at once.
const FILLS_PER_UPSTREAM: usize = 3;

/// How many manifests of one upstream may have their content fetched, or wait for it. Of those beyond, clients fetch it themselves.
const MANIFESTS_PER_UPSTREAM: usize = 32;

/// How a prefetch ended: what was done after a client pulled a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PrefetchOutcome {
    /// All that the manifest refers to is here, and some of it was not.
    Filled,
    /// Nothing was missing.
    Needless,
    /// It is an index, and clients are not known to ask for the platform of any image in it.
    NoPlatform,
    /// Its upstream cannot be asked at the moment, or broke off a moment ago.
    UpstreamTrouble,
    /// What is left of the upstream's limit is left to clients.
    LimitNear,
    /// Something had to be evicted for it, or the disk fails.
    DiskShort,
    /// Too much is being fetched already.
    Busy,
    /// Something could not be fetched.
    Failed,
}

/// Is told how prefetches end, for metrics.
pub trait PrefetchObserver: Send + Sync + 'static {
    fn ended(&self, upstream: &UpstreamName, outcome: PrefetchOutcome);
}

/// What is remembered between prefetches.
pub(super) struct Prefetch {
    observer: Arc<dyn PrefetchObserver>,
    platforms: Platforms,
    promised: Promised,
    running: Mutex<HashSet<ContentKey>>,
    seen_to: Remembered<ContentKey, ()>,
    failures: Remembered<UpstreamName, FillError>,
    places: Mutex<HashMap<UpstreamName, Arc<Semaphore>>>,
}

/// The right to see to the content of a manifest, which nobody else has at the same time, nor for a while after.
struct Turn {
    prefetch: Arc<Prefetch>,
    manifest: ContentKey,
}

/// Why a prefetch ended before all was here. Nobody waits for it: this is for the log.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("no image in the index is known to be for the clients of its upstream")]
    NoPlatform,
    #[error("its upstream cannot be asked: {0}")]
    Trouble(UpstreamError),
    #[error("its upstream is slow to answer clients")]
    Slow,
    #[error("what is left of its upstream's limit is left to clients")]
    LimitNear,
    #[error("something would have to be evicted for it")]
    NoRoom,
    #[error("clients' own requests take the fills there are")]
    Busy,
    #[error("another prefetch failed a moment ago: {0}")]
    FailedBefore(FillError),
    #[error(transparent)]
    Blob(FillError),
    #[error(transparent)]
    Manifest(MirrorError),
}

impl PrefetchOutcome {
    /// All outcomes, for metrics that exist before they count.
    pub const ALL: [Self; 8] = [
        Self::Filled,
        Self::Needless,
        Self::NoPlatform,
        Self::UpstreamTrouble,
        Self::LimitNear,
        Self::DiskShort,
        Self::Busy,
        Self::Failed,
    ];

    /// One word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Filled => "filled",
            Self::Needless => "needless",
            Self::NoPlatform => "no-platform",
            Self::UpstreamTrouble => "upstream-trouble",
            Self::LimitNear => "limit-near",
            Self::DiskShort => "disk-short",
            Self::Busy => "busy",
            Self::Failed => "failed",
        }
    }
}

impl Stopped {
    fn outcome(&self) -> PrefetchOutcome {
        match self {
            Self::NoPlatform => PrefetchOutcome::NoPlatform,
            Self::LimitNear => PrefetchOutcome::LimitNear,
            Self::NoRoom => PrefetchOutcome::DiskShort,
            Self::FailedBefore(error) | Self::Blob(error) if error.is_local() => PrefetchOutcome::DiskShort,
            Self::Trouble(_)
            | Self::Slow
            | Self::FailedBefore(_)
            | Self::Blob(FillError::Upstream(UpstreamError::Suspended { .. } | UpstreamError::RateLimited { .. })) => {
                PrefetchOutcome::UpstreamTrouble
            }
            Self::Busy => PrefetchOutcome::Busy,
            Self::Blob(_) | Self::Manifest(_) => PrefetchOutcome::Failed,
        }
    }
}

impl Prefetch {
    pub(super) fn new(observer: Arc<dyn PrefetchObserver>) -> Self {
        Self {
            observer,
            platforms: Platforms::new(),
            promised: Promised::default(),
            running: Mutex::default(),
            seen_to: Remembered::new(SEEN_TO, FACTS),
            failures: Remembered::new(REST, FACTS),
            places: Mutex::default(),
        }
    }

    /// The turn to see to the content of `manifest`. `None` if somebody has it or had it a moment ago, or too many wait already.
    fn turn(self: &Arc<Self>, manifest: ContentKey) -> Option<Turn> {
        let mut running = self.running();
        // In this order: a turn that ends is among those seen to before it is no more among those running.
        if running.contains(&manifest) || self.seen_to.get(&manifest).is_some() {
            return None;
        }
        if running.iter().filter(|other| other.upstream == manifest.upstream).count() >= MANIFESTS_PER_UPSTREAM {
            drop(running);
            self.observer.ended(&manifest.upstream, PrefetchOutcome::Busy);
            return None;
        }
        running.insert(manifest.clone());
        Some(Turn { prefetch: Arc::clone(self), manifest })
    }

    /// A place among the contents that are fetched ahead from `upstream` at once, in the order in which it is asked for.
    async fn place(&self, upstream: &UpstreamName) -> OwnedSemaphorePermit {
        let places = {
            let mut upstreams = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            let places = upstreams.entry(upstream.clone()).or_insert_with(|| Arc::new(Semaphore::new(FILLS_PER_UPSTREAM)));
            Arc::clone(places)
        };
        places.acquire_owned().await.expect("the semaphore is never closed")
    }

    fn running(&self) -> MutexGuard<'_, HashSet<ContentKey>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.prefetch.seen_to.insert(self.manifest.clone(), ());
        self.prefetch.running().remove(&self.manifest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;
    use crate::store::Kind;

    #[derive(Default)]
    struct Notes(Mutex<Vec<PrefetchOutcome>>);

    impl PrefetchObserver for Notes {
        fn ended(&self, _: &UpstreamName, outcome: PrefetchOutcome) {
            self.0.lock().unwrap().push(outcome);
        }
    }

    fn manifest(upstream: &str, number: usize) -> ContentKey {
        let digest = Digest::sha256(&number.to_le_bytes());
        ContentKey { upstream: upstream.parse().unwrap(), repository: "a/b".parse().unwrap(), kind: Kind::Manifest, digest }
    }

    #[tokio::test(start_paused = true)]
    async fn a_manifest_is_seen_to_by_one_and_not_again_for_a_while() {
        let prefetch = Arc::new(Prefetch::new(Arc::new(Notes::default())));
        let turn = prefetch.turn(manifest("docker.io", 1));
        assert!(turn.is_some() && prefetch.turn(manifest("docker.io", 1)).is_none());
        assert!(prefetch.turn(manifest("quay.io", 1)).is_some(), "another one");
        tokio::time::advance(SEEN_TO * 2).await;
        assert!(prefetch.turn(manifest("docker.io", 1)).is_none(), "however long it takes");
        drop(turn);
        assert!(prefetch.turn(manifest("docker.io", 1)).is_none());
        tokio::time::advance(SEEN_TO).await;
        assert!(prefetch.turn(manifest("docker.io", 1)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_wait_than_will_have_their_turn_soon() {
        let notes = Arc::new(Notes::default());
        let prefetch = Arc::new(Prefetch::new(Arc::clone(&notes) as Arc<dyn PrefetchObserver>));
        let turns: Vec<_> = (0..MANIFESTS_PER_UPSTREAM).map(|number| prefetch.turn(manifest("docker.io", number))).collect();
        assert!(turns.iter().all(Option::is_some));
        assert!(prefetch.turn(manifest("docker.io", 1_000)).is_none());
        assert_eq!(*notes.0.lock().unwrap(), [PrefetchOutcome::Busy]);
        assert!(prefetch.turn(manifest("quay.io", 1_000)).is_some(), "another upstream has its own");
        drop(turns);
        assert!(prefetch.turn(manifest("docker.io", 1_000)).is_some(), "it was not seen to");
    }

    #[tokio::test(start_paused = true)]
    async fn few_contents_are_fetched_at_once_from_one_upstream() {
        let prefetch = Prefetch::new(Arc::new(Notes::default()));
        let (hub, quay) = ("docker.io".parse().unwrap(), "quay.io".parse().unwrap());
        let mut places = Vec::new();
        for _ in 0..FILLS_PER_UPSTREAM {
            places.push(prefetch.place(&hub).await);
        }
        let waits = Duration::from_secs(1);
        assert!(tokio::time::timeout(waits, prefetch.place(&hub)).await.is_err());
        assert!(tokio::time::timeout(waits, prefetch.place(&quay)).await.is_ok());
        places.pop();
        assert!(tokio::time::timeout(waits, prefetch.place(&hub)).await.is_ok());
    }
}
