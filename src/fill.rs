//! One content in flight: it is read from its upstream once, written to the store, verified, and read by any number of
//! clients while it arrives. A fill belongs to nobody's request and never decides who may read it.

mod batch;
mod buffers;
mod driver;
mod error;
mod extents;
mod flight;
mod lane;
mod link;
mod origin;
mod places;
mod plan;
mod prefix;
mod reader;
mod tempo;
mod through;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::link::{Link, Links};
use crate::oci::{Digest, RepositoryName, UpstreamName};
use crate::store::Store;
use crate::upstream::{Caller, Origin};
use crate::util::Remembered;

pub use error::FillError;
pub use flight::Fill;
pub use reader::{ByteStream, Chunk, ChunkStream, EXTENT_MAX_BYTES, Extent, Readable, Shelved};
pub use through::Through;

/// How many bytes at the end of a body are held back until the whole is known to hash to its digest (P1).
pub const WITHHELD_TAIL: u64 = 64 << 10;

/// How long a content whose body broke after it had begun is refused at once, instead of being broken again at the same byte.
/// Long enough that a client which resumes goes to its next host, short enough that a pull tried again finds us healed.
const REFUSED_AFTER_BREAK: Duration = Duration::from_secs(5);

/// For how long an upstream that sent wrong bytes is read over one connection only: what several bring in turns is harder to trust.
const SUSPECT: Duration = Duration::from_secs(600);

/// How long a content that nobody reads may take to be complete, in seconds, however large it is.
const UNREAD_SECONDS: u64 = 60;

/// What fills may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub lanes: Lanes,
    /// A content that nobody reads any more is fetched to its end if no more than so many bytes are missing; else only if it takes
    /// no longer than a minute.
    pub unread_bytes: u64,
}

/// How many connections fills may have.
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    /// For one content, where each brings more; at least one.
    pub for_speed: usize,
    /// For one content that readers wait for in several places; at least one.
    pub for_readers: usize,
    /// To one upstream, beyond the first of each fill.
    pub extra_per_upstream: usize,
    /// To all upstreams, beyond the first of each fill.
    pub extra_overall: usize,
}

/// Where a fill reads from.
#[derive(Clone)]
pub struct Source {
    pub upstream: UpstreamName,
    pub repository: RepositoryName,
    pub origin: Arc<dyn Origin>,
    /// Who wants it first: whose share the questions come out of.
    pub caller: Caller,
}

/// All fills in flight, by digest. Cheap to clone.
#[derive(Clone)]
pub struct Fills {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    in_flight: Mutex<HashMap<Digest, Arc<Fill>>>,
    /// How many fills have landed. Changes together with the above.
    landed: AtomicU64,
    broken: Remembered<(UpstreamName, RepositoryName, Digest), FillError>,
    suspects: Remembered<UpstreamName, ()>,
    limits: Limits,
    links: Links,
    observer: Arc<dyn Observer>,
}

/// Is told what fills do, for metrics and alarms.
pub trait Observer: Send + Sync + 'static {
    /// A client joined a fill that another one had begun.
    fn joined(&self);
    /// A fill ended: `None` when its content is at rest, else why it is not. `begun` says whether clients may have been sent some
    /// of it.
    fn ended(&self, source: &Source, error: Option<&FillError>, begun: bool);
    /// The upstream failed and is asked again, for what is missing.
    fn resumed(&self, source: &Source);
    /// The upstream sent bytes that are not what they should be.
    fn rejected(&self, source: &Source, error: &FillError);
}

/// A moment, as fills know it: what the store did not have after it is still not there if no fill has landed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(u64);

/// What [`Fills::fill`] found.
pub enum Joined {
    /// A fill that began with this call.
    Began(Arc<Fill>),
    /// A fill that was in flight.
    InFlight(Arc<Fill>),
    /// The last fill broke after its body had begun, a moment ago.
    Broken(FillError),
}

impl Source {
    fn key(&self, digest: Digest) -> (UpstreamName, RepositoryName, Digest) {
        (self.upstream.clone(), self.repository.clone(), digest)
    }

    /// Whether both are the same repository of the same upstream.
    pub fn is(&self, other: &Source) -> bool {
        self.upstream == other.upstream && self.repository == other.repository
    }
}

