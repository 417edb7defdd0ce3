//! The operating system's file system, but that nothing is synced: `fsync` takes so long that all else would be lost in it.
//! It is for measuring only.

use std::io;
use std::path::Path;
use std::sync::Arc;

use larder::store::{Entry, FileSystem, Metadata, OsFileSystem, Space, StoredFile};

pub(crate) struct UnsyncedFs;

struct UnsyncedFile(Arc<dyn StoredFile>);

impl FileSystem for UnsyncedFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        OsFileSystem.create(path).map(|file| Arc::new(UnsyncedFile(file)) as Arc<dyn StoredFile>)
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

    fn sync_folder(&self, _folder: &Path) -> io::Result<()> {
        Ok(())
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
        OsFileSystem.list(folder)
    }
}

impl StoredFile for UnsyncedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.try_read_at(buffer, offset)
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buffer, offset)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.0.truncate(size)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}
