//! The file system for as long as the store's folder is there: what is at its path otherwise, perhaps a bare mount point, is never
//! changed, and that a file is not in it is never taken for the file's absence. It decides nothing else.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Entry, FileSystem, Metadata, Space, StoredFile};
use crate::store::folder::Folder;

/// Looks whether the folder is there before whatever changes something in it, and after whatever has not found something. In the
/// moment between the look and the change the folder may go; nothing is made in a folder that is not there, and what makes
/// folders comes right after a look.
pub(in crate::store) struct Guarded {
    pub(in crate::store) fs: Arc<dyn FileSystem>,
    pub(in crate::store) folder: Arc<Folder>,
}

impl Guarded {
    fn found<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        if outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            self.folder.check()?;
        }
        outcome
    }
}

impl FileSystem for Guarded {
    /// Also makes the folder that the file is to be in, if that is one of ours that somebody has removed.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        self.folder.check()?;
        match (self.fs.create(path), path.parent()) {
            (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
                self.create_folder(parent)?;
                self.fs.create(path)
            }
            (outcome, _) => outcome,
        }
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        self.found(self.fs.open(path))
    }

    fn reopen(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        self.folder.check()?;
        self.fs.reopen(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.found(self.fs.metadata(path))
    }

    fn protect(&self, path: &Path) -> io::Result<()> {
        self.folder.check()?;
        self.fs.protect(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.folder.check()?;
        self.fs.rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.found(self.fs.sync_folder(folder))
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        self.folder.check()?;
        self.fs.create_folder(folder)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.folder.check()?;
        self.fs.remove(path)
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        self.folder.check()?;
        self.fs.remove_folder(folder)
    }

    fn epoch(&self) -> io::Result<String> {
        self.fs.epoch()
    }

    fn space(&self, folder: &Path) -> io::Result<Space> {
        self.folder.check()?;
        self.fs.space(folder)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        self.found(self.fs.list(folder))
    }
}
