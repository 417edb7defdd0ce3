//! The policy's queues as they lie in the catalog, and what it remembers of content that went. One function per statement, each of
//! which finds its row by an index: what a decision costs does not depend on how much there is.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::contents::{digest_column, size_column, to_column};
use crate::oci::Digest;
use crate::store::eviction::policy::{MAX_USES, Occupancy, Queue};

/// The queue of what is pinned. It is none of the policy's: what is in it is not decided about.
pub(super) const PINNED: i64 = Queue::ALL.len() as i64;

const OCCUPANCY: &str = "SELECT number, bytes FROM queue WHERE number <> ?";
const OLDEST: &str = "SELECT position, digest, size, uses FROM blob
     WHERE queue = ?1 AND (position, digest) > (?2, ?3) ORDER BY position, digest LIMIT 1";
const ADVANCE: &str = "UPDATE blob SET queue = ?2, position = ?3, uses = max(uses - ?4, 0) WHERE digest = ?1 AND queue <> ?5";
const NEWEST: &str = "SELECT position FROM blob WHERE queue = ? ORDER BY position DESC LIMIT 1";
const GO: &str = "UPDATE queue SET gone = gone + ?2 WHERE number = ?1 RETURNING gone";
const REMEMBER: &str = "INSERT OR REPLACE INTO ghost (digest, queue, gone) VALUES (?, ?, ?)";
const FORGET: &str = "DELETE FROM ghost WHERE queue = ? AND gone < ?";
const RECALL: &str = "DELETE FROM ghost WHERE digest = ?";

/// The content that has been in its queue for longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Candidate {
    pub(in crate::store) place: Place,
    /// Bytes.
    pub(in crate::store) size: u64,
    pub(in crate::store) uses: u8,
}

/// A place in a queue. Content enters behind all that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Place {
    /// When it entered, in milliseconds since 1970; a little later if others were quicker than the clock.
    position: i64,
    pub(in crate::store) digest: Digest,
}

/// How many bytes are in each queue.
pub(in crate::store) fn occupancy(connection: &Connection) -> rusqlite::Result<Occupancy> {
    let mut occupancy = Occupancy::default();
    let mut statement = connection.prepare_cached(OCCUPANCY)?;
    let mut rows = statement.query([PINNED])?;
    while let Some(row) = rows.next()? {
        *occupancy.bytes(queue_column(row, 0)?) = size_column(row, 1)?;
    }
    Ok(occupancy)
}

/// The oldest content in the queue, or the oldest after `last`.
pub(in crate::store) fn oldest(
    connection: &Connection,
    queue: Queue,
    last: Option<Place>,
) -> rusqlite::Result<Option<Candidate>> {
    let (position, digest) = match &last {
        Some(place) => (place.position, place.digest.as_bytes()),
        None => (i64::MIN, [].as_slice()),
    };
    let candidate = |row: &Row<'_>| {
        let place = Place { position: row.get(0)?, digest: digest_column(row, 1)? };
        Ok(Candidate { place, size: size_column(row, 2)?, uses: row.get::<_, u8>(3)?.min(MAX_USES) })
    };
    connection.prepare_cached(OLDEST)?.query_row(params![column(queue), position, digest], candidate).optional()
}

/// All that is in the queue with its size in bytes and its uses, oldest first.
pub(in crate::store) fn in_order(connection: &Connection, queue: Queue) -> rusqlite::Result<Vec<(Digest, u64, u8)>> {
    connection
        .prepare_cached("SELECT digest, size, uses FROM blob WHERE queue = ? ORDER BY position, digest")?
        .query_map([column(queue)], |row| Ok((digest_column(row, 0)?, size_column(row, 1)?, row.get::<_, u8>(2)?.min(MAX_USES))))?
        .collect()
}

/// Puts content at the end of a queue, and takes `spent` from its uses. What was pinned meanwhile stays where it is.
pub(in crate::store) fn advance(
    connection: &Connection,
    digest: &Digest,
    queue: Queue,
    spent: u8,
    now: i64,
) -> rusqlite::Result<()> {
    let position = end(connection, queue, now)?;
    connection.prepare_cached(ADVANCE)?.execute(params![digest.as_bytes(), column(queue), position, spent, PINNED]).map(drop)
}

/// The position behind all that is in the queue.
pub(super) fn end(connection: &Connection, queue: Queue, now: i64) -> rusqlite::Result<i64> {
    let newest: Option<i64> = connection.prepare_cached(NEWEST)?.query_row([column(queue)], |row| row.get(0)).optional()?;
    Ok(newest.map_or(now, |newest| now.max(newest.saturating_add(1))))
}

