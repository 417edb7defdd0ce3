//! What a registry holds: blobs, manifests, tags, by repository, changeable while tests run.
//! Answers questions about content; never about who may see it or how it is sent.

use std::collections::{BTreeMap, HashMap};
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::digest::{Algorithm, Digest};
use crate::image::Image;
use crate::synthetic::Synthetic;

/// A blob's bytes: held, or generated as they are sent.
#[derive(Clone, Debug)]
enum Data {
    Bytes(Bytes),
    Synthetic(Synthetic),
}

/// A blob and its digest.
#[derive(Clone, Debug)]
pub struct Blob {
    data: Data,
    digest: Digest,
}

impl Blob {
    /// A blob of these bytes, named by their sha256.
    pub fn new(bytes: impl Into<Bytes>) -> Blob {
        Blob::with_algorithm(Algorithm::Sha256, bytes)
    }

    /// A blob of these bytes, named by their digest of this algorithm.
    pub fn with_algorithm(algorithm: Algorithm, bytes: impl Into<Bytes>) -> Blob {
        let bytes = bytes.into();
        Blob { digest: Digest::of(algorithm, &bytes), data: Data::Bytes(bytes) }
    }

    /// The same content under its digest of another algorithm.
    #[must_use]
    pub fn named_by(self, algorithm: Algorithm) -> Blob {
        match self.data {
            Data::Bytes(bytes) => Blob::with_algorithm(algorithm, bytes),
            Data::Synthetic(content) => Blob { digest: content.digest(algorithm), ..self },
        }
    }

    /// The digest that the blob is asked for by.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        match &self.data {
            Data::Bytes(bytes) => bytes.len() as u64,
            Data::Synthetic(content) => content.size(),
        }
    }

    /// The bytes from `offset`, at most `len` and never past the end.
    pub fn read(&self, offset: u64, len: usize) -> Bytes {
        match &self.data {
            Data::Bytes(bytes) => {
                let start = usize::try_from(offset).map_or(bytes.len(), |at| at.min(bytes.len()));
                bytes.slice(start..start.saturating_add(len).min(bytes.len()))
            }
            Data::Synthetic(content) => content.read(offset, len),
        }
    }

    /// All bytes, in memory.
    pub fn bytes(&self) -> Bytes {
        let size = usize::try_from(self.size()).expect("a blob read whole fits into memory");
        self.read(0, size)
    }
}

impl From<Synthetic> for Blob {
    fn from(content: Synthetic) -> Blob {
        Blob { digest: content.digest(Algorithm::Sha256), data: Data::Synthetic(content) }
    }
}

impl From<&'static [u8]> for Blob {
    fn from(bytes: &'static [u8]) -> Blob {
        Blob::new(bytes)
    }
}

impl From<&'static str> for Blob {
    fn from(text: &'static str) -> Blob {
        Blob::new(text)
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Blob {
        Blob::new(bytes)
    }
}

/// A manifest or index: its document, byte for byte, and its type.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The document as it is sent.
    pub bytes: Bytes,
    /// What `Content-Type` says of it.
    pub media_type: String,
    /// The digest of `bytes`.
    pub digest: Digest,
}

impl Manifest {
    /// A manifest of these bytes, named by their digest of this algorithm.
    pub fn new(algorithm: Algorithm, media_type: impl Into<String>, bytes: impl Into<Bytes>) -> Manifest {
        let bytes = bytes.into();
        Manifest { digest: Digest::of(algorithm, &bytes), media_type: media_type.into(), bytes }
    }

    /// Its descriptor, as an index or a `subject` holds it.
    pub fn descriptor(&self) -> Value {
        json!({
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.bytes.len(),
        })
    }

    fn document(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// Its entry in the referrers list of `subject`, if it refers to it (distribution spec, "Listing Referrers").
    fn as_referrer_of(&self, subject: &Digest) -> Option<Value> {
        let document = self.document();
        if document["subject"]["digest"].as_str() != Some(subject.as_str()) {
            return None;
        }
        let mut descriptor = self.descriptor();
        let artifact_type = match &document["artifactType"] {
            Value::Null => &document["config"]["mediaType"],
            stated => stated,
        };
        if !artifact_type.is_null() {
            descriptor["artifactType"] = artifact_type.clone();
        }
        if !document["annotations"].is_null() {
            descriptor["annotations"] = document["annotations"].clone();
        }
        Some(descriptor)
    }
}

/// One repository's content.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    name: String,
    blobs: HashMap<Digest, Blob>,
    manifests: BTreeMap<Digest, Manifest>,
    tags: BTreeMap<String, Digest>,
}

