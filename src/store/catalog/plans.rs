//! What SQLite does for the catalog's statements: each of them finds its rows by an index, however many there are. Nothing in here
//! measures time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rusqlite::trace::{TraceEvent, TraceEventCodes};
use rusqlite::{Connection, StatementStatus};

use super::accesses::Access;
use super::contents::{self, Arrival};
use super::forgotten::{self, Source};
use super::listings::{self, ListingRecord};
use super::names::{self, Place};
use super::{Kind, TagRecord, queues, schema};
use crate::oci::{Digest, Manifest, MediaType};
use crate::store::eviction::policy::{Class, Queue, Stage};

/// So many rows a scan may go through: one of the tables has four, whatever is cached.
const FEW: i32 = 4;

/// How many rows the others have here.
const ROWS: u64 = 100;

/// All that is asked of a catalog for content of this number. It stays in the catalog if `keep`.
fn everything_that_is_asked_of_it(connection: &Connection, number: u64, keep: bool) -> rusqlite::Result<()> {
    let digest = Digest::sha256(&number.to_be_bytes());
    let place = Place { upstream: "docker.io".parse().unwrap(), repository: format!("team/app-{number}").parse().unwrap() };
    let (tag, media_type) = ("latest".parse().unwrap(), MediaType::OCI_MANIFEST.parse().unwrap());
    let document = format!(r#"{{"config":{{"mediaType":"a/b","digest":"{digest}","size":7}},"layers":[]}}"#);
    let manifest = Manifest::inspect(document.as_bytes(), &media_type).unwrap();

    contents::put(connection, &digest, 1 << 20, Arrival::Fetched { at: 0 })?;
    contents::put(connection, &digest, 2 << 20, Arrival::Found { used_at: 0 })?;
    contents::get(connection, &digest)?;
    contents::touch(connection, &digest, Access { at: i64::MAX, uses: 1 })?;
    contents::total(connection)?;
    contents::beginning_with(connection, digest.as_bytes()[0])?;

    names::add_manifest(connection, &place, &digest, &media_type, Some(7), Some(&manifest))?;
    names::media_type(connection, &digest)?;
    names::set_tag(connection, &place, &tag, &TagRecord { digest, media_type, size: 7, checked_at: 0 })?;
    names::tag(connection, &place, &tag)?;
    names::link(connection, &place, Kind::Blob, &digest)?;
    names::linked(connection, &place, Kind::Blob, &digest)?;
    names::referenced_size(connection, &place, Kind::Blob, &digest)?;
    names::origins(connection, &digest)?;
    names::places(connection, &digest, 1)?;

    let record = ListingRecord { body: b"{}".to_vec(), link: None, filters_applied: None, checked_at: 0 };
    listings::set_listing(connection, &place, "tags", &record)?;
    listings::listing(connection, &place, "tags")?;

    let queue = Queue::new(Class::Small, Stage::Main);
    queues::occupancy(connection)?;
    let oldest = queues::oldest(connection, queue, None)?;
    queues::oldest(connection, queue, oldest.map(|oldest| oldest.place))?;
    queues::advance(connection, &digest, queue, 1, 0)?;
    queues::remember(connection, &Digest::sha256(digest.as_bytes()), queue, 7, 1 << 30)?;
    for source in Source::ALL {
        forgotten::beginning_with(connection, source, digest.as_bytes()[0])?;
    }
    if keep {
        return Ok(());
    }
    names::unlink(connection, &place, Kind::Blob, &digest)?;
    names::remove_tag(connection, &place, &tag)?;
    contents::delete(connection, &digest)?;
    forgotten::names(connection, &[digest])?;
    forgotten::forget_content(connection, &digest).map(drop)
}

#[test]
fn no_statement_goes_through_a_table_from_end_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    let connection = schema::open(&path, 0).unwrap().connection.unwrap();
    (0..ROWS).for_each(|number| everything_that_is_asked_of_it(&connection, number, true).unwrap());
    drop(connection);

    // Its statements have not been counted for yet.
    let mut connection = schema::open(&path, 0).unwrap().connection.unwrap();
    let scanned = Arc::new(Mutex::new(BTreeMap::new()));
    let record = {
        let scanned = Arc::clone(&scanned);
        move |event: TraceEvent<'_>| {
            if let TraceEvent::Profile(statement, _) = event {
                let rows = statement.get_status(StatementStatus::FullscanStep);
                scanned.lock().unwrap().insert(statement.sql().into_owned(), rows);
            }
        }
    };
    connection.trace_v2(TraceEventCodes::SQLITE_TRACE_PROFILE, Some(record)).unwrap();
    everything_that_is_asked_of_it(&connection, ROWS, false).unwrap();
    let scanned = scanned.lock().unwrap();
    assert!(scanned.len() > 25, "{} statements were seen", scanned.len());
    for (sql, rows) in scanned.iter() {
        assert!(*rows <= FEW, "{rows} rows: {sql}");
    }
}
