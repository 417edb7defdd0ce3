//! What is known about content beyond its bytes: tags and how fresh they are, media types, and which repositories hold what.
//! It can be lost: all but freshness and access times is made anew from `refs/` and `blobs/`, while look-ups that miss go there.

mod accesses;
pub(super) mod contents;
pub(super) mod database;
pub(super) mod edges;
pub(super) mod forgotten;
pub(super) mod holdings;
mod latest;
mod listings;
pub(super) mod names;
pub(super) mod pins;
#[cfg(test)]
mod plans;
pub(super) mod queues;
mod readers;
pub(super) mod schema;
mod wanted;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::Connection;

use self::database::Database;
pub use self::listings::ListingRecord;
use self::names::Place;
use super::exclusive::Exclusive;
use super::folder::{self, Folder};
use super::health::Health;
use super::refs::{Refs, TagRef};
use super::{blobs, off_thread};
use crate::oci::{Digest, Manifest, MediaType, Reference, RepositoryName, Tag, UpstreamName};

/// Of how many repositories that hold a digest the refs are looked at for its media type.
const PLACES: usize = 8;

/// The catalog of a store. None of its functions fails: an error is logged, counted, and means "not known". Cheap to clone.
#[derive(Clone)]
pub struct Catalog(pub(super) Arc<Inner>);

/// A tag, as it was when the upstream was last asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRecord {
    pub digest: Digest,
    pub media_type: MediaType,
    /// Bytes of the manifest.
    pub size: u64,
    /// When the upstream last said so, in milliseconds since 1970-01-01 UTC; [`TagRecord::NEVER`] if that is not known.
    pub checked_at: i64,
}

/// As what a digest is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Manifest,
    Blob,
}

/// How a repository is known to hold a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// It was fetched from there, or confirmed by the upstream.
    Fetched,
    /// A manifest that was fetched from there names it, with this size in bytes.
    Referenced { size: u64 },
    /// Not at all.
    None,
}

/// What is known of a repository's right to a digest. Sizes are in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Right {
    /// It was fetched from there, or confirmed by the upstream; the size is known if a manifest told it.
    Fetched { size: Option<u64> },
    /// A manifest that was fetched from there names it.
    Referenced {
        size: u64,
        /// The upstreams that it was fetched from. If there is none, then the one whose manifests refer to it, if that is one only.
        origins: Vec<UpstreamName>,
        /// All upstreams of which a repository refers to it.
        claimants: Vec<UpstreamName>,
    },
    /// None.
    #[default]
    None,
}

/// Why the catalog could not be asked or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("the catalog failed: {0}")]
    Sqlite(Arc<rusqlite::Error>),
    #[error("the catalog cannot be set aside: {0}")]
    SetAside(Arc<io::Error>),
    #[error("the catalog's thread cannot be started: {0}")]
    Thread(Arc<io::Error>),
    /// A catalog that was made just now was not as it should be.
    #[error("a new catalog is not usable")]
    Unusable,
    #[error("the catalog is closed")]
    Stopped,
    /// It is opened again when the folder is back.
    #[error("{}", folder::Gone)]
    Gone,
}

pub(super) struct Inner {
    pub(super) database: Database,
    pub(super) refs: Refs,
    pub(super) health: Arc<Health>,
    /// A ref's path is held while the ref and its row are changed.
    pub(super) claims: Exclusive<PathBuf>,
    /// Given up last, after the writer has finished.
    pub(super) folder: Arc<Folder>,
}

impl TagRecord {
    /// The `checked_at` of a tag that is known from `refs/` alone.
    pub const NEVER: i64 = 0;
}

impl Kind {
    /// How the catalog stores it.
    pub(super) const fn column(self) -> i64 {
        match self {
            Self::Manifest => 0,
            Self::Blob => 1,
        }
    }
}

impl From<rusqlite::Error> for CatalogError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(Arc::new(error))
    }
}

impl From<folder::Gone> for CatalogError {
    fn from(folder::Gone: folder::Gone) -> Self {
        Self::Gone
    }
}

impl From<io::Error> for CatalogError {
    fn from(error: io::Error) -> Self {
        Self::SetAside(Arc::new(error))
    }
}

// === impl Catalog ===

impl Catalog {
    /// What the tag points to, as far as is known.
    pub async fn tag(&self, upstream: &UpstreamName, repository: &RepositoryName, tag: &Tag) -> Option<TagRecord> {
        let tag = tag.clone();
        self.run(upstream, repository, move |inner, place| inner.tag(place, &tag)).await.flatten()
    }

