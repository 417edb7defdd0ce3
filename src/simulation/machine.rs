//! The simulated machine: Larder's layers below the server, put together as `cli/serve.rs` does, on the simulated disk and with the
//! simulated upstream. The catalog alone is on a real disk: SQLite is not simulated, but its file is cut, broken and lost.

use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::clock::SimulatedClock;
use super::disk::Mount;
use super::gate::WatchedGate;
use super::journal::Journal;
use super::registry::Registry;
use super::schedule::{CatalogFate, Schedule};
use crate::config::{Failures, FreshnessConfig, Lifetime, TagPolicy};
use crate::fill::{FillError, Fills, Observer, Source};
use crate::mirror::{Mirror, Place, PrefetchObserver, PrefetchOutcome, Timing, Upstream, Upstreams};
use crate::oci::UpstreamName;
use crate::store::{OpenError, Store, StoreConfig};
use crate::upstream::{self, Outcome, RateLimit, Unasked};
use crate::util::Clock;

/// How long a question to the upstream may take, all told.
const PATIENCE: Duration = Duration::from_secs(12);

/// How long a client waits for what a tag is now, where something can be served instead.
const REVALIDATION: Duration = Duration::from_secs(2);

/// Where temporary files are in memory.
const MEMORY: &str = "/dev/shm";

/// A folder on a real disk for each start of the machine, for what is not on the simulated one: the catalog, the lock and the marker.
pub(super) struct Home {
    dir: tempfile::TempDir,
    number: usize,
}

/// Sees to it that nothing right is taken for wrong.
struct Watcher {
    registry: Registry,
    journal: Journal,
}

impl Observer for Watcher {
    fn joined(&self) {}

    fn ended(&self, _: &Source, error: Option<&FillError>, _: bool) {
        if let Some(error @ (FillError::BadPart | FillError::WrongDigest { .. })) = error
            && self.registry.count_tainted() == 0
        {
            self.journal.violation(format_args!("all that was sent is right, and yet: {error}"));
        }
    }

    fn resumed(&self, _: &Source) {}

    fn rejected(&self, _: &Source, _: &FillError) {}
}

impl upstream::Observer for Watcher {
    fn asked(&self, _: &UpstreamName, _: &'static str, _: &'static str, _: Outcome, _: Duration) {}

    fn received(&self, _: &UpstreamName, _: u64) {}

    fn rate_limit(&self, _: &UpstreamName, _: &RateLimit) {}

    fn unasked(&self, _: &UpstreamName, why: Unasked) {
        self.journal.note(format_args!("upstream: not asked: {why:?}"));
    }
}

impl PrefetchObserver for Watcher {
    fn ended(&self, _: &UpstreamName, _: PrefetchOutcome) {}
}

impl Home {
    pub(super) fn new() -> Self {
        let dir = match Path::new(MEMORY).is_dir() {
            true => tempfile::tempdir_in(MEMORY),
            false => tempfile::tempdir(),
        };
        let home = Self { dir: dir.expect("temporary folders can be made"), number: 0 };
        fs::create_dir(home.path()).expect("it is new");
        home
    }

    /// The folder of the machine that runs, or starts next.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join(self.number.to_string())
    }

    /// What copies the folder as it is for the machine that starts next.
    pub(super) fn copier(&self) -> Box<dyn FnOnce() + Send> {
        let (from, to) = (self.path(), self.dir.path().join((self.number + 1).to_string()));
        Box::new(move || {
            fs::create_dir(&to).expect("it is new");
            for entry in fs::read_dir(&from).expect("it is there") {
                let entry = entry.expect("it can be listed");
                // SQLite makes the index of its log anew.
                if !entry.file_name().to_string_lossy().ends_with("-shm") {
                    fs::copy(entry.path(), to.join(entry.file_name())).expect("it can be copied");
                }
            }
        })
    }

    /// The machine has stopped: waits until the threads of its store have ended, and goes over to the copy.
    pub(super) fn leave(&mut self, fate: CatalogFate) {
        let lock = fs::File::open(self.path().join("LOCK")).expect("every store makes one");
        while lock.try_lock().is_err() {
            std::thread::sleep(Duration::from_micros(20));
        }
        fs::remove_dir_all(self.path()).expect("nobody uses it");
        self.number += 1;
        fate.befall(&self.path().join("catalog.sqlite")).expect("it can be damaged");
    }
}

impl CatalogFate {
    fn befall(self, catalog: &Path) -> io::Result<()> {
        let log = catalog.with_extension("sqlite-wal");
        let gone = |path: &Path| match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        match self {
            Self::Kept => Ok(()),
            Self::LogCut(thousandths) => match fs::OpenOptions::new().write(true).open(&log) {
                Ok(file) => file.set_len(file.metadata()?.len() * thousandths / 1000),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            },
            Self::Deleted => gone(catalog).and_then(|()| gone(&log)),
            Self::Garbage => gone(&log).and_then(|()| fs::write(catalog, [0x5a; 10_000])),
        }
    }
}

/// Opens the store.
pub(super) fn open(path: PathBuf, mount: Arc<Mount>, clock: &Arc<SimulatedClock>, max_bytes: u64) -> Result<Store, OpenError> {
    Store::open(StoreConfig { dir: path, max_bytes }, mount, Arc::clone(clock) as Arc<dyn Clock>)
}

/// The mirror over it, and the places that clients ask for.
pub(super) fn mirror(
    store: Store,
    schedule: &Schedule,
    registry: &Registry,
    clock: &Arc<SimulatedClock>,
    journal: &Journal,
) -> (Mirror, Vec<Place>) {
    let watcher = Arc::new(Watcher { registry: registry.clone(), journal: journal.clone() });
    let upstream = Arc::new(Upstream {
        name: "docker.io".parse().expect("a name"),
        aliases: Vec::new(),
        hosts: Vec::new(),
        is_anonymous: true,
        official_namespace: None,
        origin: Arc::new(WatchedGate::before(registry, schedule, journal, Arc::clone(&watcher) as Arc<dyn upstream::Observer>)),
    });
    let fills = Fills::new(store.clone(), schedule.limits, Arc::clone(&watcher) as Arc<dyn Observer>);
    let upstreams = Upstreams::new(vec![Arc::clone(&upstream)], Arc::clone(&upstream));
    let general = TagPolicy {
        fresh_for: Lifetime::For(schedule.fresh),
        stale_while_revalidate: Duration::ZERO,
        stale_for: Lifetime::Forever,
        refuse_stale: Failures::default(),
        keep_missing: false,
    };
    let timing = Timing {
        // How long an absence is remembered goes by a clock that is not simulated: not at all.
        freshness: FreshnessConfig { general, rules: Vec::new(), missing: Duration::ZERO },
        revalidation: REVALIDATION,
        misses_per_client: NonZeroU32::MAX,
        patience: PATIENCE,
    };
    let prefetch = schedule.prefetches.then_some(watcher as Arc<dyn PrefetchObserver>);
    let mirror = Mirror::new(upstreams, store, fills, Arc::clone(clock) as Arc<dyn Clock>, timing, prefetch);
    let place = |(repository, _): &_| Place { upstream: Arc::clone(&upstream), repository: Clone::clone(repository) };
    (mirror, schedule.holdings.iter().map(place).collect())
}
