//! Content at rest: blobs and manifests in a folder, named by what they hash to, and a catalog of what is known about them, within
//! a budget of bytes. It never talks to the network, and never verifies a digest on behalf of a fill: what is committed was verified.
//!
//! ```text
//! <dir>/CACHEDIR.TAG                      marks the folder as ours, and as one that backups leave out
//! <dir>/LOCK                              held by the one process that uses the folder
//! <dir>/blobs/<alg>/<2 hex>/<hex>         content: the truth
//! <dir>/ingest/                           parts in flight, and what may be gone on with of those that were
//! <dir>/refs/<upstream>/<repository>/     tags, manifests and pins of the repository: the truth about names
//! <dir>/verified                          how far the scrubber has come: can be lost
//! <dir>/catalog.sqlite                    all of that by index, and freshness and access times: can be lost
//! ```

mod blobs;
mod budget;
mod catalog;
mod error;
mod eviction;
mod exclusive;
mod filesystem;
mod folder;
mod forgetting;
mod health;
mod holds;
mod ingest;
mod inspect;
mod last_use;
mod layout;
mod limits;
mod name;
mod open_files;
mod parts;
mod pinning;
mod refs;
mod removal;
mod scrub;
mod walk;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use futures::Stream;

use self::blobs::Blobs;
use self::budget::Budget;
use self::catalog::database::Database;
use self::exclusive::Exclusive;
use self::filesystem::Guarded;
use self::folder::Folder;
use self::health::{Health, Operation};
use self::holds::{Hold, Holds};
use self::layout::Layout;
use self::open_files::OpenFiles;
use self::parts::Parts;
use self::refs::Refs;
use crate::oci::{Digest, RepositoryName, UpstreamName};
use crate::util::{Clock, blocking};

#[cfg(test)]
use catalog::Link;
pub use catalog::{Catalog, CatalogError, Kind, ListingRecord, Right, TagRecord};
pub use error::{OpenError, StoreError};
pub use eviction::{Clearing, Evicted};
pub use filesystem::{Entry, FileSystem, Metadata, OsFileSystem, Space, StoredFile};
pub use ingest::{Ingest, PartWriter};
pub use inspect::{Image, InspectError, Inspection, Wanted};
pub use last_use::LastUse;
pub use limits::Limits;
pub use name::{Name, NameError, Pin};
pub use open_files::OPEN_FILES_MAX;
pub use parts::PartMap;
pub use pinning::{PinError, Pinned, PinnedBytes};
pub use removal::{Removal, RemovalError};
pub use scrub::{Verdict, Verified};

/// Where a store is and how large it may become.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// A folder for the store alone, on a local disk. Created if need be.
    pub dir: PathBuf,
    /// How many bytes of content there may be, parts in flight included. Not counted are the catalog and the refs, some hundred
    /// bytes for each content, nor what the file system needs for itself.
    pub max_bytes: u64,
}

/// How long those who wait for the catalog wait at a time.
const NAP: Duration = Duration::from_millis(200);

/// An open store. Cheap to clone; the folder is free for another process when the last clone, and all work it does, is gone.
#[derive(Clone)]
pub struct Store {
    blobs: Arc<Blobs>,
    catalog: Catalog,
}

/// Content at rest, open for reading. As long as it is held it is not evicted.
#[derive(Clone)]
pub struct Content {
    pub file: Arc<dyn StoredFile>,
    /// Bytes.
    pub size: u64,
    _hold: Arc<Hold>,
}

/// Numbers of a store, for metrics. Counts begin when it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes of content at rest. May be too low while `walking`.
    pub bytes: u64,
    /// Bytes promised to parts in flight. `bytes + reserved` does not exceed `max_bytes` unless that was made smaller.
    pub reserved: u64,
    /// Contents at rest. May be too low while `walking`.
    pub blobs: u64,
    /// How many bytes there may be: the limit, or less where others have filled the file system. 0 as long as the limit is a share
    /// of a file system that has not been seen.
    pub max_bytes: u64,
    /// Contents evicted.
    pub evictions: u64,
    pub evicted_bytes: u64,
    /// Failures by step, zeros included. Reading and writing of open files is the caller's to count.
    pub disk_errors: Vec<(&'static str, u64)>,
    pub catalog_errors: u64,
    /// The catalog is being compared with the folder.
    pub walking: bool,
    /// Bytes at rest that were read again and found right.
    pub verified_bytes: u64,
    /// Contents at rest that were not what their names say, and were removed.
    pub damaged: u64,
    /// Passes over all content, to verify it.
    pub scrubs: u64,
}

impl Content {
    fn new(file: Arc<dyn StoredFile>, size: u64, hold: Hold) -> Self {
        Self { file, size, _hold: Arc::new(hold) }
    }
}

