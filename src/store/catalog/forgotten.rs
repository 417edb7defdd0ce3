//! What is known by name of content that is gone, and the statements that forget it. Nothing in here looks at the disk.

use rusqlite::{Connection, params};

use super::contents::{self, digest_column};
use super::holdings::{self, Holder};
use super::names::{self, Place};
use super::{Kind, edges, pins};
use crate::oci::{Digest, Tag};

/// The names of a manifest that is gone: tags that point to it, and the repositories that it was fetched from.
#[derive(Debug)]
pub(in crate::store) struct Names {
    pub(in crate::store) digest: Digest,
    pub(in crate::store) tags: Vec<(Place, Tag)>,
    pub(in crate::store) places: Vec<Place>,
}

/// Where something may be known of content that is gone.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum Source {
    Links,
    Tags,
    Manifests,
}

impl Source {
    pub(in crate::store) const ALL: [Self; 3] = [Self::Links, Self::Tags, Self::Manifests];

    /// What a manifest refers to stays known as long as that is: it tells its size.
    const fn sql(self) -> &'static str {
        macro_rules! gone {
            ($table:literal, $condition:literal) => {
                concat!(
                    "SELECT DISTINCT digest FROM ",
                    $table,
                    " AS known WHERE digest BETWEEN ?1 AND ?2 AND NOT EXISTS (SELECT 1 FROM blob WHERE blob.digest = known.digest)
                     AND NOT EXISTS (SELECT 1 FROM pinned WHERE pinned.digest = known.digest)",
                    $condition
                )
            };
        }
        match self {
            Self::Links => {
                gone!("link", " AND ((kind = 0 AND fetched) OR NOT EXISTS (SELECT 1 FROM edge WHERE edge.child = known.digest))")
            }
            Self::Tags => gone!("tag", ""),
            Self::Manifests => gone!("manifest", ""),
        }
    }
}

/// The contents whose digests begin with the byte `first` of which something is known though they are neither at rest nor pinned.
pub(in crate::store) fn beginning_with(connection: &Connection, source: Source, first: u8) -> rusqlite::Result<Vec<Digest>> {
    let (least, most) = contents::bounds(first);
    connection
        .prepare_cached(source.sql())?
        .query_map(params![least.as_slice(), most.as_slice()], |row| digest_column(row, 0))?
        .collect()
}

/// The names of those of the contents that are neither at rest nor pinned.
pub(in crate::store) fn names(connection: &Connection, digests: &[Digest]) -> rusqlite::Result<Vec<Names>> {
    let mut names = Vec::new();
    for digest in digests {
        if is_gone(connection, digest)? {
            let tags = holdings::tags_of(connection, digest)?.into_iter().map(|(holder, tag)| (holder.place, tag)).collect();
            let places = holdings::holders(connection, digest)?.into_iter().map(|Holder { place, .. }| place).collect();
            names.push(Names { digest: *digest, tags, places });
        }
    }
    Ok(names)
}

/// Forgets these names.
pub(in crate::store) fn forget_names(connection: &Connection, gone: &Names) -> rusqlite::Result<()> {
    gone.tags.iter().try_for_each(|(place, tag)| names::remove_tag(connection, place, tag))?;
    let is_part = edges::has_parent(connection, &gone.digest)?;
    for place in &gone.places {
        match is_part {
            // As it would be known from the manifest that it belongs to.
            true => names::weaken(connection, place, Kind::Manifest, &gone.digest)?,
            false => names::unlink(connection, place, Kind::Manifest, &gone.digest)?,
        }
    }
    Ok(())
}

/// Forgets what else is known of content that is gone, and what is known only from it; but nothing of content that has names. Tells
/// whether it has.
pub(in crate::store) fn forget_content(connection: &Connection, digest: &Digest) -> rusqlite::Result<bool> {
    if has_names(connection, digest)? {
        return Ok(true);
    }
    if is_gone(connection, digest)? {
        let children = edges::children(connection, digest)?;
        holdings::forget_manifest(connection, digest)?;
        children.iter().chain([digest]).try_for_each(|digest| forget_links(connection, digest))?;
    }
    Ok(false)
}

/// Forgets where content that is gone has been, unless it has names, or a manifest refers to it.
fn forget_links(connection: &Connection, digest: &Digest) -> rusqlite::Result<()> {
    if !is_gone(connection, digest)? || has_names(connection, digest)? || edges::has_parent(connection, digest)? {
        return Ok(());
    }
    let repositories = connection
        .prepare_cached("DELETE FROM link WHERE digest = ? RETURNING repository")?
        .query_map([digest.as_bytes()], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<i64>>>()?;
    names::forget_unused(connection, repositories)
}

/// Whether there may be refs of it: they go first.
fn has_names(connection: &Connection, digest: &Digest) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM link WHERE digest = ?1 AND kind = ?2 AND fetched UNION ALL SELECT 1 FROM tag WHERE digest = ?1 LIMIT 1",
        )?
        .exists(params![digest.as_bytes(), Kind::Manifest.column()])
}

fn is_gone(connection: &Connection, digest: &Digest) -> rusqlite::Result<bool> {
    Ok(contents::get(connection, digest)?.is_none() && !pins::is_pinned(connection, digest)?)
}
