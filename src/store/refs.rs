//! The small files below `refs/`: what a tag pointed to, as what a manifest was fetched from where, and what is pinned. They are the
//! truth from which the catalog can be made anew; when a tag was last checked is not in them.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::filesystem::FileSystem;
use super::health::{Health, Operation};
use super::layout::Layout;
use super::name::Pin;
use crate::oci::{Digest, MediaType, RepositoryName, Tag, UpstreamName};

/// No ref is larger: the longest media type has 255 bytes, the longest digest 135.
const MAX_BYTES: u64 = 4096;

/// How often the folder of a ref is made before it is given up: others may remove it while nothing is in it.
const ATTEMPTS: usize = 4;

/// Reads and writes refs. Errors are logged and counted here; to the caller of a ref they are a ref that is not there.
pub(super) struct Refs {
    pub(super) layout: Arc<Layout>,
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) health: Arc<Health>,
    /// Names the temporary files.
    pub(super) numbers: Arc<AtomicU64>,
}

/// What is in a folder is not known, which is not the same as nothing. It has been noted why.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unlisted;

/// What a tag pointed to when it last moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TagRef {
    pub(super) digest: Digest,
    pub(super) media_type: MediaType,
    /// Bytes.
    pub(super) size: u64,
}

#[derive(Serialize, Deserialize)]
struct TagFile {
    digest: String,
    media_type: String,
    size: u64,
}

#[derive(Serialize, Deserialize)]
struct ManifestFile {
    media_type: String,
}

/// That it is there says it all.
#[derive(Serialize)]
struct PinFile {}

impl Refs {
    pub(super) fn tag(&self, upstream: &UpstreamName, repository: &RepositoryName, tag: &Tag) -> Option<TagRef> {
        let file: TagFile = self.read(&self.layout.tag(upstream, repository, tag))?;
        Some(TagRef { digest: file.digest.parse().ok()?, media_type: file.media_type.parse().ok()?, size: file.size })
    }

    /// Writes what the tag points to, unless it says so already.
    pub(super) fn set_tag(&self, upstream: &UpstreamName, repository: &RepositoryName, tag: &Tag, to: &TagRef) {
        if self.tag(upstream, repository, tag).as_ref() != Some(to) {
            let TagRef { digest, media_type, size } = to;
            let file = TagFile { digest: digest.to_string(), media_type: media_type.to_string(), size: *size };
            // It has been noted, and costs no more than that the tag is asked for again.
            let _ = self.write(&self.layout.tag(upstream, repository, tag), &file);
        }
    }

    pub(super) fn remove_tag(&self, upstream: &UpstreamName, repository: &RepositoryName, tag: &Tag) {
        // It has been noted: a tag that is brought back is a stale one at worst.
        let _ = self.remove(&self.layout.tag(upstream, repository, tag));
    }

    /// The tags of a repository, in lexical order.
    pub(super) fn tags(&self, upstream: &UpstreamName, repository: &RepositoryName) -> Result<Vec<Tag>, Unlisted> {
        let names = self.list(&self.layout.tags(upstream, repository))?;
        let mut tags: Vec<Tag> = names.into_iter().filter_map(|(name, _)| name.parse().ok()).collect();
        tags.sort_unstable();
        Ok(tags)
    }

    /// The media type with which a manifest was fetched from this repository; `None` if it was not.
    pub(super) fn manifest(&self, upstream: &UpstreamName, repository: &RepositoryName, digest: &Digest) -> Option<MediaType> {
        let file: ManifestFile = self.read(&self.layout.manifest(upstream, repository, digest))?;
        file.media_type.parse().ok()
    }

    /// Notes that the manifest was fetched from this repository, unless that is noted already.
    pub(super) fn set_manifest(
        &self,
        upstream: &UpstreamName,
        repository: &RepositoryName,
        digest: &Digest,
        media_type: &MediaType,
    ) {
        if self.manifest(upstream, repository, digest).as_ref() != Some(media_type) {
            let file = ManifestFile { media_type: media_type.to_string() };
            // As for tags.
            let _ = self.write(&self.layout.manifest(upstream, repository, digest), &file);
        }
    }

    pub(super) fn remove_manifest(&self, upstream: &UpstreamName, repository: &RepositoryName, digest: &Digest) {
        // As for tags.
        let _ = self.remove(&self.layout.manifest(upstream, repository, digest));
    }

