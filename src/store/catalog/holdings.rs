//! What repositories hold, from the repository's side and from the content's: the statements that a removal needs besides those of
//! the tables themselves.

use rusqlite::{Connection, Row, params};

use super::contents::{digest_column, size_column};
use super::names::{Place, parsed_column};
use super::{Kind, edges};
use crate::oci::{Digest, Tag};
use crate::store::name::Name;

/// A repository, and the number that stands for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Holder {
    pub(in crate::store) id: i64,
    pub(in crate::store) place: Place,
}

/// The repositories that are known below `name`: one for the name of an image, none for that of a content.
pub(in crate::store) fn repositories(connection: &Connection, name: &Name) -> rusqlite::Result<Vec<Holder>> {
    match name {
        Name::Upstream(upstream) => connection
            .prepare_cached("SELECT id, upstream, name FROM repository WHERE upstream = ?")?
            .query_map([upstream.as_str()], holder)?
            .collect(),
        Name::Repository { upstream, repository } => connection
            .prepare_cached(
                "SELECT id, upstream, name FROM repository
                 WHERE upstream = ?1 AND (name = ?2 OR substr(name, 1, length(?2) + 1) = ?2 || '/')",
            )?
            .query_map([upstream.as_str(), repository.as_str()], holder)?
            .collect(),
        Name::Image { upstream, repository, .. } => connection
            .prepare_cached("SELECT id, upstream, name FROM repository WHERE upstream = ? AND name = ?")?
            .query_map([upstream.as_str(), repository.as_str()], holder)?
            .collect(),
        Name::Content(_) => Ok(Vec::new()),
    }
}

/// The tags of a repository, and what they point to.
pub(in crate::store) fn tags(connection: &Connection, repository: i64) -> rusqlite::Result<Vec<(Tag, Digest)>> {
    connection
        .prepare_cached("SELECT name, digest FROM tag WHERE repository = ? ORDER BY name")?
        .query_map([repository], |row| Ok((parsed_column(row, 0)?, digest_column(row, 1)?)))?
        .collect()
}

/// The manifests that were fetched from a repository.
pub(in crate::store) fn manifests(connection: &Connection, repository: i64) -> rusqlite::Result<Vec<Digest>> {
    connection
        .prepare_cached("SELECT digest FROM link WHERE repository = ? AND kind = ? AND fetched ORDER BY digest")?
        .query_map([repository, Kind::Manifest.column()], |row| digest_column(row, 0))?
        .collect()
}

/// All that a repository has a link to.
pub(in crate::store) fn linked(connection: &Connection, repository: i64) -> rusqlite::Result<Vec<Digest>> {
    connection
        .prepare_cached("SELECT DISTINCT digest FROM link WHERE repository = ? ORDER BY digest")?
        .query_map([repository], |row| digest_column(row, 0))?
        .collect()
}

/// The tags that point to a manifest.
pub(in crate::store) fn tags_of(connection: &Connection, digest: &Digest) -> rusqlite::Result<Vec<(Holder, Tag)>> {
    connection
        .prepare_cached(
            "SELECT id, repository.upstream, repository.name, tag.name FROM tag JOIN repository ON id = tag.repository
             WHERE digest = ? ORDER BY 2, 3, 4",
        )?
        .query_map([digest.as_bytes()], |row| Ok((holder(row)?, parsed_column(row, 3)?)))?
        .collect()
}

/// The repositories that a manifest was fetched from.
pub(in crate::store) fn holders(connection: &Connection, digest: &Digest) -> rusqlite::Result<Vec<Holder>> {
    connection
        .prepare_cached(
            "SELECT id, upstream, name FROM link JOIN repository ON id = repository
             WHERE digest = ? AND kind = ? AND fetched ORDER BY 2, 3",
        )?
        .query_map(params![digest.as_bytes(), Kind::Manifest.column()], holder)?
        .collect()
}

/// How many images there are: tags, and manifests at rest that neither a tag nor another manifest of the repository leads to.
pub(in crate::store) fn count_images(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(
            "SELECT (SELECT count(*) FROM tag) + count(*) FROM link JOIN blob ON blob.digest = link.digest
             WHERE link.kind = ?1 AND link.fetched
             AND NOT EXISTS (SELECT 1 FROM tag WHERE tag.digest = link.digest AND tag.repository = link.repository)
             AND NOT EXISTS (SELECT 1 FROM edge JOIN link AS parent ON parent.digest = edge.parent
                             AND parent.repository = link.repository AND parent.kind = ?1 WHERE edge.child = link.digest)",
        )?
        .query_row([Kind::Manifest.column()], |row| size_column(row, 0))
}

/// Forgets what a repository holds, and what its upstream said of it.
pub(in crate::store) fn forget_repository(connection: &Connection, repository: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM link WHERE repository = ?")?.execute([repository])?;
    connection.prepare_cached("DELETE FROM listing WHERE repository = ?")?.execute([repository]).map(drop)
}

/// Forgets that a repository holds a content.
pub(in crate::store) fn forget(connection: &Connection, repository: i64, digest: &Digest) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM link WHERE digest = ? AND repository = ?")?
        .execute(params![digest.as_bytes(), repository])
        .map(drop)
}

/// Forgets what a manifest is, if no repository is known to have it any more.
pub(in crate::store) fn forget_manifest(connection: &Connection, digest: &Digest) -> rusqlite::Result<()> {
    if holders(connection, digest)?.is_empty() {
        connection.prepare_cached("DELETE FROM manifest WHERE digest = ?")?.execute([digest.as_bytes()])?;
        edges::remove_from(connection, digest)?;
    }
    Ok(())
}

fn holder(row: &Row<'_>) -> rusqlite::Result<Holder> {
    let place = Place { upstream: parsed_column(row, 1)?, repository: parsed_column(row, 2)? };
    Ok(Holder { id: row.get(0)?, place })
}
