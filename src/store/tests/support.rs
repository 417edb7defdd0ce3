//! What the tests of the store have in common: folders, clocks, a file system that fails on demand, and what must always hold.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::*;
use crate::oci::{Algorithm, MediaType, RepositoryName, Tag, UpstreamName};

/// How long anything may take before a test gives up.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) const ROOMY: u64 = 1 << 40;

/// A clock that stands still until it is set.
pub(super) struct TestClock(pub(super) AtomicI64);

impl Clock for TestClock {
    fn unix_millis(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A folder with a store in it, or none at the moment.
pub(super) struct Home {
    pub(super) dir: tempfile::TempDir,
    pub(super) clock: Arc<TestClock>,
}

impl Home {
    pub(super) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock: Arc::new(TestClock(AtomicI64::new(1_000_000_000_000))) }
    }

    pub(super) fn try_open(&self, max_bytes: u64, fs: Arc<dyn FileSystem>) -> Result<Store, OpenError> {
        let config = StoreConfig { dir: self.dir.path().to_owned(), max_bytes };
        Store::open(config, fs, Arc::clone(&self.clock) as Arc<dyn Clock>)
    }

    /// Opens the store. Its catalog may not agree with the folder yet: room may be refused, and bytes be counted twice.
    ///
    /// Another test that starts a process holds, for the moment between `fork` and `exec`, whatever locks this one has given back.
    pub(super) fn open_walking(&self, max_bytes: u64, fs: Arc<dyn FileSystem>) -> Store {
        let begun = Instant::now();
        loop {
            match self.try_open(max_bytes, Arc::clone(&fs)) {
                Err(OpenError::InUse { .. }) if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(2)),
                opened => return opened.unwrap(),
            }
        }
    }

    /// Opens the store and waits until its catalog agrees with the folder.
    pub(super) async fn open_on(&self, max_bytes: u64, fs: Arc<dyn FileSystem>) -> Store {
        let store = self.open_walking(max_bytes, fs);
        settled(&store).await;
        store
    }

    pub(super) async fn open(&self) -> Store {
        self.open_on(ROOMY, Arc::new(OsFileSystem)).await
    }

    /// Opens the store on a file system that fails; its operations are counted from now on.
    pub(super) async fn open_faulty(&self, fs: FaultFs) -> Store {
        let count = Arc::clone(&fs.count);
        let store = self.open_on(ROOMY, Arc::new(fs)).await;
        count.store(0, Ordering::SeqCst);
        store
    }

    /// Makes the folder, and opens and closes a store in it, so that the next start finds all as it should be.
    pub(super) async fn prepare(&self) {
        drop(self.open().await);
        closed(self).await;
    }

    pub(super) fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        Layout::new(self.dir.path().to_owned()).blob(digest)
    }

    pub(super) fn advance(&self, minutes: i64) {
        self.clock.0.fetch_add(minutes * 60_000, Ordering::SeqCst);
    }

    /// Bytes of all files among the blobs, each of which must hash to its name.
    pub(super) fn verified_bytes(&self) -> u64 {
        let mut total = 0;
        for algorithm in Algorithm::ALL {
            let folder = self.path("blobs").join(algorithm.name());
            for file in list(&folder).iter().flat_map(|folder| list(folder)) {
                let name = file.file_name().unwrap().to_str().unwrap().to_owned();
                let bytes = std::fs::read(&file).unwrap();
                assert_eq!(Digest::of(algorithm, &bytes).hex(), name, "a file is not what its name says");
                total += bytes.len() as u64;
            }
        }
        total
    }

    /// What is among the blobs, in the order of its digests.
    pub(super) fn digests(&self) -> Vec<Digest> {
        let files = list(&self.path("blobs/sha256")).into_iter().flat_map(|folder| list(&folder));
        let name = |file: &PathBuf| file.file_name().unwrap().to_str().unwrap().to_owned();
        let mut digests: Vec<_> = files.map(|file| Digest::from_hex(Algorithm::Sha256, &name(&file)).unwrap()).collect();
        digests.sort_unstable_by_key(|digest| digest.as_bytes().to_vec());
        digests
    }

    /// How many files there are among the blobs.
    pub(super) fn count(&self) -> u64 {
        list(&self.path("blobs/sha256")).iter().map(|folder| list(folder).len() as u64).sum()
    }

    /// How many files are in flight.
    pub(super) fn in_flight(&self) -> usize {
        list(&self.path("ingest")).len()
    }
}

fn list(folder: &Path) -> Vec<PathBuf> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{}: {error}", folder.display()),
    }
}

/// Waits until `condition` holds.
pub(super) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until the catalog agrees with the folder.
pub(super) async fn settled(store: &Store) {
    eventually("the walk ends", || !store.stats().walking).await;
}

/// Waits until the last handle of a store that was dropped is gone, and its folder free.
pub(super) async fn closed(home: &Home) {
    eventually("the folder is free", || folder::Folder::claim(home.dir.path()).is_ok()).await;
}

/// Stores `content` whole.
pub(super) async fn put(store: &Store, content: &[u8]) -> Result<Content, StoreError> {
    let ingest = store.begin(Digest::sha256(content), Some(content.len() as u64)).await?;
    write(&ingest, content).map_err(|source| StoreError::io(health::Operation::CreatePart, source))?;
    ingest.commit(content.len() as u64).await
}

pub(super) fn write(ingest: &Ingest, content: &[u8]) -> io::Result<()> {
    ingest.file().write_all_at(content, 0)
}

pub(super) fn read(content: &Content) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(content.size).unwrap()];
    let mut filled = 0;
    while filled < bytes.len() {
        let count = content.file.read_at(&mut bytes[filled..], filled as u64).unwrap();
        assert!(count > 0, "the file is shorter than the content");
        filled += count;
    }
    bytes
}

