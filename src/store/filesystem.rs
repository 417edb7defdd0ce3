//! The file system as the store uses it, behind traits so that tests and simulations can make any step fail.
//! It knows nothing of digests or repositories, and never retries: what a failure means is the caller's to say.

mod guarded;
mod os;
mod presence;

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

pub(super) use guarded::Guarded;
pub use os::OsFileSystem;

/// A small set of operations, each of which may block. Paths are absolute; none of them follows a symbolic link in the last
/// component.
pub trait FileSystem: Send + Sync + 'static {
    /// Creates a file that is not there yet, for reading and writing by this user alone.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>>;
    /// Opens a regular file for reading. Anything else at that path is an error.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>>;
    /// Opens a regular file for reading and writing.
    fn reopen(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>>;
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// Makes a file read-only (mode 0444).
    fn protect(&self, path: &Path) -> io::Result<()>;
    /// Moves a file within the file system, atomically, in place of whatever file has that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable (`fsync` of the folder).
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    /// Creates a folder and those above it, durably. It may be there already.
    fn create_folder(&self, folder: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder in which nothing is. One that cannot keeps them.
    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        let _ = folder;
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Names the time since the operating system was started: what a process has written in it is there, synced or not.
    ///
    /// # Errors
    /// Where nobody tells.
    fn epoch(&self) -> io::Result<String>;
    /// What is left of the file system that `folder` is on. One that does not tell has enough.
    fn space(&self, folder: &Path) -> io::Result<Space> {
        let _ = folder;
        Ok(Space { bytes: u64::MAX, inodes: u64::MAX, used: 0, size: u64::MAX })
    }
    /// What is in a folder, in no order. Names that are not UTF-8 are left out: the store never made them.
    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>>;
}

/// An open file. Reading and writing is by position, so that one handle serves any number of readers.
pub trait StoredFile: Send + Sync + 'static {
    /// Reads what is there from `offset` on, which may be less than the buffer holds; 0 is the end of the file. May block.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As [`StoredFile::read_at`], from memory only: [`io::ErrorKind::WouldBlock`] if the disk, or a kernel or sandbox that lacks
    /// the system call, is in the way. Some kernels (5.9, 5.10) give less than what they have in memory.
    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Whether the bytes of `range` are in memory, so that reading them waits for no disk. It is looked here and there, and not again for a
    /// moment. What is wrong with them, if anything is, is told by who reads them.
    fn is_in_memory(&self, range: Range<u64>) -> bool {
        presence::looks(range).all(|offset| is_at_hand(self, offset))
    }
    /// Writes all of `buffer` at `offset`. May block.
    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()>;
    /// Writes all that is in `slices`, one after the other, from `offset` on: as one write, where the system can do that. May block. The
    /// slices may be other ones afterwards.
    fn write_all_vectored_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut offset = offset;
        for slice in slices {
            self.write_all_at(slice, offset)?;
            offset += slice.len() as u64;
        }
        Ok(())
    }
    /// Has the file system set `size` bytes aside for the file, so that they cannot run out while it is written. One that cannot
    /// do that promises nothing.
    fn allocate(&self, size: u64) -> io::Result<()> {
        let _ = size;
        Ok(())
    }
    /// Makes the file `size` bytes long, which it is or exceeds, and gives back what was set aside for more.
    fn truncate(&self, size: u64) -> io::Result<()>;
    /// The end of the unbroken run of written bytes that begins at `offset`, as far as the file system knows: the first hole. One
    /// that knows no holes says where the file ends.
    fn end_of_data(&self, offset: u64) -> io::Result<u64> {
        let _ = offset;
        self.len()
    }
    /// Makes the content durable (`fdatasync`). A failure is final: the kernel may have dropped the data and say "fine" next time.
    fn sync_data(&self) -> io::Result<()>;
    /// The size in bytes.
    fn len(&self) -> io::Result<u64>;
    /// The size in bytes of a file that has a name, whichever; `None` once it has none, be it removed or replaced. Does not block, so one
    /// that would have to ask a disk cannot tell, and says `None` as well.
    fn len_if_named(&self) -> Option<u64> {
        None
    }
    /// What the system knows the file by, where it can send the content by itself; `None` where it has to be read.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// All of a small file.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] if it is larger than `most` bytes.
    fn read_all(&self, most: u64) -> io::Result<Vec<u8>> {
        let size = self.len()?;
        let length = usize::try_from(size).ok().filter(|_| size <= most).ok_or(io::ErrorKind::InvalidData)?;
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < bytes.len() {
            match self.read_at(&mut bytes[filled..], filled as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(bytes)
    }

    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// What the file system says of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub is_file: bool,
    /// Bytes.
    pub size: u64,
    /// When it was last written or read, in milliseconds since 1970-01-01 UTC; reads are noted as seldom as the mount says.
    pub used_at: i64,
    /// When it was last written.
    pub written_at: i64,
}

/// What is left of a file system, for a user without privileges, and what is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub bytes: u64,
    /// Files and folders that can still be made.
    pub inodes: u64,
    /// Bytes that are in use, by whomever.
    pub used: u64,
    /// Bytes of all of it.
    pub size: u64,
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    /// Not set for a symbolic link to a folder.
    pub is_folder: bool,
}

/// Whether a byte of a file is in memory.
fn is_at_hand(file: &(impl StoredFile + ?Sized), offset: u64) -> bool {
    file.try_read_at(&mut [0], offset).is_ok_and(|read| read == 1)
}
