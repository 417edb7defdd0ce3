//! Readers of content, at rest or in flight. A reader holds a descriptor and at most one buffer; it waits for nobody but the fill,
//! and nobody waits for it. Where the disk fails in the middle of a body, the rest comes from the upstream, and the body goes on.
//! For who can have the system send from a file, a reader says where the bytes lie instead of reading them.

mod extent;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::buffers::Buffer;
use super::error::FillError;
use super::flight::{Fill, Progress, Unwritten};
use super::through::Through;
use super::{Fills, Joined, Source};
use crate::oci::Digest;
use crate::store::{Content, StoredFile};
use crate::upstream::UpstreamError;
use crate::util::blocking;
pub use extent::{EXTENT_MAX_BYTES, Extent};

/// Bytes of content on their way to a client. It ends with an error if they cannot all be had; what came before must then not be
/// made to look complete.
pub type ByteStream = BoxStream<'static, Result<Bytes, FillError>>;

/// The same, of which some may be named rather than read.
pub type ChunkStream = BoxStream<'static, Result<Chunk, FillError>>;

/// Some bytes of content, at least one.
pub enum Chunk {
    Bytes(Bytes),
    Extent(Extent),
}

/// Content that can be read.
#[derive(Clone)]
pub enum Readable {
    /// All of it is on the disk.
    AtRest(Shelved),
    /// It arrives.
    InFlight(Arc<Fill>),
    /// It passes by without being kept.
    Through(Arc<Through>),
}

/// Content at rest, and where it is fetched from again if it turns out that it cannot be read.
#[derive(Clone)]
pub struct Shelved {
    pub content: Content,
    pub digest: Digest,
    pub fills: Fills,
    pub source: Source,
}

/// Reads a range of one content.
struct Reader {
    from: Supply,
    span: Span,
}

/// What a reader reads.
#[derive(Clone, Copy)]
struct Span {
    begin: u64,
    /// Up to here it has read.
    position: u64,
    /// `u64::MAX` for where the content ends.
    end: u64,
}

/// What a reader takes its bytes from.
enum Supply {
    Shelf(Shelved),
    Fill {
        fill: Arc<Fill>,
        /// The reader's position when it began to take from here.
        since: u64,
        /// What it has taken and is not in the file, as far as it has looked.
        unwritten: Vec<Unwritten>,
    },
    /// The bytes from the reader's position on.
    Through(ByteStream),
}

/// What a reader has given out that nobody had verified.
struct Given {
    range: Range<u64>,
    file: Arc<dyn StoredFile>,
    /// Not in the file.
    unwritten: Vec<Unwritten>,
}

impl Readable {
    /// The size in bytes, if it is known by now.
    ///
    /// # Errors
    /// Why the fill failed, if it did.
    pub async fn known_size(&self) -> Result<Option<u64>, FillError> {
        match self {
            Self::AtRest(shelved) => Ok(Some(shelved.content.size)),
            Self::InFlight(fill) => match fill.opened().await {
                Err(error) if error.is_local() && fill.has_begun() => Ok(fill.told_size()),
                opened => opened,
            },
            Self::Through(through) => Ok(through.size()),
        }
    }

    /// The size in bytes; waits for it, if need be until the whole has arrived. `None` if it cannot be told at all.
    ///
    /// # Errors
    /// Why the fill failed, if it did.
    pub async fn size(&self) -> Result<Option<u64>, FillError> {
        match self {
            Self::AtRest(shelved) => Ok(Some(shelved.content.size)),
            Self::InFlight(fill) => match fill.size().await {
                Err(error) if error.is_local() && fill.has_begun() => Ok(fill.told_size()),
                size => size.map(Some),
            },
            Self::Through(through) => Ok(through.size()),
        }
    }

    /// All bytes.
    pub fn read_all(&self) -> ByteStream {
        match self.reader(None) {
            Ok(reader) => reader.stream(),
            Err(through) => through.read_all(),
        }
    }

    /// The bytes of `range`, which lies within the size.
    pub fn read(&self, range: Range<u64>) -> ByteStream {
        match self.reader(Some(range.clone())) {
            Ok(reader) => reader.stream(),
            Err(through) => through.read(range),
        }
    }

    /// As [`Readable::read_all`], for who can have the system send from a file.
    pub fn locate_all(&self) -> ChunkStream {
        match self.reader(None) {
            Ok(reader) => reader.locate(),
            Err(through) => through.read_all().map_ok(Chunk::Bytes).boxed(),
        }
    }

    /// As [`Readable::read`], for who can have the system send from a file.
    pub fn locate(&self, range: Range<u64>) -> ChunkStream {
        match self.reader(Some(range.clone())) {
            Ok(reader) => reader.locate(),
            Err(through) => through.read(range).map_ok(Chunk::Bytes).boxed(),
        }
    }

