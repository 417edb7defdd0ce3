//! A look into a store's folder from outside, for tools: it takes no lock, changes nothing, and works beside a process that has the
//! folder as well as without one. What it shows is how things were a moment ago.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::blobs::read_manifest;
use super::catalog::contents::digest_column;
use super::catalog::{CatalogError, Kind, schema};
use super::filesystem::{FileSystem, OsFileSystem};
use super::layout::Layout;
use crate::oci::{Digest, Manifest, MediaType, Reference, RepositoryName, Tag, UpstreamName};

/// A folder that is looked into.
pub struct Inspection {
    connection: Connection,
    layout: Layout,
    fs: Arc<dyn FileSystem>,
}

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("there is no cache at {}", .0.display())]
    NoStore(PathBuf),
    #[error("the catalog of the cache is of another version; the next start of this version makes a new one")]
    OtherVersion,
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// An image that a tag names, or a manifest that was pulled by its digest and that nothing else here names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub upstream: UpstreamName,
    pub repository: RepositoryName,
    pub tag: Option<Tag>,
    pub digest: Digest,
    /// Bytes that are here of all that belongs to it, manifests included.
    pub size: u64,
    /// How many of its contents are not here. Platforms of an index that nobody has asked for do not count.
    pub missing: u64,
    /// A pin keeps it.
    pub is_pinned: bool,
    /// When its manifest was last asked for, in milliseconds since 1970-01-01 UTC, give or take ten minutes.
    pub pulled_at: Option<i64>,
    /// When its manifest came to rest here, in milliseconds since 1970-01-01 UTC.
    pub stored_at: Option<i64>,
    /// When the upstream last said that the tag names it, likewise.
    pub checked_at: Option<i64>,
}

/// Something that was asked for, was not here, and could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub upstream: UpstreamName,
    pub repository: RepositoryName,
    pub kind: Kind,
    pub reference: Reference,
    /// When it was first and last asked for, in milliseconds since 1970-01-01 UTC.
    pub first_at: i64,
    pub last_at: i64,
    /// How often that was noted: once in a minute at the most.
    pub times: u64,
}

/// What is at rest, by its digest.
struct Shelf<'a> {
    inspection: &'a Inspection,
    at_rest: HashMap<Digest, Option<u64>>,
}

