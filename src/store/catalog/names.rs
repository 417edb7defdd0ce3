//! The tables of names: repositories, their tags, and which digests they are known to hold. One function per statement.
//! Nothing in here touches what is at rest.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::contents::{self, digest_column, size_column, to_column};
use super::{Kind, Link, TagRecord, edges, pins};
use crate::oci::{Digest, Manifest, MediaType, Reference, RepositoryName, Tag, UpstreamName};

/// A repository of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::store) struct Place {
    pub(in crate::store) upstream: UpstreamName,
    pub(in crate::store) repository: RepositoryName,
}

/// Finds the row of this repository in a condition on `repository`.
macro_rules! here {
    () => {
        "(SELECT id FROM repository WHERE upstream = ?1 AND name = ?2)"
    };
}

pub(super) fn tag(connection: &Connection, place: &Place, tag: &Tag) -> rusqlite::Result<Option<TagRecord>> {
    let row = |row: &Row<'_>| {
        Ok(TagRecord {
            digest: digest_column(row, 0)?,
            media_type: parsed_column(row, 1)?,
            size: size_column(row, 2)?,
            checked_at: row.get(3)?,
        })
    };
    connection
        .prepare_cached(concat!(
            "SELECT digest, media_type, size, checked_at FROM tag WHERE repository = ",
            here!(),
            " AND name = ?3"
        ))?
        .query_row(params![place.upstream.as_str(), place.repository.as_str(), tag.as_str()], row)
        .optional()
}

pub(super) fn set_tag(connection: &Connection, place: &Place, tag: &Tag, record: &TagRecord) -> rusqlite::Result<()> {
    let repository = intern(connection, place)?;
    let before = self::tag(connection, place, tag)?.map(|record| record.digest);
    let TagRecord { digest, media_type, size, checked_at } = record;
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO tag (repository, name, digest, media_type, size, checked_at) VALUES (?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![repository, tag.as_str(), digest.as_bytes(), media_type.as_str(), to_column(*size), checked_at])?;
    if before == Some(*digest) || !pins::covers(connection, place, &Reference::Tag(tag.clone()))? {
        return Ok(());
    }
    pins::extend(connection, [*digest])?;
    before.map_or(Ok(()), |before| pins::let_go(connection, before))
}

pub(super) fn remove_tag(connection: &Connection, place: &Place, tag: &Tag) -> rusqlite::Result<()> {
    let before = self::tag(connection, place, tag)?;
    connection.prepare_cached(concat!("DELETE FROM tag WHERE repository = ", here!(), " AND name = ?3"))?.execute(params![
        place.upstream.as_str(),
        place.repository.as_str(),
        tag.as_str()
    ])?;
    match before {
        Some(before) if pins::covers(connection, place, &Reference::Tag(tag.clone()))? => pins::let_go(connection, before.digest),
        _ => Ok(()),
    }
}

pub(super) fn media_type(connection: &Connection, digest: &Digest) -> rusqlite::Result<Option<MediaType>> {
    connection
        .prepare_cached("SELECT media_type FROM manifest WHERE digest = ?")?
        .query_row([digest.as_bytes()], |row| parsed_column(row, 0))
        .optional()
}

/// Notes a manifest that was fetched from `place`, and, if it could be read, what it refers to.
pub(super) fn add_manifest(
    connection: &Connection,
    place: &Place,
    digest: &Digest,
    media_type: &MediaType,
    size: Option<u64>,
    content: Option<&Manifest>,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO manifest (digest, media_type) VALUES (?, ?)")?
        .execute(params![digest.as_bytes(), media_type.as_str()])?;
    contents::note_manifest(connection, digest)?;
    let repository = intern(connection, place)?;
    put_link(connection, repository, Kind::Manifest, digest, true, size)?;
    if let Some(content) = content {
        add_content(connection, repository, digest, content)?;
    }
    if pins::is_pinned(connection, digest)? || pins::covers(connection, place, &Reference::Digest(*digest))? {
        pins::extend(connection, [*digest])?;
    }
    Ok(())
}

/// Notes what a manifest of the repository refers to.
fn add_content(connection: &Connection, repository: i64, digest: &Digest, content: &Manifest) -> rusqlite::Result<()> {
    let manifests = content.manifests.iter().map(|child| (Kind::Manifest, child));
    let blobs = content.blobs.iter().map(|blob| (Kind::Blob, blob));
    manifests.chain(blobs).try_for_each(|(kind, descriptor)| {
        edges::add(connection, digest, &descriptor.digest)?;
        put_link(connection, repository, kind, &descriptor.digest, false, Some(descriptor.size))
    })
}

/// Notes that `place` answered for the digest.
pub(super) fn link(connection: &Connection, place: &Place, kind: Kind, digest: &Digest) -> rusqlite::Result<()> {
    put_link(connection, intern(connection, place)?, kind, digest, true, None)
}

pub(super) fn unlink(connection: &Connection, place: &Place, kind: Kind, digest: &Digest) -> rusqlite::Result<()> {
    connection
        .prepare_cached(concat!("DELETE FROM link WHERE repository = ", here!(), " AND kind = ?3 AND digest = ?4"))?
        .execute(params![place.upstream.as_str(), place.repository.as_str(), kind.column(), digest.as_bytes()])?;
    if kind == Kind::Manifest && pins::covers(connection, place, &Reference::Digest(*digest))? {
        pins::let_go(connection, *digest)?;
    }
    Ok(())
}

