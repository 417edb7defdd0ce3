//! Where content comes from: the repositories in memory, then the origin registry if there is one.
//! A repository in memory hides that of the same name at the origin; nothing is ever written to the origin.

use bytes::Bytes;
use serde_json::Value;

use crate::content::{Blob, Library, Manifest};
use crate::digest::Digest;
use crate::origin::{Origin, OriginBlob, OriginBody, OriginError};

/// All content that the kit can serve.
#[derive(Debug, Default)]
pub(crate) struct Backend {
    pub(crate) library: Library,
    pub(crate) origin: Option<Origin>,
}

/// A blob that is known to exist.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one of them lives per request")]
pub(crate) enum StoredBlob {
    Memory(Blob),
    Origin(OriginBlob),
}

impl StoredBlob {
    pub(crate) fn size(&self) -> u64 {
        match self {
            StoredBlob::Memory(blob) => blob.size(),
            StoredBlob::Origin(blob) => blob.size,
        }
    }
}

/// `length` bytes of a blob from `start`.
#[derive(Clone, Debug)]
pub(crate) struct BlobSlice {
    pub(crate) blob: StoredBlob,
    pub(crate) start: u64,
    pub(crate) length: u64,
}

/// Yields the bytes of a [`BlobSlice`], or bytes at hand.
#[derive(Debug)]
pub(crate) enum Source {
    Bytes(Bytes),
    Memory { blob: Blob, next: u64 },
    Origin(OriginBody),
}

impl BlobSlice {
    pub(crate) async fn open(&self) -> Result<Source, OriginError> {
        match &self.blob {
            StoredBlob::Memory(blob) => Ok(Source::Memory { blob: blob.clone(), next: self.start }),
            StoredBlob::Origin(_) if self.length == 0 => Ok(Source::Bytes(Bytes::new())),
            StoredBlob::Origin(blob) => Ok(Source::Origin(blob.open(self.start, self.length).await?)),
        }
    }
}

impl Source {
    /// The next bytes, at most `max`; empty at the end.
    pub(crate) async fn next(&mut self, max: usize) -> Result<Bytes, OriginError> {
        match self {
            Source::Bytes(bytes) => Ok(bytes.split_to(max.min(bytes.len()))),
            Source::Memory { blob, next } => {
                let bytes = blob.read(*next, max);
                *next += bytes.len() as u64;
                Ok(bytes)
            }
            Source::Origin(body) => body.next(max).await,
        }
    }
}

impl Backend {
    /// Whether there is a repository of this name.
    pub(crate) async fn has_repository(&self, name: &str) -> Result<bool, OriginError> {
        Ok(self.tags(name).await?.is_some())
    }

    /// A manifest by tag or digest. `accept` is the client's, which the origin may heed.
    pub(crate) async fn manifest(&self, name: &str, reference: &str, accept: &[&str]) -> Result<Option<Manifest>, OriginError> {
        let look = self.library.read(name, |repository| repository.find_manifest(reference).cloned());
        match (look, &self.origin) {
            (Some(found), _) => Ok(found),
            (None, Some(origin)) => origin.manifest(name, reference, accept).await,
            (None, None) => Ok(None),
        }
    }

    pub(crate) async fn blob(&self, name: &str, digest: &Digest) -> Result<Option<StoredBlob>, OriginError> {
        let look = self.library.read(name, |repository| repository.find_blob(digest).cloned());
        match (look, &self.origin) {
            (Some(found), _) => Ok(found.map(StoredBlob::Memory)),
            (None, Some(origin)) => Ok(origin.blob(name, digest).await?.map(StoredBlob::Origin)),
            (None, None) => Ok(None),
        }
    }

    /// All tags in lexical order; `None` where there is no such repository.
    pub(crate) async fn tags(&self, name: &str) -> Result<Option<Vec<String>>, OriginError> {
        let look = self.library.read(name, |repository| repository.tags());
        match (look, &self.origin) {
            (Some(tags), _) => Ok(Some(tags)),
            (None, Some(origin)) => origin.tags(name).await,
            (None, None) => Ok(None),
        }
    }

    /// Descriptors of what refers to `subject`; `None` where the API is not there or the repository is not.
    pub(crate) async fn referrers(&self, name: &str, subject: &Digest) -> Result<Option<Vec<Value>>, OriginError> {
        let look = self.library.read(name, |repository| repository.referrers(subject));
        match (look, &self.origin) {
            (Some(found), _) => Ok(Some(found)),
            (None, Some(origin)) => origin.referrers(name, subject).await,
            (None, None) => Ok(None),
        }
    }
}