/// Remembers content of `size` bytes that went from `queue`, and forgets what went more than `memory` bytes before it.
pub(in crate::store) fn remember(
    connection: &Connection,
    digest: &Digest,
    queue: Queue,
    size: u64,
    memory: u64,
) -> rusqlite::Result<()> {
    let gone: i64 = connection.prepare_cached(GO)?.query_row(params![column(queue), to_column(size)], |row| row.get(0))?;
    connection.prepare_cached(REMEMBER)?.execute(params![digest.as_bytes(), column(queue), gone])?;
    connection.prepare_cached(FORGET)?.execute(params![column(queue), gone.saturating_sub(to_column(memory))]).map(drop)
}

/// Whether content is remembered that went. It is not from now on.
pub(super) fn recall(connection: &Connection, digest: &Digest) -> rusqlite::Result<bool> {
    let forgotten = connection.prepare_cached(RECALL)?.execute([digest.as_bytes()])?;
    Ok(forgotten > 0)
}

pub(super) fn column(queue: Queue) -> i64 {
    queue.index() as i64
}

pub(super) fn queue_column(row: &Row<'_>, index: usize) -> rusqlite::Result<Queue> {
    let number: i64 = row.get(index)?;
    let queue = usize::try_from(number).ok().and_then(|number| Queue::ALL.get(number).copied());
    queue.ok_or(rusqlite::Error::IntegralValueOutOfRange(index, number))
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::super::{contents, schema};
    use super::*;
    use crate::store::catalog::contents::Arrival;
    use crate::store::eviction::policy::{Class, Stage};

    const PROBATION: Queue = Queue::new(Class::Large, Stage::Probation);
    const SIZE: u64 = 2 << 20;
    const TURNS: u64 = 50;

    fn digest(number: u64) -> Digest {
        Digest::sha256(&number.to_be_bytes())
    }

    /// New content comes, and what is oldest goes, or stays, and is remembered: all that the catalog does for a decision.
    fn turn(connection: &Connection, number: u64, memory: u64) {
        occupancy(connection).unwrap();
        let candidate = oldest(connection, PROBATION, None).unwrap().unwrap();
        if number.is_multiple_of(2) {
            advance(connection, &candidate.place.digest, PROBATION, 0, 0).unwrap();
        }
        let candidate = oldest(connection, PROBATION, Some(candidate.place)).unwrap().unwrap();
        remember(connection, &candidate.place.digest, PROBATION, candidate.size, memory).unwrap();
        contents::delete(connection, &candidate.place.digest).unwrap();
        contents::put(connection, &digest(number), SIZE, Arrival::Fetched { at: 0 }).unwrap();
    }

    /// The steps that SQLite's machine takes in some turns, by statement, with `rows` contents and as many that are remembered.
    fn steps(rows: u64) -> Vec<(&'static str, i32)> {
        let folder = tempfile::tempdir().unwrap();
        let mut connection = schema::open(&folder.path().join("catalog.sqlite"), 0).unwrap().connection.unwrap();
        let transaction = connection.transaction().unwrap();
        let memory = rows * SIZE;
        for number in 0..rows {
            contents::put(&transaction, &digest(number), SIZE, Arrival::Fetched { at: 0 }).unwrap();
            remember(&transaction, &digest(u64::MAX - number), PROBATION, SIZE, memory).unwrap();
        }
        let statements = [OCCUPANCY, OLDEST, NEWEST, ADVANCE, GO, REMEMBER, FORGET, RECALL, contents::PUT, contents::DELETE];
        for sql in statements {
            transaction.prepare_cached(sql).unwrap().reset_status(StatementStatus::VmStep);
        }
        (0..TURNS).for_each(|turn_number| turn(&transaction, rows + turn_number, memory));
        let taken = |sql| {
            let statement = transaction.prepare_cached(sql).unwrap();
            assert_eq!(statement.get_status(StatementStatus::Sort), 0, "{sql}");
            (sql, statement.get_status(StatementStatus::VmStep))
        };
        statements.map(taken).to_vec()
    }

    #[test]
    fn a_decision_takes_as_many_steps_with_many_contents_as_with_few() {
        let (few, many) = (steps(1_000), steps(100_000));
        for ((sql, few), (_, many)) in few.into_iter().zip(many) {
            assert!(few > 0, "not used: {sql}");
            assert!(many <= few + few / 10, "{few} steps with 1,000 contents, {many} with 100,000: {sql}");
        }
    }
}