    /// Returns when the record is stored; the ref on the disk is written only if what the tag points to has changed.
    pub async fn set_tag(&self, upstream: &UpstreamName, repository: &RepositoryName, tag: &Tag, record: TagRecord) {
        let tag = tag.clone();
        self.run(upstream, repository, move |inner, place| inner.set_tag(place, &tag, record)).await;
    }

    pub async fn remove_tag(&self, upstream: &UpstreamName, repository: &RepositoryName, tag: &Tag) {
        let tag = tag.clone();
        self.run(upstream, repository, move |inner, place| inner.remove_tag(place, &tag)).await;
    }

    /// All tags of the repository that are known, in lexical order.
    pub async fn tags(&self, upstream: &UpstreamName, repository: &RepositoryName) -> Vec<Tag> {
        let list = |inner: &Inner, place: &Place| inner.refs.tags(&place.upstream, &place.repository).unwrap_or_default();
        self.run(upstream, repository, list).await.unwrap_or_default()
    }

    /// What the upstream last answered to `question` about the repository.
    pub async fn listing(&self, upstream: &UpstreamName, repository: &RepositoryName, question: &str) -> Option<ListingRecord> {
        let question = question.to_owned();
        let read = move |inner: &Inner, place: &Place| {
            inner.read("read listing", |connection| listings::listing(connection, place, &question))
        };
        self.run(upstream, repository, read).await.flatten().flatten()
    }

    /// Notes what the upstream answered. Large answers are not kept, and of many only the latest.
    pub async fn set_listing(&self, upstream: &UpstreamName, repository: &RepositoryName, question: &str, record: ListingRecord) {
        let question = question.to_owned();
        let write = move |inner: &Inner, place: &Place| {
            let place = place.clone();
            inner.write("write listing", move |connection| listings::set_listing(connection, &place, &question, &record));
        };
        self.run(upstream, repository, write).await;
    }

    /// Notes that something was asked for at `now` (milliseconds since 1970-01-01 UTC) that is not here and could not be fetched.
    /// Of what is noted, at least the latest ten thousand are kept, and not many more.
    pub async fn note_wanted(
        &self,
        upstream: &UpstreamName,
        repository: &RepositoryName,
        kind: Kind,
        reference: Reference,
        now: i64,
    ) {
        let write = move |inner: &Inner, place: &Place| {
            let place = place.clone();
            inner.write("note what is wanted", move |connection| wanted::note(connection, &place, kind, &reference, now));
        };
        self.run(upstream, repository, write).await;
    }

    /// The media type of a manifest. While the catalog is being made anew this may miss what [`Catalog::linked`], which knows
    /// where to look, would have brought back: ask that first.
    pub async fn media_type(&self, digest: &Digest) -> Option<MediaType> {
        let (inner, digest) = (Arc::clone(&self.0), *digest);
        off_thread(move || inner.media_type(&digest)).await.ok().flatten()
    }

    /// Notes a manifest of `size` bytes that was fetched from the repository, and that this makes the repository refer to what is
    /// in it.
    pub async fn add_manifest(
        &self,
        upstream: &UpstreamName,
        repository: &RepositoryName,
        digest: &Digest,
        media_type: &MediaType,
        size: u64,
        content: &Manifest,
    ) {
        let (digest, media_type, content) = (*digest, media_type.clone(), content.clone());
        let add = move |inner: &Inner, place: &Place| inner.add_manifest(place, &digest, &media_type, Some(size), Some(content));
        self.run(upstream, repository, add).await;
    }

    /// Notes that the upstream answered 200 for the digest in that repository.
    pub async fn link(&self, upstream: &UpstreamName, repository: &RepositoryName, kind: Kind, digest: &Digest) {
        let digest = *digest;
        self.run(upstream, repository, move |inner, place| inner.link(place, kind, &digest)).await;
    }

    /// Forgets that the repository holds the digest.
    pub async fn unlink(&self, upstream: &UpstreamName, repository: &RepositoryName, kind: Kind, digest: &Digest) {
        let digest = *digest;
        self.run(upstream, repository, move |inner, place| inner.unlink(place, kind, &digest)).await;
    }

    /// How the repository is known to hold the digest.
    #[cfg(test)]
    pub(super) async fn linked(&self, upstream: &UpstreamName, repository: &RepositoryName, kind: Kind, digest: &Digest) -> Link {
        let digest = *digest;
        self.run(upstream, repository, move |inner, place| inner.linked(place, kind, &digest)).await.unwrap_or(Link::None)
    }

    /// All that is known of a repository's right to the digest, in one look.
    pub async fn right_to(&self, upstream: &UpstreamName, repository: &RepositoryName, kind: Kind, digest: &Digest) -> Right {
        let digest = *digest;
        self.run(upstream, repository, move |inner, place| inner.right_to(place, kind, &digest)).await.unwrap_or_default()
    }