    /// Removes a tag that points to what is gone. One that a loss of power brings back is removed again. Tells whether there is none.
    pub(super) fn forget_tag(&self, upstream: &UpstreamName, repository: &RepositoryName, tag: &Tag, gone: &Digest) -> bool {
        let points_elsewhere = self.tag(upstream, repository, tag).is_some_and(|to| to.digest != *gone);
        !points_elsewhere && self.forget(&self.layout.tag(upstream, repository, tag))
    }

    /// As [`Refs::forget_tag`], for a manifest.
    pub(super) fn forget_manifest(&self, upstream: &UpstreamName, repository: &RepositoryName, digest: &Digest) -> bool {
        self.forget(&self.layout.manifest(upstream, repository, digest))
    }

    /// What is pinned in the repository, and not in others below it.
    pub(super) fn pins(&self, upstream: &UpstreamName, repository: &RepositoryName) -> Result<Vec<Pin>, Unlisted> {
        let names = self.list(&self.layout.pins(upstream, repository))?;
        Ok(names.iter().filter_map(|(name, _)| Layout::parse_pin(upstream, repository, name)).collect())
    }

    /// Writes the pin durably. Unlike the others, this ref is a promise, so that an error is the caller's as well.
    pub(super) fn set_pin(&self, pin: &Pin) -> io::Result<()> {
        self.write(&self.layout.pin(pin), &PinFile {})
    }

    /// As [`Refs::set_pin`]. That it was not there is no error.
    pub(super) fn remove_pin(&self, pin: &Pin) -> io::Result<()> {
        match self.remove(&self.layout.pin(pin)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    /// The names in a folder, and whether each is a folder; none if there is no such folder.
    pub(super) fn list(&self, folder: &Path) -> Result<Vec<(String, bool)>, Unlisted> {
        match self.fs.list(folder) {
            Ok(entries) => Ok(entries.into_iter().map(|entry| (entry.name, entry.is_folder)).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => {
                self.note(Operation::ListFolder, folder, &error);
                Err(Unlisted)
            }
        }
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, path: &Path) -> Option<T> {
        match self.read_bytes(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "a ref that cannot be read is ignored"))
                .ok(),
            Err(error) => {
                self.note(Operation::ReadRef, path, &error);
                None
            }
        }
    }

    fn read_bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.fs.open(path)?.read_all(MAX_BYTES)
    }

    /// Replaces the file as a whole, durably: there is never half a ref under its name.
    fn write(&self, path: &Path, value: &impl Serialize) -> io::Result<()> {
        let bytes = serde_json::to_vec(value).expect("strings and numbers are JSON");
        let temporary = self.layout.temporary(self.numbers.fetch_add(1, Ordering::Relaxed));
        self.replace(path, &temporary, &bytes).inspect_err(|error| {
            self.note(Operation::WriteRef, path, error);
            // It may not be there any more, or never have been.
            let _ = self.fs.remove(&temporary);
        })
    }

    fn replace(&self, path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = path.parent().expect("a ref lies in a folder");
        let file = self.fs.create(temporary)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        let mut attempts = 0;
        loop {
            match self.fs.rename(temporary, path) {
                // It was not there yet, or has just gone with the last of what was in it.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < ATTEMPTS => attempts += 1,
                Err(error) => return Err(error),
                Ok(()) => return self.fs.sync_folder(folder),
            }
            self.fs.create_folder(folder)?;
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().expect("a ref lies in a folder");
        let removed = self.fs.remove(path).and_then(|()| self.fs.sync_folder(folder));
        removed.inspect_err(|error| self.note(Operation::RemoveRef, path, error))
    }

    /// With the last ref of a repository go its folders.
    fn forget(&self, path: &Path) -> bool {
        if let Err(error) = self.fs.remove(path) {
            self.note(Operation::RemoveRef, path, &error);
            return error.kind() == io::ErrorKind::NotFound;
        }
        let root = self.layout.refs();
        let mut folders = path.ancestors().skip(1).take_while(|folder| **folder != *root);
        // The first in which something is stays, with those above it.
        while folders.next().is_some_and(|folder| self.fs.remove_folder(folder).is_ok()) {}
        true
    }

    /// That something is not there is no error.
    fn note(&self, operation: Operation, path: &Path, error: &io::Error) {
        if error.kind() != io::ErrorKind::NotFound || operation == Operation::WriteRef {
            self.health.disk_error(operation, path, error);
        }
    }
}