    /// Reads `range`, or all of it, unless it passes through.
    fn reader(&self, range: Option<Range<u64>>) -> Result<Reader, Arc<Through>> {
        match self {
            Self::AtRest(shelved) => {
                let range = range.unwrap_or(0..shelved.content.size);
                Ok(Reader::new(Supply::Shelf(shelved.clone()), range))
            }
            Self::InFlight(fill) => {
                let range = range.unwrap_or(0..u64::MAX);
                Ok(Reader::new(Supply::fill(Arc::clone(fill), range.start), range))
            }
            Self::Through(through) => Err(Arc::clone(through)),
        }
    }
}

impl Reader {
    fn new(from: Supply, range: Range<u64>) -> Self {
        Self { from, span: Span { begin: range.start, position: range.start, end: range.end } }
    }

    fn stream(self) -> ByteStream {
        let next = |mut reader: Self| async move { Ok(reader.next().await?.map(|bytes| (bytes, reader))) };
        stream::try_unfold(self, next).boxed()
    }

    fn locate(self) -> ChunkStream {
        let next = |mut reader: Self| async move { Ok(reader.next_chunk().await?.map(|chunk| (chunk, reader))) };
        stream::try_unfold(self, next).boxed()
    }

    /// What comes next, without reading it if it is in a file and in memory.
    async fn next_chunk(&mut self) -> Result<Option<Chunk>, FillError> {
        if let Some(extent) = self.next_extent().await {
            self.span.position += extent.len();
            return Ok(Some(Chunk::Extent(extent)));
        }
        Ok(self.next().await?.map(Chunk::Bytes))
    }

    async fn next_extent(&mut self) -> Option<Extent> {
        let span = self.span;
        self.from.forget_written();
        let (file, end) = match &mut self.from {
            Supply::Shelf(shelved) => (Arc::clone(&shelved.content.file), span.end),
            // What has gone wrong is found again by who reads.
            Supply::Fill { fill, .. } => match fill.readable(span.position, span.begin).await {
                Ok(Progress::Written { file, end }) => (file, end.min(span.end)),
                Ok(Progress::Unwritten(_) | Progress::End) | Err(_) => return None,
            },
            Supply::Through(_) => return None,
        };
        let range = extent::in_memory(&*file, span.position..end)?;
        let reader = Self { from: self.from.reopen()?, span: Span { end: range.end, ..span } };
        Some(Extent::new(file, range, reader))
    }