    /// The upstreams that the digest was fetched from. If there is none, then the upstream whose manifests refer to it, if that
    /// is one only.
    #[cfg(test)]
    pub(super) async fn origins(&self, digest: &Digest) -> Vec<UpstreamName> {
        let (inner, digest) = (Arc::clone(&self.0), *digest);
        off_thread(move || inner.origins(&digest)).await.unwrap_or_default()
    }

    /// Runs blocking work about a repository off the async threads. `None` if the runtime is shutting down.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        upstream: &UpstreamName,
        repository: &RepositoryName,
        work: impl FnOnce(&Inner, &Place) -> T + Send + 'static,
    ) -> Option<T> {
        let inner = Arc::clone(&self.0);
        let place = Place { upstream: upstream.clone(), repository: repository.clone() };
        off_thread(move || work(&inner, &place)).await.ok()
    }
}

// === impl Inner ===

/// All of these block.
impl Inner {
    fn tag(&self, place: &Place, tag: &Tag) -> Option<TagRecord> {
        match self.read("read tag", |connection| names::tag(connection, place, tag)).flatten() {
            Some(record) => Some(record),
            None => self.restore_tag(place, tag),
        }
    }

    /// Brings a tag back from its ref if it has one, together with the manifest that it points to: that comes first, so that who finds
    /// the tag finds the manifest.
    fn restore_tag(&self, place: &Place, tag: &Tag) -> Option<TagRecord> {
        self.restore_manifest(place, &self.refs.tag(&place.upstream, &place.repository, tag)?.digest);
        let _claim = self.claims.claim(&self.refs.layout.tag(&place.upstream, &place.repository, tag));
        let TagRef { digest, media_type, size } = self.refs.tag(&place.upstream, &place.repository, tag)?;
        let record = TagRecord { digest, media_type, size, checked_at: TagRecord::NEVER };
        self.store_tag(place, tag, &record);
        Some(record)
    }

    /// Brings a tag back if the catalog does not say what its ref says.
    pub(super) fn review_tag(&self, place: &Place, tag: &Tag) {
        let known = self.read("read tag", |connection| names::tag(connection, place, tag)).flatten();
        let known = known.map(|TagRecord { digest, media_type, size, .. }| TagRef { digest, media_type, size });
        if known != self.refs.tag(&place.upstream, &place.repository, tag) {
            self.restore_tag(place, tag);
        }
    }

    /// Brings a manifest back if the catalog does not say that it was fetched from there.
    pub(super) fn review_manifest(&self, place: &Place, digest: &Digest) {
        let known = self.read("read link", |connection| {
            Ok((names::linked(connection, place, Kind::Manifest, digest)?, names::media_type(connection, digest)?))
        });
        if !matches!(known, Some((Link::Fetched, Some(_)))) {
            self.restore_manifest(place, digest);
        }
    }

    fn set_tag(&self, place: &Place, tag: &Tag, record: TagRecord) {
        let _claim = self.claims.claim(&self.refs.layout.tag(&place.upstream, &place.repository, tag));
        let to = TagRef { digest: record.digest, media_type: record.media_type.clone(), size: record.size };
        self.refs.set_tag(&place.upstream, &place.repository, tag, &to);
        self.store_tag(place, tag, &record);
    }

    fn store_tag(&self, place: &Place, tag: &Tag, record: &TagRecord) {
        let (place, tag, record) = (place.clone(), tag.clone(), record.clone());
        self.write("write tag", move |connection| names::set_tag(connection, &place, &tag, &record));
    }

    pub(super) fn remove_tag(&self, place: &Place, tag: &Tag) {
        let _claim = self.claims.claim(&self.refs.layout.tag(&place.upstream, &place.repository, tag));
        self.refs.remove_tag(&place.upstream, &place.repository, tag);
        let (place, tag) = (place.clone(), tag.clone());
        self.write("remove tag", move |connection| names::remove_tag(connection, &place, &tag));
    }

    fn media_type(&self, digest: &Digest) -> Option<MediaType> {
        let known = self.read("read media type", |connection| names::media_type(connection, digest)).flatten();
        known.or_else(|| {
            let places = self.read("read links", |connection| names::places(connection, digest, PLACES)).unwrap_or_default();
            places.iter().find_map(|place| self.restore_manifest(place, digest))
        })
    }

    fn add_manifest(&self, place: &Place, digest: &Digest, media_type: &MediaType, size: Option<u64>, content: Option<Manifest>) {
        let _claim = self.claims.claim(&self.refs.layout.manifest(&place.upstream, &place.repository, digest));
        self.refs.set_manifest(&place.upstream, &place.repository, digest, media_type);
        self.store_manifest(place, digest, media_type, size, content);
    }