impl Inspection {
    /// Opens the folder `dir` of a store.
    ///
    /// # Errors
    /// [`InspectError`] if there is none, or it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, InspectError> {
        let layout = Layout::new(dir.to_owned());
        if !layout.catalog().exists() {
            return Err(InspectError::NoStore(dir.to_owned()));
        }
        let connection = schema::open_for_reading(&layout.catalog()).map_err(CatalogError::from)?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(CatalogError::from)?;
        if version != schema::VERSION {
            return Err(InspectError::OtherVersion);
        }
        Ok(Self { connection, layout, fs: Arc::new(OsFileSystem) })
    }

    /// Everything that can be pulled by a name, ordered by upstream, repository and tag.
    ///
    /// # Errors
    /// [`InspectError::Catalog`] if the catalog cannot be read.
    pub fn images(&self) -> Result<Vec<Image>, InspectError> {
        let mut shelf = Shelf { inspection: self, at_rest: HashMap::new() };
        let mut named: HashSet<(String, Digest)> = HashSet::new();
        let mut images = Vec::new();
        for row in self.tags().map_err(CatalogError::from)? {
            let manifest = shelf.document(&row.digest, &row.media_type);
            named.insert((row.place.clone(), row.digest));
            named.extend(manifest.iter().flat_map(|manifest| &manifest.manifests).map(|child| (row.place.clone(), child.digest)));
            images.extend(shelf.image(row));
        }
        let rows = self.manifests().map_err(CatalogError::from)?;
        // What an index lists is part of it.
        for row in &rows {
            if let Some(manifest) = shelf.document(&row.digest, &row.media_type) {
                named.extend(manifest.manifests.iter().map(|child| (row.place.clone(), child.digest)));
            }
        }
        let unnamed = rows.into_iter().filter(|row| !named.contains(&(row.place.clone(), row.digest)));
        images.extend(unnamed.filter_map(|row| shelf.image(row)));
        images.sort_by(|one, other| {
            let key = |image: &Image| {
                (
                    image.upstream.to_string(),
                    image.repository.to_string(),
                    image.tag.as_ref().map(Tag::to_string),
                    image.digest.hex(),
                )
            };
            key(one).cmp(&key(other))
        });
        Ok(images)
    }

    /// What was asked for in vain and is not here yet; what was asked for last comes first.
    ///
    /// # Errors
    /// [`InspectError::Catalog`] if the catalog cannot be read.
    pub fn wanted(&self) -> Result<Vec<Wanted>, InspectError> {
        let mut shelf = Shelf { inspection: self, at_rest: HashMap::new() };
        let mut wanted = self.noted_as_wanted().map_err(CatalogError::from)?;
        let tags: HashMap<(String, Option<String>), Digest> =
            self.tags().map_err(CatalogError::from)?.into_iter().map(|row| ((row.place, row.tag), row.digest)).collect();
        wanted.retain(|wanted| match &wanted.reference {
            Reference::Digest(digest) if wanted.kind == Kind::Blob => shelf.size(digest).is_none(),
            Reference::Digest(digest) => shelf.size(digest).is_none() || shelf.is_incomplete(digest),
            Reference::Tag(tag) => {
                let place = format!("{}/{}", wanted.upstream, wanted.repository);
                tags.get(&(place, Some(tag.to_string()))).is_none_or(|digest| shelf.is_incomplete(digest))
            }
        });
        Ok(wanted)
    }

    fn noted_as_wanted(&self) -> rusqlite::Result<Vec<Wanted>> {
        let mut statement = self.connection.prepare(
            "SELECT repository.upstream, repository.name, wanted.kind, wanted.reference, first_at, last_at, times
             FROM wanted JOIN repository ON repository.id = wanted.repository ORDER BY wanted.number DESC",
        )?;
        let rows = statement.query_map([], |row| {
            let (upstream, repository, reference): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(3)?);
            let names = (upstream.parse(), repository.parse(), reference.parse());
            let (Ok(upstream), Ok(repository), Ok(reference)) = names else { return Ok(None) };
            let kind = if row.get::<_, i64>(2)? == Kind::Blob.column() { Kind::Blob } else { Kind::Manifest };
            let (first_at, last_at) = (row.get(4)?, row.get(5)?);
            let times = row.get::<_, i64>(6)?.unsigned_abs();
            Ok(Some(Wanted { upstream, repository, kind, reference, first_at, last_at, times }))
        })?;
        rows.filter_map(Result::transpose).collect()
    }

    /// Bytes of all content at rest, named or not.
    ///
    /// # Errors
    /// [`InspectError::Catalog`] if the catalog cannot be read.
    pub fn bytes(&self) -> Result<u64, InspectError> {
        let bytes = self.connection.query_row("SELECT coalesce(sum(size), 0) FROM blob", [], |row| row.get::<_, i64>(0));
        Ok(bytes.map_err(CatalogError::from)?.unsigned_abs())
    }

    fn tags(&self) -> rusqlite::Result<Vec<Row>> {
        self.rows(
            "SELECT repository.upstream, repository.name, tag.name, tag.digest, tag.media_type, tag.checked_at, blob.accessed_at,
                    EXISTS (SELECT 1 FROM pinned WHERE pinned.digest = tag.digest)
             FROM tag JOIN repository ON repository.id = tag.repository LEFT JOIN blob ON blob.digest = tag.digest",
        )
    }

    fn manifests(&self) -> rusqlite::Result<Vec<Row>> {
        self.rows(
            "SELECT repository.upstream, repository.name, NULL, link.digest, manifest.media_type, NULL, blob.accessed_at,
                    EXISTS (SELECT 1 FROM pinned WHERE pinned.digest = link.digest)
             FROM link JOIN repository ON repository.id = link.repository
             JOIN manifest ON manifest.digest = link.digest JOIN blob ON blob.digest = link.digest
             WHERE link.fetched",
        )
    }

    fn rows(&self, sql: &str) -> rusqlite::Result<Vec<Row>> {
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map([], |row| {
            let (upstream, repository): (String, String) = (row.get(0)?, row.get(1)?);
            Ok(Row {
                place: format!("{upstream}/{repository}"),
                upstream,
                repository,
                tag: row.get(2)?,
                digest: digest_column(row, 3)?,
                media_type: row.get(4)?,
                checked_at: row.get(5)?,
                pulled_at: row.get(6)?,
                is_pinned: row.get(7)?,
            })
        })?;
        rows.collect()
    }
}