/// `size` bytes that no other `seed` gives.
pub(super) fn bytes(seed: u8, size: usize) -> Vec<u8> {
    (0..size).map(|index| seed.wrapping_add((index / 251) as u8).wrapping_mul(31).wrapping_add(index as u8)).collect()
}

pub(super) fn upstream(text: &str) -> UpstreamName {
    text.parse().unwrap()
}

pub(super) fn repository(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

pub(super) fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

pub(super) fn media_type(text: &str) -> MediaType {
    text.parse().unwrap()
}

fn bytes_below(folder: &Path) -> u64 {
    let size =
        |path: &PathBuf| if path.is_dir() { bytes_below(path) } else { path.metadata().map_or(0, |metadata| metadata.len()) };
    list(folder).iter().map(size).sum()
}

/// The operating system's file system, except that one operation fails.
#[derive(Clone)]
pub(crate) struct FaultFs {
    /// The operation of this number fails, and if `for_good` all after it.
    pub(crate) fails: u64,
    pub(crate) for_good: bool,
    /// The operation that fails is done all the same: only its answer is an error.
    pub(crate) after_the_fact: bool,
    pub(crate) errno: i32,
    /// The number of the next operation; [`FaultFs::UNCOUNTED`] lets all pass.
    pub(crate) count: Arc<AtomicU64>,
    /// The names of the operations that were counted.
    pub(crate) names: Arc<Mutex<Vec<&'static str>>>,
    /// How many bytes of files the file system has room for, as far as it tells.
    pub(crate) capacity: Arc<AtomicU64>,
    pub(crate) inodes: Arc<AtomicU64>,
    /// So many lists of folders for refs fail, for want of descriptors.
    pub(crate) unlisted: Arc<AtomicU64>,
    /// Called at the operation that would fail, which then does not.
    pub(crate) instead: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl FaultFs {
    pub(super) const UNCOUNTED: u64 = u64::MAX / 2;

    /// One operation fails with EIO, once the count is set to 0.
    pub(crate) fn one(fails: u64) -> Self {
        let count = Arc::new(AtomicU64::new(Self::UNCOUNTED));
        let plenty = || Arc::new(AtomicU64::new(u64::MAX));
        Self {
            fails,
            for_good: false,
            after_the_fact: false,
            errno: 5,
            count,
            names: Arc::default(),
            capacity: plenty(),
            inodes: plenty(),
            unlisted: Arc::default(),
            instead: None,
        }
    }

    fn step<T>(&self, name: &'static str, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        if number < Self::UNCOUNTED {
            self.names.lock().unwrap().push(name);
        }
        if let Some(instead) = self.instead.as_ref().filter(|_| number == self.fails) {
            if !self.after_the_fact {
                instead();
                return operation();
            }
            let outcome = operation();
            instead();
            return outcome;
        }
        let later = number > self.fails && number < Self::UNCOUNTED;
        if number == self.fails || (self.for_good && later) {
            if self.after_the_fact {
                drop(operation()?);
            }
            return Err(io::Error::from_raw_os_error(self.errno));
        }
        operation()
    }

    fn file(&self, file: Arc<dyn StoredFile>) -> Arc<dyn StoredFile> {
        Arc::new(FaultFile { faults: self.clone(), file })
    }
}

struct FaultFile {
    faults: FaultFs,
    file: Arc<dyn StoredFile>,
}

impl FileSystem for FaultFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        self.step("create", || OsFileSystem.create(path)).map(|file| self.file(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        self.step("open", || OsFileSystem.open(path)).map(|file| self.file(file))
    }

    fn reopen(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        self.step("reopen", || OsFileSystem.reopen(path)).map(|file| self.file(file))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.step("metadata", || OsFileSystem.metadata(path))
    }

    fn protect(&self, path: &Path) -> io::Result<()> {
        self.step("protect", || OsFileSystem.protect(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename", || OsFileSystem.rename(from, to))
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.step("sync_folder", || OsFileSystem.sync_folder(folder))
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        self.step("create_folder", || OsFileSystem.create_folder(folder))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step("remove", || OsFileSystem.remove(path))
    }

    fn epoch(&self) -> io::Result<String> {
        OsFileSystem.epoch()
    }

    fn space(&self, folder: &Path) -> io::Result<Space> {
        let used: u64 = ["blobs/sha256", "ingest"].iter().map(|part| bytes_below(&folder.join(part))).sum();
        let size = self.capacity.load(Ordering::SeqCst);
        Ok(Space { bytes: size.saturating_sub(used), inodes: self.inodes.load(Ordering::SeqCst), used, size })
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        let is_for_refs = folder.components().any(|part| part.as_os_str() == "refs");
        let less = |left: u64| left.checked_sub(1);
        if is_for_refs && self.unlisted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            return Err(io::Error::from_raw_os_error(24));
        }
        self.step("list", || OsFileSystem.list(folder))
    }
}

impl StoredFile for FaultFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.faults.step("read_at", || self.file.read_at(buffer, offset))
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.faults.step("try_read_at", || self.file.try_read_at(buffer, offset))
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.faults.step("write_all_at", || self.file.write_all_at(buffer, offset))
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.faults.step("truncate", || self.file.truncate(size))
    }

    fn end_of_data(&self, offset: u64) -> io::Result<u64> {
        self.faults.step("end_of_data", || self.file.end_of_data(offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.faults.step("sync_data", || self.file.sync_data())
    }

    fn len(&self) -> io::Result<u64> {
        self.faults.step("len", || self.file.len())
    }
}