impl Repository {
    /// An empty repository, such as `library/alpine`.
    pub fn new(name: impl Into<String>) -> Repository {
        Repository { name: name.into(), ..Repository::default() }
    }

    /// As [`Repository::set_tag`], for building one in a single expression.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>, image: &Image) -> Repository {
        self.set_tag(tag, image);
        self
    }

    /// As [`Repository::put_image`], for building one in a single expression.
    #[must_use]
    pub fn image(mut self, image: &Image) -> Repository {
        self.put_image(image);
        self
    }

    /// As [`Repository::put_blob`], for building one in a single expression.
    #[must_use]
    pub fn blob(mut self, blob: impl Into<Blob>) -> Repository {
        self.put_blob(blob);
        self
    }

    /// The name, without a registry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts the image and all that belongs to it, and makes the tag name it.
    pub fn set_tag(&mut self, tag: impl Into<String>, image: &Image) {
        self.put_image(image);
        self.tags.insert(tag.into(), image.manifest().digest.clone());
    }

    /// Puts the image's manifest, its children and its blobs, without a tag.
    pub fn put_image(&mut self, image: &Image) {
        for child in image.children() {
            self.put_image(child);
        }
        for blob in image.blobs() {
            self.put_blob(blob.clone());
        }
        self.put_manifest(image.manifest().clone());
    }

    /// Puts a blob.
    pub fn put_blob(&mut self, blob: impl Into<Blob>) {
        let blob = blob.into();
        self.blobs.insert(blob.digest().clone(), blob);
    }

    /// Puts a manifest, without looking at what it refers to.
    pub fn put_manifest(&mut self, manifest: Manifest) {
        self.manifests.insert(manifest.digest.clone(), manifest);
    }

    /// Removes a tag; what it named stays.
    pub fn remove_tag(&mut self, tag: &str) {
        self.tags.remove(tag);
    }

    /// Removes a manifest and the tags that name it.
    pub fn remove_manifest(&mut self, digest: &Digest) {
        self.manifests.remove(digest);
        self.tags.retain(|_, named| named != digest);
    }

    /// Removes a blob; manifests that need it stay.
    pub fn remove_blob(&mut self, digest: &Digest) {
        self.blobs.remove(digest);
    }

    pub(crate) fn find_blob(&self, digest: &Digest) -> Option<&Blob> {
        self.blobs.get(digest)
    }

    pub(crate) fn find_manifest(&self, reference: &str) -> Option<&Manifest> {
        match reference.parse::<Digest>() {
            Ok(digest) => self.manifests.get(&digest),
            Err(_) => self.manifests.get(self.tags.get(reference)?),
        }
    }

    /// All tags in lexical order.
    pub(crate) fn tags(&self) -> Vec<String> {
        self.tags.keys().cloned().collect()
    }

    pub(crate) fn referrers(&self, subject: &Digest) -> Vec<Value> {
        self.manifests.values().filter_map(|manifest| manifest.as_referrer_of(subject)).collect()
    }
}

/// All repositories.
#[derive(Debug, Default)]
pub(crate) struct Library(RwLock<BTreeMap<String, Repository>>);

impl Library {
    /// Looks into a repository; `None` where there is none of that name.
    pub(crate) fn read<T>(&self, name: &str, look: impl FnOnce(&Repository) -> T) -> Option<T> {
        let repositories = self.0.read().unwrap_or_else(PoisonError::into_inner);
        repositories.get(name).map(look)
    }

    /// Changes a repository, which comes into being with this if need be.
    pub(crate) fn edit<T>(&self, name: &str, change: impl FnOnce(&mut Repository) -> T) -> T {
        let mut repositories = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let repository = repositories.entry(name.to_owned()).or_insert_with(|| Repository::new(name));
        change(repository)
    }

    pub(crate) fn put(&self, repository: Repository) {
        let mut repositories = self.0.write().unwrap_or_else(PoisonError::into_inner);
        repositories.insert(repository.name.clone(), repository);
    }

    pub(crate) fn remove(&self, name: &str) {
        let mut repositories = self.0.write().unwrap_or_else(PoisonError::into_inner);
        repositories.remove(name);
    }
}