// === impl Store ===

impl Store {
    /// Opens the store in a folder that is new, empty or a store's. Blocks, no longer if there is much in it; then content is
    /// served at once, while a thread brings the catalog into agreement with the folder. A disk that fails is no reason not to: what can
    /// be read is there, and the rest when the disk is well; [`Store::trouble`] tells.
    ///
    /// # Errors
    /// [`OpenError`] if another process has the folder, or it belongs to something else, or threads cannot be started.
    pub fn open(config: StoreConfig, fs: Arc<dyn FileSystem>, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let (folder, absence) = Folder::claim_or_wait(&config.dir)?;
        let folder = Arc::new(folder);
        let fs: Arc<dyn FileSystem> = Arc::new(Guarded { fs, folder: Arc::clone(&folder) });
        let layout = Arc::new(Layout::new(folder.path().to_owned()));
        let dir = &config.dir;
        let failed = |what| move |source| OpenError::Io { dir: dir.clone(), what, source };
        let health = Arc::new(Health::default());
        if let Some(reason) = absence {
            health.folder_is_gone(reason.to_string());
        }
        for part in [layout.blobs(), layout.ingest(), layout.refs()] {
            // They are made when something is to be in them, too.
            if let Err(error) = fs.create_folder(&part) {
                health.disk_error(Operation::CreateFolder, &part, &error);
            }
        }

        let (requester, requests, walks) = walk::Requester::new();
        requester.send();
        let on_renewed = Box::new(move || requester.send_for_new_catalog());
        let (database, budget, closure) = Database::open(
            layout.catalog(),
            Arc::clone(&folder),
            Arc::clone(&health),
            config.max_bytes,
            Arc::clone(&clock),
            on_renewed,
        )?;
        if let Some(error) = &closure {
            health.catalog_is_closed(error);
        }
        if walks.may_miss_pins() || closure.is_some() {
            estimate(&*fs, &layout, &budget);
        }
        let numbers = Arc::new(AtomicU64::new(0));
        let parts = Parts::new(
            Arc::clone(&fs),
            Arc::clone(&layout),
            Arc::clone(&health),
            Arc::clone(&clock),
            budget.clone(),
            Arc::clone(&numbers),
        );
        // Whoever begins one tries again.
        let _ = parts.take_over();
        let refs = Refs { layout: Arc::clone(&layout), fs: Arc::clone(&fs), health: Arc::clone(&health), numbers };
        let inner = catalog::Inner { database, refs, health: Arc::clone(&health), claims: Exclusive::new(), folder };
        let catalog = Arc::new(inner);
        let (watch, closed) = mpsc::channel();
        let blobs = Arc::new(Blobs {
            layout,
            fs,
            clock,
            health,
            catalog: Arc::clone(&catalog),
            budget,
            min_free: AtomicU64::new(0),
            margin: AtomicU64::new(0),
            allowance: Mutex::default(),
            holds: Holds::default(),
            open_files: OpenFiles::default(),
            claims: Exclusive::new(),
            evicting: Mutex::default(),
            evictions: AtomicU64::new(0),
            evicted_bytes: AtomicU64::new(0),
            walks: walks.clone(),
            scrubbed: scrub::Counts::default(),
            parts,
            condemned: Mutex::default(),
            _watch: watch,
        });
        walk::start(requests, walks, Arc::downgrade(&blobs)).map_err(failed("start the thread that walks through it"))?;
        watch::start(closed, Arc::downgrade(&blobs)).map_err(failed("start the thread that watches over it"))?;
        Ok(Self { blobs, catalog: Catalog(catalog) })
    }

    /// Opens content for reading. What is missing, short, empty though it should not be, or cannot be read is a miss; where that
    /// shows a file to be wrong, it is removed.
    pub async fn get(&self, digest: &Digest) -> Option<Content> {
        if let Some(content) = self.blobs.get_open(digest) {
            return Some(content);
        }
        let (blobs, digest) = (Arc::clone(&self.blobs), *digest);
        off_thread(move || blobs.get(&digest)).await.ok().flatten()
    }

    /// As [`Store::get`], together with what is known of a repository's right to the content: to have something done where it may block
    /// takes longer than either, so it is done once.
    pub async fn get_for(
        &self,
        upstream: &UpstreamName,
        repository: &RepositoryName,
        kind: Kind,
        digest: &Digest,
    ) -> (Right, Option<Content>) {
        if let Some(content) = self.blobs.get_open(digest) {
            return (self.catalog.right_to(upstream, repository, kind, digest).await, Some(content));
        }
        let (blobs, digest) = (Arc::clone(&self.blobs), *digest);
        let look = move |catalog: &catalog::Inner, place: &_| (catalog.right_to(place, kind, &digest), blobs.get(&digest));
        self.catalog.run(upstream, repository, look).await.unwrap_or_default()
    }

