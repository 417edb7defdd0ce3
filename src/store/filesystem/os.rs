//! The operating system's file system. It adds nothing to the system calls but the care not to follow symbolic links.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FallocateFlags, OFlags, SeekFrom, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::presence::Presence;
use super::{Entry, FileSystem, Metadata, Space, StoredFile, is_at_hand};

/// The file system that the process sees.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFileSystem;

struct OsFile {
    file: File,
    /// Of one that is only read.
    presence: Presence,
}

/// How many slices one call takes: `IOV_MAX`, writev(2).
const SLICES: usize = 1024;

/// Flags for every `open`: no symbolic links, and no waiting for the other end of a FIFO that somebody put there.
fn careful() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed()
}

/// The size in bytes of what has to be a regular file.
fn size_of_regular(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    match metadata.is_file() {
        true => Ok(metadata.len()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

// === impl OsFileSystem ===

impl FileSystem for OsFileSystem {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).custom_flags(careful()).open(path)?;
        Ok(Arc::new(OsFile { file, presence: Presence::default() }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        let file = OpenOptions::new().read(true).custom_flags(careful()).open(path)?;
        let presence = Presence::of(size_of_regular(&file)?);
        Ok(Arc::new(OsFile { file, presence }))
    }

    fn reopen(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(careful()).open(path)?;
        size_of_regular(&file)?;
        Ok(Arc::new(OsFile { file, presence: Presence::default() }))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let metadata = fs::symlink_metadata(path)?;
        let millis = |seconds: i64, nanos: i64| seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000);
        let written = millis(metadata.mtime(), metadata.mtime_nsec());
        let read = millis(metadata.atime(), metadata.atime_nsec());
        Ok(Metadata { is_file: metadata.is_file(), size: metadata.len(), used_at: written.max(read), written_at: written })
    }

    fn protect(&self, path: &Path) -> io::Result<()> {
        fs::set_permissions(path, Permissions::from_mode(0o444))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(folder) {
            Ok(()) => folder.parent().map_or(Ok(()), |parent| self.sync_folder(parent)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match folder.parent() {
                Some(parent) => self.create_folder(parent).and_then(|()| self.create_folder(folder)),
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        fs::remove_dir(folder)
    }

    fn epoch(&self) -> io::Result<String> {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
    }

    fn space(&self, folder: &Path) -> io::Result<Space> {
        let system = rustix::fs::statvfs(folder)?;
        // Some make inodes as they need them, and say that there are none at all.
        let inodes = if system.f_files == 0 { u64::MAX } else { system.f_favail };
        let bytes = |blocks: u64| blocks.saturating_mul(system.f_frsize);
        let used = bytes(system.f_blocks.saturating_sub(system.f_bfree));
        Ok(Space { bytes: bytes(system.f_bavail), inodes, used, size: bytes(system.f_blocks) })
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let is_folder = entry.file_type()?.is_dir();
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(Entry { name, is_folder });
            }
        }
        Ok(entries)
    }
}

// === impl OsFile ===

impl StoredFile for OsFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.file.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
            // Not in memory; or the file system, the kernel or a seccomp filter does not do it.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM | Errno::INTR) => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            result => Ok(result?),
        }
    }

    fn is_in_memory(&self, range: Range<u64>) -> bool {
        self.presence.covers(range, |offset| is_at_hand(self, offset))
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buffer, offset)
    }

    fn write_all_vectored_at(&self, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        // What is empty would look like a disk that takes nothing.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let count = slices.len().min(SLICES);
            match rustix::io::pwritev(&self.file, &slices[..count], offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut slices, written);
                    offset += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        // The size stays what was written: it is how a part that is too short shows.
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, size) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::INTR) => Ok(()),
            result => Ok(result?),
        }
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        // Also where the size stays what it is: that gives back what was set aside beyond it.
        self.file.set_len(size)
    }

    fn end_of_data(&self, offset: u64) -> io::Result<u64> {
        match rustix::fs::seek(&self.file, SeekFrom::Hole(offset)) {
            // Past the end, or nothing that this file system can tell.
            Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => self.len(),
            result => Ok(result?),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn len_if_named(&self) -> Option<u64> {
        // As it is in memory: where the folder is on a network after all, nobody is asked. It is always there for an open file.
        let stat = rustix::fs::statx(
            &self.file,
            c"",
            AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC,
            StatxFlags::NLINK | StatxFlags::SIZE,
        );
        stat.ok().filter(|stat| stat.stx_nlink > 0).map(|stat| stat.stx_size)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = OsFileSystem.create(&path).unwrap();
        file.write_all_at(b"world", 6).unwrap();
        file.write_all_at(b"hello ", 0).unwrap();
        file.sync_data().unwrap();
        let mut buffer = [0; 16];
        assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 11);
        assert_eq!(&buffer[..11], b"hello world");
        assert_eq!(file.read_at(&mut buffer, 11).unwrap(), 0);
        match file.try_read_at(&mut buffer, 6) {
            Ok(read) => assert_eq!(&buffer[..read], &b"world"[..read]),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        assert_eq!(OsFileSystem.create(&path).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        let again = OsFileSystem.open(&path).unwrap();
        assert_eq!(again.len().unwrap(), 11);
        assert!(again.write_all_at(b"x", 0).is_err(), "what is opened cannot be written");
    }

    #[test]
    fn many_slices_are_written_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsFileSystem.create(&dir.path().join("file")).unwrap();
        let pieces: Vec<Vec<u8>> = (0..3 * SLICES + 7).map(|index| vec![index as u8; index % 5]).collect();
        let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        file.write_all_vectored_at(&mut slices, 3).unwrap();
        file.write_all_vectored_at(&mut [IoSlice::new(b"")], 0).unwrap();
        file.write_all_vectored_at(&mut [], 0).unwrap();
        assert_eq!(file.read_all(1 << 20).unwrap(), [vec![0; 3], pieces.concat()].concat());
        let again = OsFileSystem.open(&dir.path().join("file")).unwrap();
        assert!(again.write_all_vectored_at(&mut [IoSlice::new(b"x")], 0).is_err(), "what is opened cannot be written");
    }

    #[test]
    fn what_was_never_written_is_a_hole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = OsFileSystem.create(&path).unwrap();
        file.allocate(1 << 20).unwrap();
        file.write_all_at(&[1; 8192], 0).unwrap();
        file.write_all_at(&[1; 8192], 512 << 10).unwrap();
        drop(file);
        let file = OsFileSystem.reopen(&path).unwrap();
        let end = file.end_of_data(0).unwrap();
        // A file system that knows no holes says where the file ends.
        assert!((8192..=128 << 10).contains(&end) || end == file.len().unwrap(), "{end}");
        assert_eq!(file.end_of_data(512 << 10).unwrap(), (512 << 10) + 8192);
        file.write_all_at(&[2; 10], 5).unwrap();
        file.truncate(20).unwrap();
        assert_eq!(file.read_all(20).unwrap(), [[1; 5].as_slice(), &[2; 10], &[1; 5]].concat());
        assert_eq!(file.read_all(19).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::write(&target, b"secret").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert!(OsFileSystem.open(&target).is_ok());
        for path in [&link, &folder, &fifo] {
            assert!(OsFileSystem.open(path).is_err(), "{}", path.display());
            assert!(!OsFileSystem.metadata(path).unwrap().is_file, "{}", path.display());
        }
        assert!(OsFileSystem.create(&link).is_err());
    }

    #[test]
    fn folders_are_made_with_those_above() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        OsFileSystem.create_folder(&deep).unwrap();
        OsFileSystem.create_folder(&deep).unwrap();
        assert!(deep.is_dir());
        let entries = OsFileSystem.list(&dir.path().join("a")).unwrap();
        assert_eq!(entries, [Entry { name: "b".into(), is_folder: true }]);
    }
}
