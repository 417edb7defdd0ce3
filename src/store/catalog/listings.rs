//! The table of listings: what upstreams said of a repository's tags and referrers. It cannot be made anew from the disk, and need
//! not be: it is there for the time that an upstream cannot be asked.

use rusqlite::{Connection, OptionalExtension, params};

use super::latest::Latest;
use super::names::{Place, intern};

/// Those that were stored first go.
const LATEST: Latest = Latest {
    count: "SELECT count(*) FROM listing",
    delete: "DELETE FROM listing WHERE number IN (SELECT number FROM listing ORDER BY number LIMIT ?) RETURNING repository",
    kept: 2000,
};

/// The largest listing that is kept, in bytes.
const MAX_BYTES: usize = 256 << 10;

/// An upstream's answer to a question about a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListingRecord {
    pub body: Vec<u8>,
    /// `Link`, as the upstream wrote it.
    pub link: Option<String>,
    /// `OCI-Filters-Applied`.
    pub filters_applied: Option<String>,
    /// When the upstream said so, in milliseconds since 1970-01-01 UTC.
    pub checked_at: i64,
}

pub(super) fn listing(connection: &Connection, place: &Place, question: &str) -> rusqlite::Result<Option<ListingRecord>> {
    connection
        .prepare_cached(
            "SELECT body, link, filters_applied, checked_at FROM listing
             WHERE repository = (SELECT id FROM repository WHERE upstream = ?1 AND name = ?2) AND question = ?3",
        )?
        .query_row(params![place.upstream.as_str(), place.repository.as_str(), question], |row| {
            Ok(ListingRecord { body: row.get(0)?, link: row.get(1)?, filters_applied: row.get(2)?, checked_at: row.get(3)? })
        })
        .optional()
}

pub(super) fn set_listing(
    connection: &Connection,
    place: &Place,
    question: &str,
    record: &ListingRecord,
) -> rusqlite::Result<()> {
    if record.body.len() > MAX_BYTES {
        return Ok(());
    }
    let repository = intern(connection, place)?;
    let ListingRecord { body, link, filters_applied, checked_at } = record;
    // Replacing gives the row a new number, so that the numbers are in the order of storing.
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO listing (repository, question, body, link, filters_applied, checked_at) VALUES (?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![repository, question, body, link, filters_applied, checked_at])?;
    LATEST.trim(connection)
}
