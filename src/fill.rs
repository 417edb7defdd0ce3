//! One content in flight: it is read from its upstream once, written to the store, verified, and read by any number of
//! clients while it arrives. A fill belongs to nobody's request and never decides who may read it.

mod buffers;
mod driver;
mod error;
mod extents;
mod flight;
mod origin;
mod reader;
mod through;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::oci::{Digest, RepositoryName, UpstreamName};
use crate::store::Store;
use crate::upstream::Origin;

pub use error::FillError;
pub use flight::Fill;
pub use reader::{ByteStream, Readable};
pub use through::Through;

/// How many bytes at the end of a body are held back until the whole is known to hash to its digest (P1).
pub const WITHHELD_TAIL: u64 = 64 << 10;

/// How long a content whose body broke after it had begun is refused at once, instead of being broken again at the same byte.
/// Long enough that a client which resumes goes to its next host, short enough that a pull tried again finds us healed.
const REFUSED_AFTER_BREAK: Duration = Duration::from_secs(5);

/// Where a fill reads from.
#[derive(Clone)]
pub struct Source {
    pub upstream: UpstreamName,
    pub repository: RepositoryName,
    pub origin: Arc<dyn Origin>,
}

/// All fills in flight, by digest. Cheap to clone.
#[derive(Clone)]
pub struct Fills {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    in_flight: Mutex<HashMap<Digest, Arc<Fill>>>,
    broken: moka::sync::Cache<Digest, FillError>,
    observer: Arc<dyn Observer>,
}

/// Is told what fills do, for metrics and alarms.
pub trait Observer: Send + Sync + 'static {
    /// A client joined a fill that another one had begun.
    fn joined(&self);
    /// A fill ended: `None` when its content is at rest, else why it is not.
    fn ended(&self, source: &Source, error: Option<&FillError>);
    /// A body was cut or stalled and is asked for again from where it stood.
    fn resumed(&self, source: &Source);
}

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
    /// Whether both are the same repository of the same upstream.
    pub fn is(&self, other: &Source) -> bool {
        self.upstream == other.upstream && self.repository == other.repository
    }
}

impl Fills {
    pub fn new(store: Store, observer: Arc<dyn Observer>) -> Self {
        let broken = moka::sync::Cache::builder().max_capacity(4096).time_to_live(REFUSED_AFTER_BREAK).build();
        Self { shared: Arc::new(Shared { store, in_flight: Mutex::default(), broken, observer }) }
    }

    /// The fill of `digest`, if it is in flight. It says nothing about content at rest.
    pub fn get(&self, digest: &Digest) -> Option<Arc<Fill>> {
        self.lock().get(digest).cloned()
    }

    /// How many fills are in flight.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Joins the fill of `digest` or begins it from `source`. `expected_size` is what a manifest says, in bytes.
    pub fn fill(&self, digest: Digest, source: &Source, expected_size: Option<u64>) -> Joined {
        let fill = {
            let mut in_flight = self.lock();
            if let Some(fill) = in_flight.get(&digest) {
                self.shared.observer.joined();
                return Joined::InFlight(Arc::clone(fill));
            }
            if let Some(error) = self.shared.broken.get(&digest) {
                return Joined::Broken(error);
            }
            let fill = Arc::new(Fill::new(digest, source.clone()));
            in_flight.insert(digest, Arc::clone(&fill));
            fill
        };
        tokio::spawn(driver::drive(self.clone(), Arc::clone(&fill), expected_size));
        Joined::Began(fill)
    }

    fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Takes `fill` out of flight. Its content is at rest by now, or will not be.
    fn land(&self, fill: &Fill, error: Option<&FillError>) {
        if let Some(error) = error.filter(|_| fill.has_begun()) {
            self.shared.broken.insert(*fill.digest(), error.clone());
        }
        self.lock().remove(fill.digest());
        self.shared.observer.ended(fill.source(), error);
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
