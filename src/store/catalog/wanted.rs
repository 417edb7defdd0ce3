//! The table of what was asked for and could not be had: neither was it here, nor could its upstream be asked. It is for whoever
//! brings content from elsewhere; it cannot be made anew from the disk.

use rusqlite::{Connection, params};

use super::Kind;
use super::latest::Latest;
use super::names::{Place, intern};
use crate::oci::Reference;

/// What was not asked for for the longest time goes.
const LATEST: Latest = Latest {
    count: "SELECT count(*) FROM wanted",
    delete: "DELETE FROM wanted WHERE number IN (SELECT number FROM wanted ORDER BY number LIMIT ?) RETURNING repository",
    kept: 10_000,
};

/// Notes that `reference` was asked for at `now`, in milliseconds since 1970.
pub(super) fn note(connection: &Connection, place: &Place, kind: Kind, reference: &Reference, now: i64) -> rusqlite::Result<()> {
    let repository = intern(connection, place)?;
    let what = params![repository, kind.column(), reference.to_string(), now];
    // Replacing gives the row a new number, so that the numbers are in the order of the last times.
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO wanted (repository, kind, reference, first_at, last_at, times)
             SELECT ?1, ?2, ?3, coalesce(min(first_at), ?4), ?4, coalesce(max(times), 0) + 1 FROM wanted
             WHERE repository = ?1 AND kind = ?2 AND reference = ?3",
        )?
        .execute(what)?;
    LATEST.trim(connection)
}