    fn store_manifest(
        &self,
        place: &Place,
        digest: &Digest,
        media_type: &MediaType,
        size: Option<u64>,
        content: Option<Manifest>,
    ) {
        let (place, digest, media_type) = (place.clone(), *digest, media_type.clone());
        self.write("write manifest", move |connection| {
            names::add_manifest(connection, &place, &digest, &media_type, size, content.as_ref())
        });
    }

    /// Brings a manifest, and what it refers to, back from its ref and its content.
    fn restore_manifest(&self, place: &Place, digest: &Digest) -> Option<MediaType> {
        let _claim = self.claims.claim(&self.refs.layout.manifest(&place.upstream, &place.repository, digest));
        let media_type = self.refs.manifest(&place.upstream, &place.repository, digest)?;
        let (size, content) = self.content(digest, &media_type);
        self.store_manifest(place, digest, &media_type, size, content);
        Some(media_type)
    }

    /// What a manifest at rest says, with its size; nothing if it is not there or not what it should be.
    fn content(&self, digest: &Digest, media_type: &MediaType) -> (Option<u64>, Option<Manifest>) {
        match blobs::read_manifest(&*self.refs.fs, &self.refs.layout, digest) {
            Some(bytes) => (Some(bytes.len() as u64), Manifest::inspect(&bytes, media_type).ok()),
            None => (None, None),
        }
    }

    fn link(&self, place: &Place, kind: Kind, digest: &Digest) {
        if self.read("read link", |connection| names::linked(connection, place, kind, digest)) == Some(Link::Fetched) {
            return;
        }
        if kind == Kind::Manifest
            && let Some(media_type) = self.media_type(digest)
        {
            let (size, content) = self.content(digest, &media_type);
            return self.add_manifest(place, digest, &media_type, size, content);
        }
        let (place, digest) = (place.clone(), *digest);
        self.write("write link", move |connection| names::link(connection, &place, kind, &digest));
    }

    pub(super) fn unlink(&self, place: &Place, kind: Kind, digest: &Digest) {
        let _claim = self.claims.claim(&self.refs.layout.manifest(&place.upstream, &place.repository, digest));
        if kind == Kind::Manifest {
            self.refs.remove_manifest(&place.upstream, &place.repository, digest);
        }
        let (place, digest) = (place.clone(), *digest);
        self.write("remove link", move |connection| names::unlink(connection, &place, kind, &digest));
    }

    fn linked(&self, place: &Place, kind: Kind, digest: &Digest) -> Link {
        let known = self.read("read link", |connection| names::linked(connection, place, kind, digest)).unwrap_or(Link::None);
        // A manifest that an index refers to may have been fetched, too; while the catalog is being made anew only its ref knows.
        if kind == Kind::Manifest && known != Link::Fetched && self.restore_manifest(place, digest).is_some() {
            return Link::Fetched;
        }
        known
    }

    pub(super) fn right_to(&self, place: &Place, kind: Kind, digest: &Digest) -> Right {
        match self.linked(place, kind, digest) {
            Link::Fetched => {
                let size = |connection: &_| names::referenced_size(connection, place, kind, digest);
                Right::Fetched { size: self.read("read link", size).flatten() }
            }
            Link::Referenced { size } => {
                let all = self.referrers(digest);
                Right::Referenced {
                    size,
                    origins: origins_among(&all),
                    claimants: all.into_iter().map(|(name, _)| name).collect(),
                }
            }
            Link::None => Right::None,
        }
    }

    #[cfg(test)]
    fn origins(&self, digest: &Digest) -> Vec<UpstreamName> {
        origins_among(&self.referrers(digest))
    }

    /// The upstreams of which a repository refers to the digest, and whether it was fetched from them.
    fn referrers(&self, digest: &Digest) -> Vec<(UpstreamName, bool)> {
        self.read("read origins", |connection| names::origins(connection, digest)).unwrap_or_default()
    }

    pub(super) fn read<T>(&self, what: &'static str, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        self.database.read(work).inspect_err(|error| self.health.catalog_error(what, error)).ok()
    }

    pub(super) fn write(&self, what: &'static str, work: impl FnMut(&Connection) -> rusqlite::Result<()> + Send + 'static) {
        if let Err(error) = self.database.write(work) {
            self.health.catalog_error(what, &error);
        }
    }
}

/// The upstreams that a content was fetched from. If there is none, then the one that refers to it, if that is one only.
fn origins_among(all: &[(UpstreamName, bool)]) -> Vec<UpstreamName> {
    match all {
        [(only, _)] => vec![only.clone()],
        _ => all.iter().filter(|(_, fetched)| *fetched).map(|(upstream, _)| upstream.clone()).collect(),
    }
}