/// A row of the catalog, not parsed yet.
struct Row {
    place: String,
    upstream: String,
    repository: String,
    tag: Option<String>,
    digest: Digest,
    media_type: String,
    checked_at: Option<i64>,
    pulled_at: Option<i64>,
    is_pinned: bool,
}

impl Shelf<'_> {
    fn image(&mut self, row: Row) -> Option<Image> {
        let (size, missing) = self.weigh(&row.digest, &row.media_type);
        Some(Image {
            upstream: row.upstream.parse().ok()?,
            repository: row.repository.parse().ok()?,
            tag: row.tag.map(|tag| tag.parse()).transpose().ok()?,
            digest: row.digest,
            size,
            missing,
            is_pinned: row.is_pinned,
            pulled_at: row.pulled_at,
            stored_at: self.stored_at(&row.digest),
            checked_at: row.checked_at,
        })
    }

    /// Bytes that are here of an image, and how many of its contents are not.
    fn weigh(&mut self, digest: &Digest, media_type: &str) -> (u64, u64) {
        let mut contents: BTreeMap<Digest, Option<u64>> = BTreeMap::new();
        contents.insert(*digest, self.size(digest));
        let manifest = self.document(digest, media_type).unwrap_or_default();
        let mut images = vec![manifest.blobs];
        for child in manifest.manifests {
            // A platform that nobody has asked for.
            let Some(size) = self.size(&child.digest) else { continue };
            contents.insert(child.digest, Some(size));
            if let Some(manifest) = self.media_type(&child.digest).and_then(|kind| self.document(&child.digest, &kind)) {
                images.push(manifest.blobs);
            }
        }
        for blob in images.into_iter().flatten().filter(|blob| !blob.is_foreign) {
            contents.insert(blob.digest, self.size(&blob.digest));
        }
        let missing = contents.values().filter(|size| size.is_none()).count() as u64;
        (contents.values().flatten().sum(), missing)
    }

    /// When a content came to rest: its file is not written again.
    fn stored_at(&self, digest: &Digest) -> Option<i64> {
        self.inspection.fs.metadata(&self.inspection.layout.blob(digest)).ok().map(|file| file.written_at)
    }

    /// Whether something of the image is not here.
    fn is_incomplete(&mut self, digest: &Digest) -> bool {
        let Some(media_type) = self.media_type(digest) else { return true };
        let (_, missing) = self.weigh(digest, &media_type);
        missing > 0
    }

    /// The size of a content that is at rest, in bytes.
    fn size(&mut self, digest: &Digest) -> Option<u64> {
        let connection = &self.inspection.connection;
        *self.at_rest.entry(*digest).or_insert_with(|| {
            let size = connection
                .prepare_cached("SELECT size FROM blob WHERE digest = ?")
                .and_then(|mut statement| statement.query_row([digest.as_bytes()], |row| row.get::<_, i64>(0)).optional());
            size.ok().flatten().map(i64::unsigned_abs)
        })
    }

    fn media_type(&self, digest: &Digest) -> Option<String> {
        let connection = &self.inspection.connection;
        let mut statement = connection.prepare_cached("SELECT media_type FROM manifest WHERE digest = ?").ok()?;
        statement.query_row([digest.as_bytes()], |row| row.get(0)).ok()
    }

    fn document(&self, digest: &Digest, media_type: &str) -> Option<Manifest> {
        let media_type: MediaType = media_type.parse().ok()?;
        let bytes = read_manifest(&*self.inspection.fs, &self.inspection.layout, digest)?;
        Manifest::inspect(&bytes, &media_type).ok()
    }
}
