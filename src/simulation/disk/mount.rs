//! The simulated disk as a machine sees it: the operations of the store's file-system traits, each a step that can fail.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use tokio::sync::Notify;

use super::file::Inode;
use super::{Disk, Effect, SharedInode, State, folder_of, short};
use crate::store::{Entry, FileSystem, Metadata, Space, StoredFile};
use crate::util::Clock;

/// What one machine, from its start to its stop, has of the disk.
pub(in crate::simulation) struct Mount {
    pub(super) disk: Arc<Disk>,
    /// What the machine takes for the root of the disk.
    pub(super) root: String,
    pub(super) boot: u32,
    /// Told when the power fails because of an operation.
    pub(in crate::simulation) power_failed: Arc<Notify>,
}

struct OpenFile {
    disk: Arc<Disk>,
    boot: u32,
    /// Where it was opened, for the journal.
    name: String,
    inode: SharedInode,
}

impl Mount {
    fn operate<T>(
        &self,
        what: &str,
        path: &Path,
        effect: Effect,
        operation: impl FnOnce(&mut State, &str) -> io::Result<T>,
    ) -> io::Result<T> {
        let path = self.relative(path)?;
        self.disk.operate(self.boot, what, &short(path), effect, |state| operation(state, path))
    }

    /// A path on the disk, of one as the machine has it. Comparing texts is cheaper than comparing paths.
    fn relative<'a>(&self, path: &'a Path) -> io::Result<&'a str> {
        let path = path.to_str().and_then(|path| path.strip_prefix(self.root.as_str()));
        path.map(|path| path.trim_start_matches('/')).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn opened(&self, path: &str, inode: SharedInode) -> Arc<dyn StoredFile> {
        Arc::new(OpenFile { disk: Arc::clone(&self.disk), boot: self.boot, name: short(path), inode })
    }
}

impl FileSystem for Mount {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        let now = self.disk.clock.unix_millis();
        self.operate("create", path, Effect::Grows, |state, path| {
            if state.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if !state.folders.contains(folder_of(path)) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let inode = SharedInode::default();
            inode.lock().unwrap_or_else(PoisonError::into_inner).used_at = now;
            state.link(path, Arc::clone(&inode), now);
            Ok(self.opened(path, inode))
        })
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        self.operate("open", path, Effect::Reads, |state, path| Ok(self.opened(path, state.inode(path)?)))
    }

    fn reopen(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        self.operate("reopen", path, Effect::Reads, |state, path| Ok(self.opened(path, state.inode(path)?)))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.operate("stat", path, Effect::Reads, |state, path| {
            if state.folders.contains(path) {
                return Ok(Metadata { is_file: false, size: 0, used_at: 0, written_at: 0 });
            }
            let inode = state.inode(path)?;
            let inode = inode.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(Metadata { is_file: true, size: inode.len() as u64, used_at: inode.used_at, written_at: inode.used_at })
        })
    }

    fn protect(&self, path: &Path) -> io::Result<()> {
        self.operate("protect", path, Effect::Changes, |state, path| state.inode(path).map(drop))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (to, now) = (self.relative(to)?, self.disk.clock.unix_millis());
        self.operate("rename", from, Effect::Changes, |state, from| state.rename(from, to, now))
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.operate("sync folder", folder, Effect::Changes, |state, folder| {
            state.sync_folder(folder);
            Ok(())
        })
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        self.operate("create folder", folder, Effect::Grows, |state, folder| {
            let ends = folder.match_indices('/').map(|(end, _)| end).chain([folder.len()]);
            state.folders.extend(ends.map(|end| folder[..end].to_owned()));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let now = self.disk.clock.unix_millis();
        self.operate("remove", path, Effect::Changes, |state, path| state.unlink(path, now))
    }

    fn epoch(&self) -> io::Result<String> {
        Ok(self.disk.lock().power_losses.to_string())
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        Ok(Space { bytes: u64::MAX, inodes: u64::MAX, used: self.disk.used(), size: u64::MAX })
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        self.operate("list", folder, Effect::Reads, |state, folder| {
            if !state.folders.contains(folder) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let below = format!("{folder}/");
            let name = |path: &String| path.strip_prefix(&below).filter(|name| !name.contains('/')).map(str::to_owned);
            let files = state.names.range(below.clone()..).map(|(path, _)| (path, false));
            let folders = state.folders.range(below.clone()..).map(|path| (path, true));
            let is_below = |(path, _): &(&String, bool)| path.starts_with(&below);
            let entries = files.take_while(is_below).chain(folders.take_while(is_below));
            Ok(entries.filter_map(|(path, is_folder)| Some(Entry { name: name(path)?, is_folder })).collect())
        })
    }
}

impl OpenFile {
    fn operate<T>(
        &self,
        what: &str,
        effect: Effect,
        operation: impl FnOnce(&mut Inode, &mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.disk.operate(self.boot, what, &self.name, effect, |state| {
            operation(&mut self.inode.lock().unwrap_or_else(PoisonError::into_inner), state)
        })
    }
}

impl StoredFile for OpenFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.operate("read", Effect::Reads, |inode, state| {
            // A read may give less than there is, but never nothing.
            let most =
                if buffer.len() > 1 && state.dice.one_in(16) { 1 + state.dice.within(0..buffer.len() as u64) } else { u64::MAX };
            let most = usize::try_from(most).map_or(buffer.len(), |most| most.min(buffer.len()));
            Ok(inode.read(&mut buffer[..most], offset))
        })
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.operate("try to read", Effect::Reads, |inode, state| {
            if state.dice.one_in(4) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(inode.read(buffer, offset))
        })
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        let now = self.disk.clock.unix_millis();
        let what = format!("write {offset}+{}", buffer.len());
        self.operate(&what, Effect::Grows, |inode, _| {
            inode.write(buffer, offset, now);
            Ok(())
        })
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        self.operate(&format!("allocate {size} for"), Effect::Grows, |_, _| Ok(()))
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.operate(&format!("truncate to {size}"), Effect::Changes, |inode, _| {
            inode.truncate(size);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let result = self.operate("sync", Effect::Changes, |inode, _| {
            inode.sync();
            Ok(())
        });
        if result.is_err() && self.disk.lock().boot == self.boot {
            self.inode.lock().unwrap_or_else(PoisonError::into_inner).fail_to_sync();
        }
        result
    }

    fn len_if_named(&self) -> Option<u64> {
        let state = self.disk.lock();
        let is_named = state.boot == self.boot && state.names.values().any(|inode| Arc::ptr_eq(inode, &self.inode));
        is_named.then(|| self.inode.lock().unwrap_or_else(PoisonError::into_inner).len() as u64)
    }

    fn len(&self) -> io::Result<u64> {
        self.operate("size", Effect::Reads, |inode, _| Ok(inode.len() as u64))
    }
}