/// Forgets that the digest was fetched from `place`, but not that it is known there.
pub(super) fn weaken(connection: &Connection, place: &Place, kind: Kind, digest: &Digest) -> rusqlite::Result<()> {
    connection
        .prepare_cached(concat!("UPDATE link SET fetched = 0 WHERE repository = ", here!(), " AND kind = ?3 AND digest = ?4"))?
        .execute(params![place.upstream.as_str(), place.repository.as_str(), kind.column(), digest.as_bytes()])
        .map(drop)
}

pub(super) fn linked(connection: &Connection, place: &Place, kind: Kind, digest: &Digest) -> rusqlite::Result<Link> {
    let row = |row: &Row<'_>| Ok(if row.get(0)? { Link::Fetched } else { Link::Referenced { size: size_column(row, 1)? } });
    connection
        .prepare_cached(concat!(
            "SELECT fetched, coalesce(size, 0) FROM link WHERE repository = ",
            here!(),
            " AND kind = ?3 AND digest = ?4"
        ))?
        .query_row(params![place.upstream.as_str(), place.repository.as_str(), kind.column(), digest.as_bytes()], row)
        .optional()
        .map(|link| link.unwrap_or(Link::None))
}

pub(super) fn referenced_size(
    connection: &Connection,
    place: &Place,
    kind: Kind,
    digest: &Digest,
) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached(concat!(
            "SELECT size FROM link WHERE size IS NOT NULL AND repository = ",
            here!(),
            " AND kind = ?3 AND digest = ?4"
        ))?
        .query_row(params![place.upstream.as_str(), place.repository.as_str(), kind.column(), digest.as_bytes()], |row| {
            size_column(row, 0)
        })
        .optional()
}

/// The upstreams that have a link to the digest, and whether it was fetched from them.
pub(super) fn origins(connection: &Connection, digest: &Digest) -> rusqlite::Result<Vec<(UpstreamName, bool)>> {
    connection
        .prepare_cached(
            "SELECT upstream, max(fetched) FROM link JOIN repository ON id = repository
             WHERE digest = ? GROUP BY upstream ORDER BY upstream",
        )?
        .query_map([digest.as_bytes()], |row| Ok((parsed_column(row, 0)?, row.get(1)?)))?
        .collect()
}

/// Up to `limit` repositories that have a link to the digest.
pub(super) fn places(connection: &Connection, digest: &Digest, limit: usize) -> rusqlite::Result<Vec<Place>> {
    connection
        .prepare_cached("SELECT DISTINCT upstream, name FROM link JOIN repository ON id = repository WHERE digest = ? LIMIT ?")?
        .query_map(params![digest.as_bytes(), to_column(limit as u64)], |row| {
            Ok(Place { upstream: parsed_column(row, 0)?, repository: parsed_column(row, 1)? })
        })?
        .collect()
}

/// A link is never made weaker, and keeps the size that it has.
fn put_link(
    connection: &Connection,
    repository: i64,
    kind: Kind,
    digest: &Digest,
    fetched: bool,
    size: Option<u64>,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO link (digest, repository, kind, fetched, size) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT (digest, repository, kind) DO UPDATE SET
                 fetched = max(fetched, excluded.fetched), size = coalesce(size, excluded.size)
             WHERE fetched < excluded.fetched OR size IS NULL",
        )?
        .execute(params![digest.as_bytes(), repository, kind.column(), fetched, size.map(to_column)])
        .map(drop)
}

/// The number that stands for the repository.
pub(super) fn intern(connection: &Connection, place: &Place) -> rusqlite::Result<i64> {
    let names = params![place.upstream.as_str(), place.repository.as_str()];
    let known = connection
        .prepare_cached("SELECT id FROM repository WHERE upstream = ?1 AND name = ?2")?
        .query_row(names, |row| row.get(0))
        .optional()?;
    match known {
        Some(id) => Ok(id),
        None => connection
            .prepare_cached("INSERT INTO repository (upstream, name) VALUES (?1, ?2) RETURNING id")?
            .query_row(names, |row| row.get(0)),
    }
}

/// Forgets those of these repositories of which nothing is known any more: clients can name any number of them.
pub(super) fn forget_unused(connection: &Connection, mut repositories: Vec<i64>) -> rusqlite::Result<()> {
    repositories.sort_unstable();
    repositories.dedup();
    let mut forget = connection.prepare_cached(
        "DELETE FROM repository WHERE id = ?1
         AND NOT EXISTS (SELECT 1 FROM tag WHERE repository = ?1) AND NOT EXISTS (SELECT 1 FROM link WHERE repository = ?1)
         AND NOT EXISTS (SELECT 1 FROM listing WHERE repository = ?1) AND NOT EXISTS (SELECT 1 FROM wanted WHERE repository = ?1)",
    )?;
    repositories.into_iter().try_for_each(|id| forget.execute([id]).map(drop))
}

/// A text that was parsed before it was stored.
pub(super) fn parsed_column<T>(row: &Row<'_>, index: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let value = row.get_ref(index)?;
    value
        .as_str()?
        .parse()
        .map_err(|error: T::Err| rusqlite::Error::FromSqlConversionFailure(index, value.data_type(), Box::new(error)))
}