impl Fills {
    pub fn new(store: Store, limits: Limits, observer: Arc<dyn Observer>) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                in_flight: Mutex::default(),
                landed: AtomicU64::new(0),
                broken: Remembered::new(REFUSED_AFTER_BREAK, 4096),
                suspects: Remembered::new(SUSPECT, 4096),
                limits,
                links: Links::new(limits.lanes.extra_per_upstream, limits.lanes.extra_overall),
                observer,
            }),
        }
    }

    /// The fill of `digest`, if it is in flight. It says nothing about content at rest.
    pub fn get(&self, digest: &Digest) -> Option<Arc<Fill>> {
        self.lock().get(digest).cloned()
    }

    /// As [`Fills::get`], if it reads from `source`: what the upstream says to it, it says to whoever asks for the same there.
    pub fn get_from(&self, digest: &Digest, source: &Source) -> Option<Arc<Fill>> {
        self.get(digest).filter(|fill| fill.source().is(source))
    }

    /// Joins the fill of `digest` from `source`, if it is in flight.
    pub fn join(&self, digest: &Digest, source: &Source) -> Option<Arc<Fill>> {
        let fill = self.get_from(digest, source)?;
        self.shared.observer.joined();
        Some(fill)
    }

    /// Why content from `source` is refused at the moment, if it is.
    pub fn refusal(&self, digest: &Digest, source: &Source) -> Option<FillError> {
        self.shared.broken.get(&source.key(*digest)).filter(|error| !error.is_local())
    }

    /// Whether so few contents are fetched from `upstream` that some may be fetched which nobody waits for.
    pub fn has_places_to_spare(&self, upstream: &UpstreamName) -> bool {
        self.shared.links.to(upstream).places().are_to_spare()
    }

    /// How many fills are in flight.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// This moment, for who looks into the store next.
    pub fn moment(&self) -> Moment {
        Moment(self.shared.landed.load(Ordering::Acquire))
    }

    /// Joins the fill of `digest` or begins it from `source`. `expected_size` is what a manifest says, in bytes. `missed` is from when the
    /// caller has not found the content in the store, if it has looked.
    pub fn fill(&self, digest: Digest, source: &Source, expected_size: Option<u64>, missed: Option<Moment>) -> Joined {
        let (fill, is_missing) = {
            let mut in_flight = self.lock();
            if let Some(fill) = in_flight.get(&digest) {
                self.shared.observer.joined();
                return Joined::InFlight(Arc::clone(fill));
            }
            if let Some(error) = self.shared.broken.get(&source.key(digest)).filter(|error| !self.is_over(error)) {
                return Joined::Broken(error);
            }
            let fill = Arc::new(Fill::new(digest, source.clone()));
            in_flight.insert(digest, Arc::clone(&fill));
            (fill, missed == Some(self.moment()))
        };
        tokio::spawn(driver::drive(self.clone(), Arc::clone(&fill), expected_size, is_missing));
        Joined::Began(fill)
    }

    /// Whether what broke the last fill is known not to break the next one: the disk has been well since.
    fn is_over(&self, error: &FillError) -> bool {
        matches!(error, FillError::Disk(_)) && self.store().trouble().is_none()
    }

    fn store(&self) -> &Store {
        &self.shared.store
    }

    /// How many connections a fill from `source` may have for speed, and how many for its readers.
    fn lanes_for(&self, source: &Source) -> (usize, usize) {
        let Lanes { for_speed, for_readers, .. } = self.shared.limits.lanes;
        if self.shared.suspects.get(&source.upstream).is_some() { (1, 1) } else { (for_speed.max(1), for_readers.max(1)) }
    }

    fn link_to(&self, source: &Source) -> Arc<Link> {
        self.shared.links.to(&source.upstream)
    }

    /// Ends `fill` if nobody has a hand on it but its driver, so that nobody can be reading it, and says so. Who asks for it from
    /// now on hears of the end, and begins another one.
    fn end_if_unread(&self, fill: &Fill) -> bool {
        let in_flight = self.lock();
        // One hand is the map's, one the driver's; others are given out under this lock only.
        let is_unread = in_flight.get(fill.digest()).is_some_and(|held| Arc::strong_count(held) <= 2);
        if is_unread {
            fill.fail(FillError::Unread);
        }
        is_unread
    }

    /// Whether anybody but the driver has a hand on `fill`.
    fn is_read(&self, fill: &Fill) -> bool {
        self.lock().get(fill.digest()).is_none_or(|held| Arc::strong_count(held) > 2)
    }

    /// Whether a fill that nobody reads is to go on, with `rest` bytes to come at `rate` bytes a second.
    fn is_worth_finishing(&self, rest: u64, rate: u64) -> bool {
        rest <= self.shared.limits.unread_bytes.max(rate.saturating_mul(UNREAD_SECONDS))
    }

    /// Takes `fill` out of flight. Its content is at rest by now, or will not be.
    fn land(&self, fill: &Fill, error: Option<&FillError>) {
        // That there was no room is remembered as well: the next request need not find it out by asking the upstream in vain.
        let recurring = error.filter(|error| error.is_likely_to_recur());
        if let Some(error) = recurring.filter(|error| fill.has_begun() || error.is_local()) {
            self.shared.broken.insert(fill.source().key(*fill.digest()), error.clone());
        }
        if let Some(error) = error.filter(|error| error.is_integrity_failure()) {
            self.reject(fill.source(), error);
        }
        {
            let mut in_flight = self.lock();
            in_flight.remove(fill.digest());
            self.shared.landed.fetch_add(1, Ordering::Release);
        }
        fill.land();
        self.shared.observer.ended(fill.source(), error, fill.has_begun());
    }

    /// Raises the alarm about wrong bytes from `source`, which is read with more care for a while.
    pub fn reject(&self, source: &Source, error: &FillError) {
        self.shared.suspects.insert(source.upstream.clone(), ());
        self.shared.observer.rejected(source, error);
    }

    fn resumed(&self, fill: &Fill) {
        self.shared.observer.resumed(fill.source());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<Fill>>> {
        self.shared.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
