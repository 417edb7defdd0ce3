//! What the store does for a hit, a miss and an eviction, in a small folder and in a large one, in turn: so that what the machine does
//! besides hits both alike. Nothing waits for the disk: `fsync` would be all there is to see.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use larder::oci::Digest;
use larder::store::{LastUse, OpenError, Store, StoreConfig};
use larder::util::{Clock, SystemClock};
use rusqlite::Connection;
use tokio::runtime::Runtime;

use crate::dice::Dice;
use crate::figures::Times;
use crate::folder::{Folder, IMAGE, content};
use crate::unsynced::UnsyncedFs;

/// How often each operation is measured in each folder, and how many of it are measured as one.
const ROUNDS: usize = 25;
/// Fewer evictions than this spend what uses a thousand contents have.
const ROUNDS_OF_USED: usize = 15;
const LOOKUPS: u32 = 200;
const INSERTIONS: u32 = 40;
const NOTES: u32 = 1000;

/// Between operations while the catalog is made anew.
const PAUSE: Duration = Duration::from_millis(2);

/// New contents have numbers from here on.
const NEW: u64 = 1 << 40;

/// Reads further apart than this are two uses, by the policy: an hour.
const HOUR: i64 = 3_600_000;

const ROOMY: u64 = 1 << 50;

/// One operation in both folders.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    pub(crate) promised: Promised,
    pub(crate) small: Times,
    pub(crate) large: Times,
}

/// The system's clock and some hours.
#[derive(Default)]
struct LateClock(AtomicI64);

/// What is promised of an operation.
#[derive(Clone, Copy)]
pub(crate) enum Promised {
    /// It takes as long in the large folder as in the small one.
    Same,
    /// It never takes longer than this, whatever it takes in the small one.
    Within(Duration),
}

/// A catalog that was made anew, and what was done meanwhile.
#[derive(Default)]
pub(crate) struct Rebuild {
    pub(crate) duration: Duration,
    pub(crate) look_ups: Times,
    pub(crate) insertions: Times,
}

struct Bench<'a> {
    folder: &'a Folder,
    runtime: &'a Runtime,
    clock: Arc<LateClock>,
    dice: Dice,
    next: u64,
}

/// Measures all operations in both folders, each of which has a catalog. What is in them changes.
pub(crate) fn measure(small: &Folder, large: &Folder) -> Result<Vec<Operation>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut benches = [Bench::new(small, &runtime), Bench::new(large, &runtime)];
    let mut operations = Vec::new();
    let mut add = |name, promised, rounds, benches: &mut _, stores: &_, measure| {
        side_by_side(name, promised, rounds, benches, stores, measure).map(|operation| operations.push(operation))
    };
    {
        let stores = open_both(&benches, |_| ROOMY)?;
        add("look-up", Promised::Same, ROUNDS, &mut benches, &stores, Bench::look_up)?;
        add("note of a use", Promised::Same, ROUNDS, &mut benches, &stores, Bench::note)?;
        add("insertion", Promised::Same, ROUNDS, &mut benches, &stores, Bench::insert)?;
    }
    let full = |folder: &Folder| content_bytes(folder).unwrap_or(0);
    {
        let stores = open_both(&benches, full)?;
        add("insertion with eviction", Promised::Same, ROUNDS, &mut benches, &stores, Bench::evict)?;
        // A thousand uses are in twenty pages of the small catalog, and in a thousand of the large one. Nobody waits for that.
        let promised = Promised::Within(Duration::from_millis(1));
        add("storing a use", promised, ROUNDS, &mut benches, &stores, Bench::store_notes)?;
    }
    for bench in &benches {
        set_all_used(bench.folder)?;
    }
    let stores = open_both(&benches, full)?;
    let promised = Promised::Within(Duration::from_secs(1));
    add("insertion with eviction, all used", promised, ROUNDS_OF_USED, &mut benches, &stores, Bench::evict_one)?;
    Ok(operations)
}

/// Removes the catalog of a folder that no store has open, and measures what is done while it is made anew.
pub(crate) fn measure_rebuild(folder: &Folder) -> Result<Rebuild> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut bench = Bench { next: 2 * NEW, ..Bench::new(folder, &runtime) };
    fs::remove_file(folder.catalog())?;
    let begun = Instant::now();
    let store = bench.open_at_once(ROOMY)?;
    let mut rebuild = Rebuild::default();
    while store.stats().walking {
        rebuild.look_ups.add(bench.time_look_ups(&store, 1)?);
        rebuild.insertions.add(bench.time_insertions(&store, 1)?);
        sleep(PAUSE);
    }
    rebuild.duration = begun.elapsed();
    Ok(rebuild)
}

type Measure<'a> = fn(&mut Bench<'a>, &Store) -> Result<Duration>;

fn side_by_side<'a>(
    name: &'static str,
    promised: Promised,
    rounds: usize,
    benches: &mut [Bench<'a>; 2],
    stores: &[Store; 2],
    measure: Measure<'a>,
) -> Result<Operation> {
    eprintln!("  {name}");
    let mut times = [Times::default(), Times::default()];
    for _ in 0..rounds {
        for ((bench, store), times) in benches.iter_mut().zip(stores).zip(&mut times) {
            times.add(measure(bench, store).with_context(|| format!("{name}: with {} contents", bench.folder.contents))?);
        }
    }
    let [small, large] = times;
    Ok(Operation { name, promised, small, large })
}

