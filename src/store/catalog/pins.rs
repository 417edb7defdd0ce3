//! The tables of pins: the names that an operator pinned, and all content that this keeps. What a pin keeps is worked out when a pin,
//! a tag or an edge changes, never when something is evicted. Nothing in here writes the refs that pins are made from.

use std::collections::BTreeSet;

use rusqlite::{Connection, Row, params};

use super::contents::{self, digest_column, size_column};
use super::edges;
use super::names::{Place, parsed_column};
use super::queues::{self, PINNED};
use crate::oci::{Digest, Reference};
use crate::store::eviction::policy::Queue;
use crate::store::name::Pin;

/// Finds the repositories of a pin of `?1` and `?2`: the one of that name, and those whose names continue it.
macro_rules! below {
    () => {
        "(SELECT id FROM repository
          WHERE upstream = ?1 AND (name = ?2 OR substr(name, 1, length(?2) + 1) = ?2 || '/'))"
    };
}

/// All pins, by name.
pub(in crate::store) fn all(connection: &Connection) -> rusqlite::Result<Vec<Pin>> {
    let pin = |row: &Row<'_>| {
        let reference: String = row.get(2)?;
        let reference = if reference.is_empty() { None } else { Some(parsed_column(row, 2)?) };
        Ok(Pin { upstream: parsed_column(row, 0)?, repository: parsed_column(row, 1)?, reference })
    };
    connection
        .prepare_cached("SELECT upstream, repository, reference FROM pin ORDER BY upstream, repository, reference")?
        .query_map([], pin)?
        .collect()
}

/// Enters a pin, and keeps what it names and what belongs to that.
pub(in crate::store) fn set(connection: &Connection, pin: &Pin) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO pin (upstream, repository, reference) VALUES (?, ?, ?)")?
        .execute(params![pin.upstream.as_str(), pin.repository.as_str(), reference_column(pin)])?;
    extend(connection, roots(connection, pin)?)
}

pub(in crate::store) fn has(connection: &Connection, pin: &Pin) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM pin WHERE upstream = ? AND repository = ? AND reference = ?")?.exists(params![
        pin.upstream.as_str(),
        pin.repository.as_str(),
        reference_column(pin)
    ])
}

/// Takes a pin away, and lets go of what no other keeps.
pub(in crate::store) fn remove(connection: &Connection, pin: &Pin) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM pin WHERE upstream = ? AND repository = ? AND reference = ?")?.execute(params![
        pin.upstream.as_str(),
        pin.repository.as_str(),
        reference_column(pin)
    ])?;
    renew(connection)
}

/// Whether a pin is for `reference` of the repository, or for all of it.
pub(in crate::store) fn covers(connection: &Connection, place: &Place, reference: &Reference) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM pin WHERE upstream = ?1 AND ((repository = ?2 AND reference IN ('', ?3))
             OR (reference = '' AND substr(?2, 1, length(repository) + 1) = repository || '/')) LIMIT 1",
        )?
        .exists(params![place.upstream.as_str(), place.repository.as_str(), reference.to_string()])
}

/// Whether a pin keeps the content.
pub(in crate::store) fn is_pinned(connection: &Connection, digest: &Digest) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM pinned WHERE digest = ?")?.exists([digest.as_bytes()])
}

/// Keeps these and all that they refer to.
pub(super) fn extend(connection: &Connection, roots: impl IntoIterator<Item = Digest>) -> rusqlite::Result<()> {
    edges::closure(connection, roots)?.iter().try_for_each(|digest| keep(connection, digest))
}

/// Works out anew what the pins keep, and lets go of the rest.
pub(in crate::store) fn renew(connection: &Connection) -> rusqlite::Result<()> {
    let mut keeping = Vec::new();
    for pin in all(connection)? {
        keeping.extend(roots(connection, &pin)?);
    }
    let after = edges::closure(connection, keeping)?;
    let before: BTreeSet<Digest> = connection
        .prepare_cached("SELECT digest FROM pinned")?
        .query_map([], |row| digest_column(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    before.difference(&after).try_for_each(|digest| release(connection, digest))?;
    after.difference(&before).try_for_each(|digest| keep(connection, digest))
}

/// What the pin names, as far as is known: what its tags point to, and the manifests that were fetched by their digests.
pub(in crate::store) fn roots(connection: &Connection, pin: &Pin) -> rusqlite::Result<Vec<Digest>> {
    let (upstream, repository) = (pin.upstream.as_str(), pin.repository.as_str());
    let digest = |row: &Row<'_>| digest_column(row, 0);
    match &pin.reference {
        Some(Reference::Digest(digest)) => Ok(vec![*digest]),
        Some(Reference::Tag(tag)) => connection
            .prepare_cached(
                "SELECT digest FROM tag WHERE name = ?3
                 AND repository = (SELECT id FROM repository WHERE upstream = ?1 AND name = ?2)",
            )?
            .query_map(params![upstream, repository, tag.as_str()], digest)?
            .collect(),
        None => connection
            .prepare_cached(concat!(
                "SELECT digest FROM tag WHERE repository IN ",
                below!(),
                " UNION SELECT digest FROM link WHERE kind = 0 AND fetched AND repository IN ",
                below!()
            ))?
            .query_map(params![upstream, repository], digest)?
            .collect(),
    }
}

/// Bytes and number of the content at rest that is pinned.
pub(in crate::store) fn total(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    connection
        .prepare_cached("SELECT bytes, blobs FROM queue WHERE number = ?")?
        .query_row([PINNED], |row| Ok((size_column(row, 0)?, size_column(row, 1)?)))
}

fn keep(connection: &Connection, digest: &Digest) -> rusqlite::Result<()> {
    connection.prepare_cached("INSERT OR IGNORE INTO pinned (digest) VALUES (?)")?.execute([digest.as_bytes()])?;
    connection
        .prepare_cached("UPDATE blob SET queue = ?2 WHERE digest = ?1 AND queue <> ?2")?
        .execute(params![digest.as_bytes(), PINNED])
        .map(drop)
}

/// What was pinned has lasted until now: it goes on in the main queue, at the place that its time gives it there.
fn release(connection: &Connection, digest: &Digest) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM pinned WHERE digest = ?")?.execute([digest.as_bytes()])?;
    let Some(row) = contents::get(connection, digest)? else { return Ok(()) };
    let queue = Queue::of_new(contents::class_of(connection, digest, row.size)?, true);
    connection
        .prepare_cached("UPDATE blob SET queue = ?2, position = accessed_at WHERE digest = ?1")?
        .execute(params![digest.as_bytes(), queues::column(queue)])
        .map(drop)
}

fn reference_column(pin: &Pin) -> String {
    pin.reference.as_ref().map(Reference::to_string).unwrap_or_default()
}
