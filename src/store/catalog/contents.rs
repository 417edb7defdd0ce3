//! The `blob` table: what is at rest, how large it is and when it was last asked for. One function per statement; each gives what
//! the change does to the byte budget, for the caller to apply once it is committed.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::accesses::Access;
use super::{pins, queues};
use crate::oci::Digest;
use crate::store::budget::Change;
use crate::store::eviction::policy::{Class, MAX_USES, Queue, is_use};

pub(super) const PUT: &str = "INSERT INTO blob (digest, size, accessed_at, queue, position, uses) VALUES (?, ?, ?, ?, ?, 0)";
pub(super) const DELETE: &str = "DELETE FROM blob WHERE digest = ? RETURNING size";

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct ContentRow {
    /// Bytes.
    pub(in crate::store) size: u64,
    /// When it was last used, in milliseconds since 1970, as far as that has been noted.
    pub(in crate::store) accessed_at: i64,
}

/// How content came to be at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Arrival {
    /// It was fetched just now, at this time in milliseconds since 1970.
    Fetched { at: i64 },
    /// It was found in the folder, last used at this time.
    Found { used_at: i64 },
}

pub(in crate::store) fn get(connection: &Connection, digest: &Digest) -> rusqlite::Result<Option<ContentRow>> {
    connection
        .prepare_cached("SELECT size, accessed_at FROM blob WHERE digest = ?")?
        .query_row([digest.as_bytes()], |row| Ok(ContentRow { size: size_column(row, 0)?, accessed_at: row.get(1)? }))
        .optional()
}

/// Enters content of `size` bytes. What is known of it already but for the size stays.
pub(in crate::store) fn put(connection: &Connection, digest: &Digest, size: u64, arrival: Arrival) -> rusqlite::Result<Change> {
    if let Some(before) = get(connection, digest)? {
        connection
            .prepare_cached("UPDATE blob SET size = ?2 WHERE digest = ?1")?
            .execute(params![digest.as_bytes(), to_column(size)])?;
        return Ok(Change { bytes: to_column(size) - to_column(before.size), blobs: 0 });
    }
    let class = class_of(connection, digest, size)?;
    let remembered = queues::recall(connection, digest)?;
    let (queue, position, accessed_at) = match arrival {
        Arrival::Fetched { at } => {
            let queue = Queue::of_new(class, remembered);
            (queue, queues::end(connection, queue, at)?, at)
        }
        // It has lasted until now, and its time tells its place among the others that have.
        Arrival::Found { used_at } => (Queue::of_new(class, true), used_at, used_at),
    };
    let queue = if pins::is_pinned(connection, digest)? { queues::PINNED } else { queues::column(queue) };
    connection.prepare_cached(PUT)?.execute(params![digest.as_bytes(), to_column(size), accessed_at, queue, position])?;
    Ok(Change { bytes: to_column(size), blobs: 1 })
}

pub(in crate::store) fn delete(connection: &Connection, digest: &Digest) -> rusqlite::Result<Change> {
    let size: Option<i64> = connection.prepare_cached(DELETE)?.query_row([digest.as_bytes()], |row| row.get(0)).optional()?;
    Ok(size.map_or(Change::default(), |size| Change { bytes: -size, blobs: -1 }))
}

/// Notes that content was used, unless that is a use that is known.
pub(super) fn touch(connection: &Connection, digest: &Digest, access: Access) -> rusqlite::Result<()> {
    if get(connection, digest)?.is_none_or(|row| !is_use(row.accessed_at, access.at)) {
        return Ok(());
    }
    connection
        .prepare_cached("UPDATE blob SET accessed_at = ?2, uses = min(uses + ?3, ?4) WHERE digest = ?1")?
        .execute(params![digest.as_bytes(), access.at, access.uses, MAX_USES])
        .map(drop)
}

/// Notes that content is a manifest: of whatever size, it counts as small. It keeps its place in time.
pub(super) fn note_manifest(connection: &Connection, digest: &Digest) -> rusqlite::Result<()> {
    let queue = connection
        .prepare_cached("SELECT queue FROM blob WHERE digest = ? AND queue <> ?")?
        .query_row(params![digest.as_bytes(), queues::PINNED], |row| queues::queue_column(row, 0))
        .optional()?;
    let Some(queue) = queue.filter(|queue| queue.class != Class::Small) else { return Ok(()) };
    connection
        .prepare_cached("UPDATE blob SET queue = ?2 WHERE digest = ?1")?
        .execute(params![digest.as_bytes(), queues::column(Queue { class: Class::Small, ..queue })])
        .map(drop)
}

pub(super) fn class_of(connection: &Connection, digest: &Digest, size: u64) -> rusqlite::Result<Class> {
    Ok(Class::of(size, is_manifest(connection, digest)?))
}

fn is_manifest(connection: &Connection, digest: &Digest) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM manifest WHERE digest = ?")?.exists([digest.as_bytes()])
}

/// Bytes and number of all content.
pub(in crate::store) fn total(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    let row = |row: &Row<'_>| Ok((size_column(row, 0)?, size_column(row, 1)?));
    connection.query_row("SELECT sum(bytes), sum(blobs) FROM queue", [], row)
}

/// All content whose digest begins with the byte `first`, with its size, in the order of digests.
pub(in crate::store) fn beginning_with(connection: &Connection, first: u8) -> rusqlite::Result<Vec<(Digest, u64)>> {
    let (least, most) = bounds(first);
    connection
        .prepare_cached("SELECT digest, size FROM blob WHERE digest BETWEEN ?1 AND ?2 ORDER BY digest")?
        .query_map(params![least.as_slice(), most.as_slice()], |row| Ok((digest_column(row, 0)?, size_column(row, 1)?)))?
        .collect()
}

/// Between these are all digests that begin with the byte `first`, as the catalog has them.
pub(super) fn bounds(first: u8) -> ([u8; 1], [u8; 65]) {
    // A longer blob comes after a shorter one that it begins with, so this is above all of them.
    let mut above = [0xff; 65];
    above[0] = first;
    ([first], above)
}

pub(in crate::store) fn digest_column(row: &Row<'_>, index: usize) -> rusqlite::Result<Digest> {
    let value = row.get_ref(index)?;
    let bytes = value.as_blob()?;
    match (<[u8; 32]>::try_from(bytes), <[u8; 64]>::try_from(bytes)) {
        (Ok(bytes), _) => Ok(Digest::Sha256(bytes)),
        (_, Ok(bytes)) => Ok(Digest::Sha512(bytes)),
        _ => Err(rusqlite::Error::InvalidColumnType(index, "digest".into(), value.data_type())),
    }
}

/// A size as SQLite has it. No file is larger than its integers.
pub(super) fn to_column(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

pub(super) fn size_column(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(index).map(|size| u64::try_from(size).unwrap_or(0))
}
