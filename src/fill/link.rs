//! What fills share: their places, the connections that they may have beyond the first of each, to one upstream and to all, and the
//! measure of what an upstream's fills bring together, so that none takes from the others what it seems to gain.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::places::{Places, SharedPlaces};
use crate::oci::UpstreamName;

/// One upstream, as the fills that read from it see it.
pub(super) struct Link {
    received: AtomicU64,
    lanes: AtomicUsize,
    trial: AtomicBool,
    places: Places,
    extra: Arc<Semaphore>,
    extra_overall: Arc<Semaphore>,
}

/// A connection that counts, until it is dropped.
pub(super) struct OpenLane {
    link: Arc<Link>,
    _extra: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

/// The right to find out whether more connections bring more. One fill of an upstream has it at a time: two at once would each
/// take the other's doing for its own.
pub(super) struct Trial(Arc<Link>);

/// The links to all upstreams that fills have read from.
pub(super) struct Links {
    links: Mutex<HashMap<UpstreamName, Arc<Link>>>,
    shared_places: SharedPlaces,
    extra_per_upstream: usize,
    extra_overall: Arc<Semaphore>,
}

impl Links {
    pub(super) fn new(extra_per_upstream: usize, extra_overall: usize) -> Self {
        Self {
            links: Mutex::default(),
            shared_places: SharedPlaces::new(),
            extra_per_upstream,
            extra_overall: Arc::new(Semaphore::new(extra_overall)),
        }
    }

    pub(super) fn to(&self, upstream: &UpstreamName) -> Arc<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(links.entry(upstream.clone()).or_insert_with(|| Arc::new(Link::new(self))))
    }
}

impl Link {
    fn new(links: &Links) -> Self {
        Self {
            received: AtomicU64::new(0),
            lanes: AtomicUsize::new(0),
            trial: AtomicBool::new(false),
            places: Places::new(links.shared_places.clone()),
            extra: Arc::new(Semaphore::new(links.extra_per_upstream)),
            extra_overall: Arc::clone(&links.extra_overall),
        }
    }

    /// The places of fills.
    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// Notes that `bytes` more have arrived.
    pub(super) fn receive(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many bytes have arrived so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// How many connections are open.
    pub(super) fn lanes(&self) -> usize {
        self.lanes.load(Ordering::Relaxed)
    }

    /// A fill's first connection, which is its right.
    pub(super) fn first(self: &Arc<Self>) -> OpenLane {
        self.open(None)
    }

    /// A further connection, if there is one left.
    pub(super) fn further(self: &Arc<Self>) -> Option<OpenLane> {
        let extra = Arc::clone(&self.extra).try_acquire_owned().ok()?;
        let overall = Arc::clone(&self.extra_overall).try_acquire_owned().ok()?;
        Some(self.open(Some((extra, overall))))
    }

    pub(super) fn try_trial(self: &Arc<Self>) -> Option<Trial> {
        let is_free = self.trial.compare_exchange(false, true, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        is_free.then(|| Trial(Arc::clone(self)))
    }

    fn open(self: &Arc<Self>, extra: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>) -> OpenLane {
        self.lanes.fetch_add(1, Ordering::Relaxed);
        OpenLane { link: Arc::clone(self), _extra: extra }
    }
}

impl Drop for OpenLane {
    fn drop(&mut self) {
        self.link.lanes.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.0.trial.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_connections_and_trials_are_given_back() {
        let links = Links::new(1, 10);
        let upstream = "docker.io".parse().unwrap();
        let link = links.to(&upstream);
        let (first, further) = (link.first(), link.further());
        assert!(further.is_some() && link.further().is_none());
        assert_eq!(links.to(&upstream).lanes(), 2);
        drop((first, further));
        assert!(link.lanes() == 0 && link.further().is_some());
        let one_for_all = Links::new(5, 1);
        let other = "ghcr.io".parse().unwrap();
        let taken = one_for_all.to(&upstream).further();
        assert!(taken.is_some() && one_for_all.to(&other).further().is_none(), "there is one for all upstreams together");
        drop(taken);
        assert!(one_for_all.to(&other).further().is_some());

        let trial = link.try_trial();
        assert!(trial.is_some() && links.to(&upstream).try_trial().is_none());
        drop(trial);
        assert!(link.try_trial().is_some());
    }
}