    /// Notes that content was used of which the caller has a copy in memory, and when that was noted last. Does not block, and asks nobody.
    pub fn note_use(&self, digest: &Digest, last: &LastUse) {
        let now = self.blobs.clock.unix_millis();
        if last.renew(now) {
            self.blobs.catalog.database.note_access(digest, None, now);
        }
    }

    /// Begins to write content of `size` bytes, if that is known, and makes room for it.
    ///
    /// # Errors
    /// [`StoreError`]; the content can still be passed through.
    pub async fn begin(&self, digest: Digest, size: Option<u64>) -> Result<Ingest, StoreError> {
        Ingest::begin(Arc::clone(&self.blobs), digest, size).await
    }

    /// As [`Store::begin`], for content that is asked for at this moment, if there is room without anything going for it. `None` if
    /// there is not: then it is begun when the content is known to come.
    pub async fn begin_in_free_room(&self, digest: Digest, size: u64) -> Option<Result<Ingest, StoreError>> {
        Ingest::begin_in_free_room(Arc::clone(&self.blobs), digest, size).await
    }

    /// Takes up what an earlier fill of the same content has left, if there is such a part. `size` is that of the content in bytes,
    /// if it is known. What the part has is not verified.
    pub async fn resume(&self, digest: Digest, size: Option<u64>) -> Option<(Ingest, PartMap)> {
        Ingest::resume(Arc::clone(&self.blobs), digest, size).await
    }

    /// Removes content that was found to be wrong. Who has it open reads on.
    pub async fn remove(&self, digest: &Digest) {
        let (blobs, digest) = (Arc::clone(&self.blobs), *digest);
        // Fails at shutdown only.
        let _ = off_thread(move || blobs.remove(&digest)).await;
    }

    /// Notes that content at rest could not be read, and removes it: it is fetched again. Who has it open reads on as far as that goes.
    pub async fn read_failed(&self, digest: &Digest, error: &io::Error) {
        self.blobs.health.disk_error(Operation::ReadBlob, &self.blobs.layout.blob(digest), error);
        self.remove(digest).await;
    }

    /// Says to other processes that want the folder where this one answers, for tools that can ask it instead.
    ///
    /// # Errors
    /// What the disk said.
    pub fn announce(&self, address: SocketAddr) -> io::Result<()> {
        self.blobs.catalog.folder.announce(address)
    }

    /// Waits until the catalog agrees with the folder, so that what it does not know is not there.
    pub async fn settled(&self) {
        while self.blobs.walks.is_any() {
            tokio::time::sleep(NAP).await;
        }
    }

    /// All pins, and what each of them keeps.
    ///
    /// # Errors
    /// [`PinError::Store`] if the catalog fails.
    pub async fn pins(&self) -> Result<Vec<Pinned>, PinError> {
        self.settled().await;
        let blobs = Arc::clone(&self.blobs);
        off_thread(move || blobs.pins()).await?
    }

    /// Pins what is named, so that it is not evicted, with all that belongs to it, whether it is here or comes later. Gives what each
    /// of the pins keeps now.
    ///
    /// # Errors
    /// [`PinError::Store`]; the names before the one that failed are pinned.
    pub async fn pin(&self, pins: Vec<Pin>) -> Result<Vec<Pinned>, PinError> {
        self.settled().await;
        let blobs = Arc::clone(&self.blobs);
        off_thread(move || blobs.pin(pins)).await?
    }

    /// Takes pins away. What no other pin keeps can be evicted from now on. Gives what they kept.
    ///
    /// # Errors
    /// [`PinError`]; if one of them is not pinned, none is taken away.
    pub async fn unpin(&self, pins: Vec<Pin>) -> Result<Vec<Pinned>, PinError> {
        self.settled().await;
        let blobs = Arc::clone(&self.blobs);
        off_thread(move || blobs.unpin(&pins)).await?
    }

    /// What is pinned of the content at rest.
    pub async fn pinned(&self) -> PinnedBytes {
        let store = self.clone();
        off_thread(move || store.pinned_blocking()).await.unwrap_or_default()
    }

    /// As [`Store::pinned`], for who may block. It takes microseconds as a rule.
    pub fn pinned_blocking(&self) -> PinnedBytes {
        self.blobs.pinned()
    }

    /// Removes what is named, and the content that nothing else refers to; who has it open reads on. With `is_dry`, only tells what
    /// would be removed. What is pinned is refused unless `force`; the pins stay in any case.
    ///
    /// # Errors
    /// [`RemovalError`]; then nothing has been removed.
    pub async fn remove_named(&self, names: Vec<Name>, is_dry: bool, force: bool) -> Result<Removal, RemovalError> {
        self.settled().await;
        let blobs = Arc::clone(&self.blobs);
        off_thread(move || blobs.remove_named(&names, is_dry, force)).await?
    }

