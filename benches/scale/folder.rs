//! A cache's folder with as many contents as are asked for, written file by file as the store lays them out: without a catalog, which
//! the first start makes. It never opens a store.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use larder::oci::{Digest, MediaType};

/// The bytes of a blob. What a content costs does not depend on its size.
const BLOB: usize = 200;

/// How many blobs an image has: a configuration and eight layers, as is usual (median of layers on Docker Hub: 8).
const BLOBS: u64 = 9;

/// Contents of an image: its blobs and its manifest.
pub(crate) const IMAGE: u64 = BLOBS + 1;

/// How many images a repository has, each with a tag.
const TAGS: u64 = 50;

const UPSTREAM: &str = "docker.io";

/// A folder, and what is in it.
pub(crate) struct Folder {
    pub(crate) dir: PathBuf,
    pub(crate) contents: u64,
}

/// An image by its number: all else follows from that.
#[derive(Clone, Copy)]
pub(crate) struct Image(pub(crate) u64);

/// The bytes of a content by its number: those from 0 on are blobs of images.
pub(crate) fn content(number: u64) -> Vec<u8> {
    format!("content {number:0width$}", width = BLOB - "content ".len()).into_bytes()
}

impl Image {
    pub(crate) fn repository(self) -> String {
        format!("team/app-{}", self.0 / TAGS)
    }

    pub(crate) fn tag(self) -> String {
        format!("v{}", self.0 % TAGS)
    }

    pub(crate) fn blobs(self) -> impl Iterator<Item = Vec<u8>> {
        (self.0 * BLOBS..(self.0 + 1) * BLOBS).map(content)
    }

    pub(crate) fn manifest(self) -> String {
        let descriptor = |bytes: Vec<u8>| {
            let (digest, size) = (Digest::sha256(&bytes), bytes.len());
            format!(r#"{{"mediaType":"application/octet-stream","digest":"{digest}","size":{size}}}"#)
        };
        let mut descriptors = self.blobs().map(descriptor);
        let config = descriptors.next().unwrap_or_default();
        let layers: Vec<String> = descriptors.collect();
        let kind = MediaType::OCI_MANIFEST;
        format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{config},"layers":[{}]}}"#, layers.join(","))
    }
}

impl Folder {
    /// Writes `contents` contents into `dir`, which must hold an empty store.
    pub(crate) fn fill(dir: &Path, contents: u64) -> Result<Self> {
        ensure!(contents.is_multiple_of(IMAGE), "{contents} contents are no whole number of images");
        let folder = Self { dir: dir.to_owned(), contents };
        for first in 0..=u8::MAX {
            let shard = dir.join(format!("blobs/sha256/{first:02x}"));
            fs::create_dir_all(&shard).with_context(|| format!("cannot make {}", shard.display()))?;
        }
        let writers = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        thread::scope(|scope| {
            let write =
                |writer| (writer..folder.images()).step_by(writers as usize).try_for_each(|image| folder.write(Image(image)));
            let running: Vec<_> = (0..writers).map(|writer| scope.spawn(move || write(writer))).collect();
            running.into_iter().try_for_each(|writer| writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        Ok(folder)
    }

    pub(crate) fn images(&self) -> u64 {
        self.contents / IMAGE
    }

    pub(crate) fn catalog(&self) -> PathBuf {
        self.dir.join("catalog.sqlite")
    }

    fn write(&self, image: Image) -> Result<()> {
        image.blobs().try_for_each(|bytes| self.write_content(&bytes))?;
        let (manifest, media_type) = (image.manifest(), MediaType::OCI_MANIFEST);
        let (digest, size) = (Digest::sha256(manifest.as_bytes()), manifest.len());
        self.write_content(manifest.as_bytes())?;
        let refs = self.dir.join("refs").join(UPSTREAM).join(image.repository());
        let (tags, manifests) = (refs.join("_tags"), refs.join("_manifests"));
        for folder in [&tags, &manifests] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let manifest_ref = format!(r#"{{"media_type":"{media_type}"}}"#);
        let tag_ref = format!(r#"{{"digest":"{digest}","media_type":"{media_type}","size":{size}}}"#);
        write(&manifests.join(format!("sha256-{}", digest.hex())), manifest_ref.as_bytes())?;
        write(&tags.join(image.tag()), tag_ref.as_bytes())
    }

    fn write_content(&self, bytes: &[u8]) -> Result<()> {
        let digest = Digest::sha256(bytes);
        write(&self.dir.join(format!("blobs/sha256/{:02x}/{}", digest.as_bytes()[0], digest.hex())), bytes)
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o444).open(path);
    file.and_then(|mut file| file.write_all(bytes)).with_context(|| format!("cannot write {}", path.display()))
}
