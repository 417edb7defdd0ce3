//! Where bytes of a content lie, for who can have the system send them from there without reading them.

use std::ops::Range;
use std::sync::Arc;

#[cfg(test)]
use super::Supply;
use super::{ByteStream, Reader};
use crate::store::StoredFile;

/// The most bytes of one extent: enough that what each costs, above what the system does for it, is nothing.
pub const EXTENT_MAX_BYTES: usize = 16 << 20;

/// What is smaller is read: that costs less than finding out whether it can be sent, and a system call of its own.
const LEAST_BYTES: u64 = 64 << 10;

/// Bytes of a content that lie in a file. The first of them were in memory a moment ago.
pub struct Extent {
    file: Arc<dyn StoredFile>,
    range: Range<u64>,
    /// Reads the same bytes.
    reader: Box<Reader>,
}

impl Extent {
    pub(super) fn new(file: Arc<dyn StoredFile>, range: Range<u64>, reader: Reader) -> Self {
        Self { file, range, reader: Box::new(reader) }
    }

    /// An extent of which `rest` is read.
    #[cfg(test)]
    pub(crate) fn of(file: Arc<dyn StoredFile>, range: Range<u64>, rest: ByteStream) -> Self {
        Self::new(file, range.clone(), Reader::new(Supply::Through(rest), range))
    }

    /// How many bytes it is: at least one, and at most [`EXTENT_MAX_BYTES`].
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// The file that has the bytes, which has a descriptor.
    pub fn file(&self) -> &dyn StoredFile {
        &*self.file
    }

    /// Where in the file the first of them is.
    pub fn offset(&self) -> u64 {
        self.range.start
    }

    /// Whether the `count` bytes after the first `sent` ones are in memory, so that sending them waits for no disk; see
    /// [`StoredFile::is_in_memory`].
    pub fn is_in_memory(&self, sent: u64, count: u64) -> bool {
        let start = self.range.start + sent;
        self.file.is_in_memory(start..start + count)
    }

    /// All but the first `sent` bytes, read: for when the system has failed to send them. A reader can do more about a failing disk.
    pub fn read_from(mut self, sent: u64) -> ByteStream {
        self.reader.span.position += sent;
        self.reader.stream()
    }
}

/// As much of the beginning of `range` as makes one extent, if the system can send it and has the first of it in memory.
pub(super) fn in_memory(file: &dyn StoredFile, range: Range<u64>) -> Option<Range<u64>> {
    let end = range.end.min(range.start + EXTENT_MAX_BYTES as u64);
    let is_sent =
        end - range.start >= LEAST_BYTES && file.descriptor().is_some() && file.is_in_memory(range.start..range.start + 1);
    is_sent.then_some(range.start..end)
}