    /// Some bytes from the position on, of which there is one at least; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, FillError> {
        while self.span.position < self.span.end {
            let span = self.span;
            self.from.forget_written();
            let found = match &mut self.from {
                Supply::Shelf(shelved) => match read_chunk(Arc::clone(&shelved.content.file), span.rest()).await? {
                    Ok(bytes) => Some(bytes),
                    Err(error) => {
                        let shelved = shelved.clone();
                        // Rare, and large: the room for it is there when it is needed.
                        self.from = Supply::again(&shelved, span, &error).boxed().await?;
                        continue;
                    }
                },
                Supply::Fill { fill, since, unwritten } => match arrived(fill, unwritten, span).await {
                    Err(error) if error.is_local() => {
                        let (source, digest, size) = (fill.source().clone(), *fill.digest(), fill.told_size());
                        let given = Given::by(fill, *since..span.position, std::mem::take(unwritten));
                        self.from = Supply::through(source, digest, size, span, given, &error).boxed().await?;
                        continue;
                    }
                    arrived => arrived?,
                },
                Supply::Through(rest) => rest.next().await.transpose()?,
            };
            let Some(bytes) = found else { break };
            self.span.position += bytes.len() as u64;
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

impl Span {
    fn rest(self) -> Range<u64> {
        self.position..self.end
    }

    /// Whether it is all of a content of `size` bytes.
    fn is_whole(self, size: Option<u64>) -> bool {
        self.begin == 0 && (self.end == u64::MAX || size == Some(self.end))
    }
}

impl Supply {
    fn fill(fill: Arc<Fill>, since: u64) -> Self {
        Self::Fill { fill, since, unwritten: Vec::new() }
    }

    fn forget_written(&mut self) {
        if let Self::Fill { fill, unwritten, .. } = self {
            unwritten.retain(|unwritten| !fill.has_written(unwritten.range()));
        }
    }

    /// The same once more, where it can be had more than once.
    fn reopen(&self) -> Option<Self> {
        match self {
            Self::Shelf(shelved) => Some(Self::Shelf(shelved.clone())),
            Self::Fill { fill, since, unwritten } => {
                Some(Self::Fill { fill: Arc::clone(fill), since: *since, unwritten: unwritten.clone() })
            }
            Self::Through(_) => None,
        }
    }

    /// Has content fetched again of which the disk does not give what it should, for this reader and all that follow. The fill
    /// withholds the tail from this one until all of it is verified, as from one that has read it from the beginning.
    async fn again(shelved: &Shelved, span: Span, error: &io::Error) -> Result<Self, FillError> {
        let Shelved { content, digest, fills, source } = shelved;
        tracing::error!(blob.digest = %digest, %error, "content at rest cannot be read; it is dropped and fetched again");
        fills.store().read_failed(digest, error).await;
        match fills.fill(*digest, source, Some(content.size), None) {
            Joined::Began(fill) | Joined::InFlight(fill) => Ok(Self::fill(fill, span.position)),
            Joined::Broken(error) if error.is_local() => {
                // What was read of it had been verified when it came to rest.
                Self::through(source.clone(), *digest, Some(content.size), span, None, &error).await
            }
            Joined::Broken(error) => Err(error),
        }
    }

    /// The rest straight from the upstream. Who reads all of it gets the end of that only if all that the upstream has hashes to the
    /// digest; and nothing at all if `unverified` is not what the upstream has there.
    async fn through(
        source: Source,
        digest: Digest,
        size: Option<u64>,
        span: Span,
        unverified: Option<Given>,
        cause: &FillError,
    ) -> Result<Self, FillError> {
        tracing::warn!(blob.digest = %digest, %cause, "the cache fails in the middle of a blob; the rest passes through");
        let through = Arc::new(Through::open(source, digest, size).await?);
        Ok(Self::Through(match (span.is_whole(size), unverified) {
            (true, Some(given)) => skip_the_same(through.read_all(), given),
            (true, None) => skip(through.read_all(), span.position),
            (false, _) => through.read(span.rest()),
        }))
    }
}

impl Given {
    /// What a reader of `fill` has given out of `range`; `None` if that was right, because the fill is verified.
    fn by(fill: &Fill, range: Range<u64>, unwritten: Vec<Unwritten>) -> Option<Self> {
        let file = fill.file().filter(|_| !range.is_empty() && !fill.is_verified())?;
        Some(Self { range, file, unwritten })
    }

    /// Some of the bytes of `range`, from its beginning on.
    async fn read(&self, mut range: Range<u64>) -> Result<Bytes, FillError> {
        for unwritten in &self.unwritten {
            if let Some(unwritten) = unwritten.between(range.start, range.end) {
                return Ok(unwritten.bytes);
            }
            if unwritten.position > range.start {
                range.end = range.end.min(unwritten.position);
            }
        }
        let read = read_chunk(Arc::clone(&self.file), range).await?;
        read.map_err(|error| FillError::Disk(error.to_string()))
    }
}

/// Some bytes as soon as they have arrived; `None` if the content ends at the position. Those that come from memory are noted in `unwritten`.
async fn arrived(fill: &Fill, unwritten: &mut Vec<Unwritten>, span: Span) -> Result<Option<Bytes>, FillError> {
    match fill.readable(span.position, span.begin).await? {
        Progress::Written { file, end } => {
            let read = read_chunk(file, span.position..end.min(span.end)).await?;
            read.map(Some).map_err(|error| FillError::Disk(error.to_string()))
        }
        Progress::Unwritten(found) => {
            let found = found.between(span.position, span.end);
            unwritten.extend(found.clone());
            Ok(found.map(|found| found.bytes))
        }
        Progress::End => Ok(None),
    }
}

/// What comes after what was given, if that is the same; else an error in its place.
fn skip_the_same(bytes: ByteStream, given: Given) -> ByteStream {
    let state = (skip(bytes, given.range.start), given.range.start, given);
    let rest = stream::try_unfold(state, move |(mut bytes, mut compared, given)| async move {
        let Some(mut chunk) = bytes.next().await.transpose()? else { return Ok(None) };
        while compared < given.range.end && !chunk.is_empty() {
            let wanted = (given.range.end - compared).min(chunk.len() as u64);
            let before = given.read(compared..compared + wanted).await?;
            if chunk.split_to(before.len()) != before {
                let reason = "it sends other bytes than those that have gone out already".to_owned();
                return Err(UpstreamError::Broken { reason }.into());
            }
            compared += before.len() as u64;
        }
        Ok(Some((chunk, (bytes, compared, given))))
    });
    rest.boxed()
}

/// What comes after the first `count` bytes.
fn skip(bytes: ByteStream, count: u64) -> ByteStream {
    let rest = bytes.scan(count, |left, bytes| {
        let bytes = bytes.map(|mut bytes| {
            let skipped = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= skipped as u64;
            bytes.split_off(skipped)
        });
        std::future::ready(Some(bytes))
    });
    rest.boxed()
}

/// Reads the beginning of `range`: from the page cache at once, else on a blocking thread, so that no other connection waits for
/// the disk. That there is nothing is an error of the disk.
async fn read_chunk(file: Arc<dyn StoredFile>, range: Range<u64>) -> Result<io::Result<Bytes>, FillError> {
    let mut buffer = Buffer::take(range.end - range.start);
    match file.try_read_at(buffer.as_mut_slice(), range.start) {
        Ok(count) if count > 0 => return Ok(Ok(buffer.freeze(count))),
        // A short read before the known end is not trusted from this path: the blocking one tells what is wrong.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Ok(Err(error)),
    }
    let read = move || match file.read_at(buffer.as_mut_slice(), range.start)? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was")),
        count => Ok(buffer.freeze(count)),
    };
    Ok(blocking(read).await?)
}
