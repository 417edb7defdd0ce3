//! Readers of content, at rest or in flight. A reader holds a descriptor and at most one buffer; it waits for nobody but the fill,
//! and nobody waits for it.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::buffers::Buffer;
use super::error::FillError;
use super::flight::{Fill, Progress};
use super::through::Through;
use crate::oci::Digest;
use crate::store::{Content, Store, StoredFile};
use crate::util::blocking;

/// Bytes of content on their way to a client. It ends with an error if they cannot all be had; what came before must then not be
/// made to look complete.
pub type ByteStream = BoxStream<'static, Result<Bytes, FillError>>;

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

/// Content at rest, and the shelf that it is taken from if it turns out to be damaged.
#[derive(Clone)]
pub struct Shelved {
    pub content: Content,
    pub digest: Digest,
    pub store: Store,
}

impl Readable {
    /// The size in bytes, if it is known by now.
    ///
    /// # Errors
    /// Why the fill failed, if it did.
    pub async fn known_size(&self) -> Result<Option<u64>, FillError> {
        match self {
            Self::AtRest(shelved) => Ok(Some(shelved.content.size)),
            Self::InFlight(fill) => fill.opened().await,
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
            Self::InFlight(fill) => fill.size().await.map(Some),
            Self::Through(through) => Ok(through.size()),
        }
    }

    /// All bytes.
    pub fn read_all(&self) -> ByteStream {
        match self {
            Self::AtRest(shelved) => at_rest(shelved.clone(), 0..shelved.content.size),
            Self::InFlight(fill) => in_flight(Arc::clone(fill), 0..u64::MAX),
            Self::Through(through) => Arc::clone(through).read_all(),
        }
    }

    /// The bytes of `range`, which lies within the size.
    pub fn read(&self, range: Range<u64>) -> ByteStream {
        match self {
            Self::AtRest(shelved) => at_rest(shelved.clone(), range),
            Self::InFlight(fill) => in_flight(Arc::clone(fill), range),
            Self::Through(through) => Arc::clone(through).read(range),
        }
    }
}

fn at_rest(shelved: Shelved, range: Range<u64>) -> ByteStream {
    stream::try_unfold(range, move |range| {
        let shelved = shelved.clone();
        async move {
            if range.is_empty() {
                return Ok(None);
            }
            let bytes = match read_chunk(Arc::clone(&shelved.content.file), range.clone()).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    // This body is lost; the next one is not to break at the same byte.
                    tracing::error!(blob.digest = %shelved.digest, %error, "content at rest cannot be read; it is dropped and fetched again");
                    shelved.store.remove(&shelved.digest).await;
                    return Err(error);
                }
            };
            let next = range.start + bytes.len() as u64..range.end;
            Ok(Some((bytes, next)))
        }
    })
    .boxed()
}

fn in_flight(fill: Arc<Fill>, range: Range<u64>) -> ByteStream {
    let begin = range.start;
    stream::try_unfold((fill, None, range), move |(fill, file, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let end = match fill.readable(range.start, begin).await? {
            Progress::Readable(end) => end.min(range.end),
            Progress::End => return Ok(None),
        };
        let file = match file.or_else(|| fill.file()) {
            Some(file) => file,
            None => return Err(FillError::Abandoned),
        };
        let bytes = read_chunk(Arc::clone(&file), range.start..end).await?;
        let next = range.start + bytes.len() as u64..range.end;
        Ok(Some((bytes, (fill, Some(file), next))))
    })
    .boxed()
}

/// Reads the beginning of `range`: from the page cache at once, else on a blocking thread, so that no other connection waits for
/// the disk.
async fn read_chunk(file: Arc<dyn StoredFile>, range: Range<u64>) -> Result<Bytes, FillError> {
    let mut buffer = Buffer::take(range.end - range.start);
    match file.try_read_at(buffer.as_mut_slice(), range.start) {
        Ok(count) if count > 0 => return Ok(buffer.freeze(count)),
        // A short read before the known end is not trusted from this path: the blocking one tells what is wrong.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(FillError::Disk(error.to_string())),
    }
    let read = blocking(move || {
        let count = file.read_at(buffer.as_mut_slice(), range.start)?;
        Ok::<_, io::Error>(buffer.freeze(count))
    });
    match read.await {
        Ok(Ok(bytes)) if bytes.is_empty() => Err(FillError::Disk("the file is shorter than it was".to_owned())),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(FillError::Disk(error.to_string())),
        Err(_) => Err(FillError::Abandoned),
    }
}
