//! The `blob` table: what is at rest, how large it is and when it was last asked for. One function per statement; each gives what
//! the change does to the byte budget, for the caller to apply once it is committed.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::oci::Digest;
use crate::store::budget::Change;

/// What is evicted after all else: content below this many bytes, and manifests of any size.
const SMALL: u64 = 1 << 20;

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct ContentRow {
    /// Bytes.
    pub(in crate::store) size: u64,
    /// Milliseconds since 1970.
    pub(in crate::store) accessed_at: i64,
}

/// A candidate for eviction, and where the next page of candidates begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Candidate {
    pub(in crate::store) digest: Digest,
    /// Bytes.
    pub(in crate::store) size: u64,
    accessed_at: i64,
}

pub(in crate::store) fn get(connection: &Connection, digest: &Digest) -> rusqlite::Result<Option<ContentRow>> {
    connection
        .prepare_cached("SELECT size, accessed_at FROM blob WHERE digest = ?")?
        .query_row([digest.as_bytes()], |row| Ok(ContentRow { size: size_column(row, 0)?, accessed_at: row.get(1)? }))
        .optional()
}

pub(in crate::store) fn put(connection: &Connection, digest: &Digest, content: ContentRow) -> rusqlite::Result<Change> {
    let before = get(connection, digest)?;
    let size = to_column(content.size);
    connection
        .prepare_cached(
            "INSERT INTO blob (digest, size, accessed_at, protected)
             VALUES (?1, ?2, ?3, ?4 OR EXISTS (SELECT 1 FROM manifest WHERE digest = ?1))
             ON CONFLICT (digest) DO UPDATE SET
                 size = excluded.size, accessed_at = excluded.accessed_at, protected = excluded.protected",
        )?
        .execute(params![digest.as_bytes(), size, content.accessed_at, content.size < SMALL])?;
    Ok(match before {
        None => Change { bytes: size, blobs: 1 },
        Some(before) => Change { bytes: size - to_column(before.size), blobs: 0 },
    })
}

pub(in crate::store) fn delete(connection: &Connection, digest: &Digest) -> rusqlite::Result<Change> {
    let size: Option<i64> = connection
        .prepare_cached("DELETE FROM blob WHERE digest = ? RETURNING size")?
        .query_row([digest.as_bytes()], |row| row.get(0))
        .optional()?;
    Ok(size.map_or(Change::default(), |size| Change { bytes: -size, blobs: -1 }))
}

pub(super) fn touch(connection: &Connection, digest: &Digest, at: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE blob SET accessed_at = ?2 WHERE digest = ?1")?
        .execute(params![digest.as_bytes(), at])
        .map(drop)
}

pub(super) fn protect(connection: &Connection, digest: &Digest) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE blob SET protected = 1 WHERE digest = ? AND NOT protected")?
        .execute([digest.as_bytes()])
        .map(drop)
}

/// Bytes and number of all content.
pub(super) fn total(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    connection.query_row("SELECT bytes, blobs FROM total", [], |row| Ok((size_column(row, 0)?, size_column(row, 1)?)))
}

/// All content whose digest begins with the byte `first`, with its size.
pub(in crate::store) fn beginning_with(connection: &Connection, first: u8) -> rusqlite::Result<Vec<(Digest, u64)>> {
    // A longer blob comes after a shorter one that it begins with, so this is above all digests with that first byte.
    let mut above = [0xff; 65];
    above[0] = first;
    connection
        .prepare_cached("SELECT digest, size FROM blob WHERE digest BETWEEN ?1 AND ?2")?
        .query_map(params![[first].as_slice(), above.as_slice()], |row| Ok((digest_column(row, 0)?, size_column(row, 1)?)))?
        .collect()
}

/// Up to `limit` contents, least recently used first, from after `last` on.
pub(in crate::store) fn least_recently_used(
    connection: &Connection,
    protected: bool,
    last: Option<Candidate>,
    limit: usize,
) -> rusqlite::Result<Vec<Candidate>> {
    let (after, key) = match &last {
        Some(candidate) => (candidate.accessed_at, candidate.digest.as_bytes()),
        None => (i64::MIN, [].as_slice()),
    };
    connection
        .prepare_cached(
            "SELECT digest, size, accessed_at FROM blob
             WHERE protected = ?1 AND (accessed_at, digest) > (?2, ?3) ORDER BY accessed_at, digest LIMIT ?4",
        )?
        .query_map(params![protected, after, key, to_column(limit as u64)], |row| {
            Ok(Candidate { digest: digest_column(row, 0)?, size: size_column(row, 1)?, accessed_at: row.get(2)? })
        })?
        .collect()
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