    /// Evicts until `free` bytes of the budget are free, or all that may go is gone. With `is_dry`, only tells what would go.
    ///
    /// # Errors
    /// [`StoreError`] if the catalog fails.
    pub async fn clear(&self, free: u64, is_dry: bool) -> Result<Clearing, StoreError> {
        self.settled().await;
        let blobs = Arc::clone(&self.blobs);
        off_thread(move || blobs.clear(free, is_dry)).await?
    }

    /// How many images there are by their names, tags included whose content is gone.
    pub async fn count_images(&self) -> u64 {
        let blobs = Arc::clone(&self.blobs);
        let count = move || blobs.catalog.database.examine(catalog::holdings::count_images);
        off_thread(count).await.ok().and_then(Result::ok).unwrap_or(0)
    }

    /// Reads all content again and verifies it, one after the other; what is wrong is removed. Waits until the catalog agrees with the
    /// folder, so that nothing is left out.
    pub fn verify_all(&self) -> impl Stream<Item = Verified> + Send + 'static + use<> {
        scrub::verify_all(Arc::clone(&self.blobs))
    }

    /// Has all content read again and verified once in every `period`, a little at a time, as long as the store is open.
    ///
    /// # Errors
    /// If no thread can be started for that.
    pub fn scrub(&self, period: Duration) -> io::Result<()> {
        scrub::start(Arc::downgrade(&self.blobs), period)
    }

    /// Reads a content again and verifies it. What is wrong is removed.
    ///
    /// # Errors
    /// Only at shutdown.
    pub async fn verify(&self, digest: &Digest) -> Result<Verdict, StoreError> {
        let (blobs, digest) = (Arc::clone(&self.blobs), *digest);
        off_thread(move || blobs.verify(&digest)).await
    }

    /// Notes that a write to the file of an [`Ingest`] failed, and says what that means.
    pub fn write_failed(&self, error: io::Error) -> StoreError {
        self.blobs.health.disk_error(Operation::WritePart, &self.blobs.layout.ingest(), &error);
        let error = StoreError::io(Operation::WritePart, error);
        self.blobs.health.stored(&Err::<(), _>(error.clone()));
        error
    }

    /// Has these limits kept from now on, on whatever file system the folder is, and comes to be. What is at rest beyond them goes
    /// when room is made. Blocks for a look at the file system. Tells whether it is known how many bytes they are; else that is
    /// found out when the folder is there.
    pub fn limit(&self, limits: Limits) -> bool {
        self.blobs.limit(limits);
        !self.blobs.awaits_limits()
    }

    /// Why nothing could be stored when that was last tried; `None` if it could.
    pub fn trouble(&self) -> Option<String> {
        self.blobs.health.trouble()
    }

    /// The numbers of this moment.
    pub fn stats(&self) -> StoreStats {
        let Blobs { budget, health, evictions, evicted_bytes, walks, scrubbed, .. } = &*self.blobs;
        let amounts = budget.amounts();
        StoreStats {
            bytes: amounts.at_rest,
            reserved: amounts.reserved,
            blobs: amounts.blobs,
            max_bytes: if self.blobs.awaits_limits() { 0 } else { self.blobs.capacity() },
            evictions: evictions.load(Ordering::Relaxed),
            evicted_bytes: evicted_bytes.load(Ordering::Relaxed),
            disk_errors: health.disk_errors(),
            catalog_errors: health.catalog_errors(),
            walking: walks.is_any(),
            verified_bytes: scrubbed.verified_bytes.load(Ordering::Relaxed),
            damaged: scrubbed.damaged.load(Ordering::Relaxed),
            scrubs: scrubbed.passes.load(Ordering::Relaxed),
        }
    }

    /// What is known about content.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }
}

/// How much is at rest at the most, as long as a new catalog does not know it and nobody has looked.
fn estimate(fs: &dyn FileSystem, layout: &Layout, budget: &Budget) {
    if fs.list(&layout.blobs()).is_ok_and(|entries| entries.is_empty()) {
        budget.surveyed(0);
    } else if let Ok(space) = fs.space(layout.root()) {
        budget.estimated(space.used);
    }
}

/// Runs work that blocks where it may. A panic in it goes on in the caller.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    match blocking(work).await {
        Ok(value) => Ok(value),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => Err(StoreError::Io { op: "run", source: Arc::new(std::io::Error::other(cancelled)) }),
        },
    }
}

#[cfg(test)]
pub(crate) mod tests;
