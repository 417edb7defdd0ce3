//! A file system in which folders are listed only as long as a test allows it, so that a walk stands still.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::super::*;

/// Which folders wait until they may be listed, and for how many that is allowed.
pub(super) struct Gate {
    gated: fn(&Path) -> bool,
    allowed: Mutex<usize>,
    changed: Condvar,
    longest: AtomicUsize,
}

impl Gate {
    /// None of the folders that are `gated` may be listed yet.
    pub(super) fn closed(gated: fn(&Path) -> bool) -> Arc<Self> {
        Arc::new(Self { gated, allowed: Mutex::new(0), changed: Condvar::new(), longest: AtomicUsize::new(0) })
    }

    /// A file system behind the gate.
    pub(super) fn fs(self: &Arc<Self>) -> Arc<dyn FileSystem> {
        Arc::new(GatedFs(Arc::clone(self)))
    }

    /// So many folders more may be listed from now on.
    pub(super) fn allow(&self, folders: usize) {
        *self.allowed.lock().unwrap() = folders;
        self.changed.notify_all();
    }

    pub(super) fn open(&self) {
        self.allow(usize::MAX);
    }

    /// Whether all that was allowed has been listed.
    pub(super) fn is_spent(&self) -> bool {
        *self.allowed.lock().unwrap() == 0
    }

    /// How many names the longest list had.
    pub(super) fn longest(&self) -> usize {
        self.longest.load(Ordering::SeqCst)
    }
}

struct GatedFs(Arc<Gate>);

impl FileSystem for GatedFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        OsFileSystem.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        OsFileSystem.open(path)
    }

    fn reopen(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        OsFileSystem.reopen(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        OsFileSystem.metadata(path)
    }

    fn protect(&self, path: &Path) -> io::Result<()> {
        OsFileSystem.protect(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsFileSystem.rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        OsFileSystem.sync_folder(folder)
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        OsFileSystem.create_folder(folder)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsFileSystem.remove(path)
    }

    fn epoch(&self) -> io::Result<String> {
        OsFileSystem.epoch()
    }

    fn space(&self, folder: &Path) -> io::Result<Space> {
        OsFileSystem.space(folder)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        let entries = OsFileSystem.list(folder)?;
        if (self.0.gated)(folder) {
            let mut allowed = self.0.changed.wait_while(self.0.allowed.lock().unwrap(), |allowed| *allowed == 0).unwrap();
            *allowed -= 1;
            self.0.longest.fetch_max(entries.len(), Ordering::SeqCst);
        }
        Ok(entries)
    }
}
