//! How many contents are fetched at once: so many from one upstream, so many from all, and a few from each that nobody else can take.
//! What is fetched, and in which order, is decided elsewhere.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// From one upstream; more wait for their turn. Each costs a descriptor, a connection and a buffer.
const PER_UPSTREAM: usize = 256;

/// Of these, so many are no other upstream's business.
const OWN: usize = 32;

/// From all upstreams together, beyond what is each one's own.
const SHARED: usize = 1024;

/// The places of all upstreams together.
#[derive(Clone)]
pub(super) struct SharedPlaces(Arc<Semaphore>);

/// The places of one upstream. However many fills of other upstreams do not get on, some of these are free, or taken by its own.
pub(super) struct Places {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    shared: SharedPlaces,
}

/// A place, until it is dropped.
pub(super) struct Place {
    _among_all: OwnedSemaphorePermit,
    _own_or_shared: OwnedSemaphorePermit,
}

impl SharedPlaces {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(SHARED)))
    }
}

impl Places {
    pub(super) fn new(shared: SharedPlaces) -> Self {
        Self { all: Arc::new(Semaphore::new(PER_UPSTREAM)), own: Arc::new(Semaphore::new(OWN)), shared }
    }

    /// A place, in the order in which it is asked for.
    pub(super) async fn take(&self) -> Place {
        let _among_all = taken(&self.all).await;
        let _own_or_shared = tokio::select! {
            biased;
            own = taken(&self.own) => own,
            shared = taken(&self.shared.0) => shared,
        };
        Place { _among_all, _own_or_shared }
    }

    /// Whether so few are taken that some may be for what nobody waits for.
    pub(super) fn are_to_spare(&self) -> bool {
        self.all.available_permits() > PER_UPSTREAM / 2 && self.shared.0.available_permits() > SHARED / 2
    }
}

async fn taken(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(semaphore).acquire_owned().await.expect("the semaphore is never closed")
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// As many places as there are at once.
    fn all_of(places: &Places) -> Vec<Place> {
        std::iter::from_fn(|| places.take().now_or_never()).collect()
    }

    #[test]
    fn no_upstream_takes_the_last_places_of_another() {
        let shared = SharedPlaces::new();
        let upstreams: Vec<_> = (0..6).map(|_| Places::new(shared.clone())).collect();
        let first = all_of(&upstreams[0]);
        assert!(first.len() == PER_UPSTREAM && !upstreams[0].are_to_spare() && upstreams[1].are_to_spare());
        let taken: Vec<_> = upstreams[1..5].iter().map(all_of).collect();
        let count = first.len() + taken.iter().map(Vec::len).sum::<usize>();
        assert_eq!(count, SHARED + 5 * OWN);
        assert!(!upstreams[5].are_to_spare());
        assert_eq!(all_of(&upstreams[5]).len(), OWN);
        drop(first);
        assert_eq!(all_of(&upstreams[5]).len(), PER_UPSTREAM);
    }

    #[test]
    fn who_waits_gets_what_is_given_back_first() {
        let places = Places::new(SharedPlaces::new());
        let mut taken = all_of(&places);
        let mut waiting = Box::pin(places.take());
        assert!(waiting.as_mut().now_or_never().is_none());
        taken.pop();
        assert!(places.take().now_or_never().is_none(), "it is the other one's");
        assert!(waiting.now_or_never().is_some());
    }
}