fn open_both(benches: &[Bench<'_>; 2], max_bytes: impl Fn(&Folder) -> u64) -> Result<[Store; 2]> {
    let [small, large] = benches;
    Ok([small.open(max_bytes(small.folder))?, large.open(max_bytes(large.folder))?])
}

impl<'a> Bench<'a> {
    fn new(folder: &'a Folder, runtime: &'a Runtime) -> Self {
        Self { folder, runtime, clock: Arc::default(), dice: Dice::new(2), next: NEW }
    }

    /// Opens the store, and waits until its catalog agrees with the folder.
    fn open(&self, max_bytes: u64) -> Result<Store> {
        let store = self.open_at_once(max_bytes)?;
        while store.stats().walking {
            sleep(Duration::from_millis(5));
        }
        Ok(store)
    }

    fn open_at_once(&self, max_bytes: u64) -> Result<Store> {
        loop {
            let config = StoreConfig { dir: self.folder.dir.clone(), max_bytes };
            match Store::open(config, Arc::new(UnsyncedFs), Arc::clone(&self.clock) as Arc<dyn Clock>) {
                // The last one is being closed.
                Err(OpenError::InUse { .. }) => sleep(Duration::from_millis(5)),
                opened => return Ok(opened?),
            }
        }
    }

    fn any(&mut self) -> Digest {
        let blobs = self.folder.contents / IMAGE * (IMAGE - 1);
        Digest::sha256(&content(self.dice.below(blobs)))
    }

    fn any_of(&mut self, count: u32) -> Vec<Digest> {
        (0..count).map(|_| self.any()).collect()
    }

    fn look_up(&mut self, store: &Store) -> Result<Duration> {
        self.time_look_ups(store, LOOKUPS)
    }

    fn time_look_ups(&mut self, store: &Store, count: u32) -> Result<Duration> {
        let wanted = self.any_of(count);
        self.runtime.block_on(async {
            let begun = Instant::now();
            for digest in &wanted {
                ensure!(store.get(digest).await.is_some(), "{digest} is not there");
            }
            Ok(begun.elapsed() / count)
        })
    }

    fn note(&mut self, store: &Store) -> Result<Duration> {
        let wanted = self.any_of(NOTES);
        let begun = Instant::now();
        wanted.iter().for_each(|digest| store.note_use(digest, &LastUse::default()));
        Ok(begun.elapsed() / NOTES)
    }

    fn insert(&mut self, store: &Store) -> Result<Duration> {
        self.time_insertions(store, INSERTIONS)
    }

    fn evict(&mut self, store: &Store) -> Result<Duration> {
        let before = store.stats().evictions;
        let time = self.time_insertions(store, INSERTIONS)?;
        ensure!(store.stats().evictions > before, "nothing had to go");
        Ok(time)
    }

    /// The next insertion for which something has to go: a manifest that went has made room for several.
    fn evict_one(&mut self, store: &Store) -> Result<Duration> {
        let before = store.stats().evictions;
        for _ in 0..INSERTIONS {
            let time = self.time_insertions(store, 1)?;
            if store.stats().evictions > before {
                return Ok(time);
            }
        }
        bail!("nothing had to go")
    }

    /// One eviction for which uses have to be stored before, compared with one for which none have.
    fn store_notes(&mut self, store: &Store) -> Result<Duration> {
        let without = self.time_insertions(store, 1)?;
        self.clock.0.fetch_add(HOUR, Ordering::Relaxed);
        self.note(store)?;
        let with = self.time_insertions(store, 1)?;
        Ok(with.saturating_sub(without) / NOTES)
    }

    fn time_insertions(&mut self, store: &Store, count: u32) -> Result<Duration> {
        let contents: Vec<Vec<u8>> = (self.next..).take(count as usize).map(content).collect();
        self.next += u64::from(count);
        self.runtime.block_on(async {
            let begun = Instant::now();
            for bytes in &contents {
                let size = bytes.len() as u64;
                let ingest = store.begin(Digest::sha256(bytes), Some(size)).await?;
                ingest.writer().write_all_at(bytes, 0)?;
                ingest.commit(size).await?;
            }
            Ok(begun.elapsed() / count)
        })
    }
}

fn content_bytes(folder: &Folder) -> Result<u64> {
    let bytes = Connection::open(folder.catalog())?.query_row("SELECT sum(bytes) FROM queue", [], |row| row.get::<_, i64>(0))?;
    Ok(u64::try_from(bytes)?)
}

/// As if everything had been asked for as often as is counted, since anything last went.
fn set_all_used(folder: &Folder) -> Result<()> {
    let connection = Connection::open(folder.catalog())?;
    connection.busy_timeout(Duration::from_secs(60))?;
    connection.execute("UPDATE blob SET uses = 3", []).map(drop).context("uses cannot be set")
}

impl Clock for LateClock {
    fn unix_millis(&self) -> i64 {
        SystemClock.unix_millis() + self.0.load(Ordering::Relaxed)
    }
}
