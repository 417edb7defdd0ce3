//! Tables of which no more than so many rows are kept, the latest, because clients can fill them as they like. A row that is written
//! again is the latest one. What such rows leave behind goes with them.

use rusqlite::Connection;

use super::names;

/// After how many writes it is looked whether there are too many rows. So many more than are to be kept there may be.
pub(super) const WRITES_PER_LOOK: i64 = 64;

/// A table with a `number` that grows with each write, and the `repository` that a row is about.
pub(super) struct Latest {
    /// How many rows there are.
    pub(super) count: &'static str,
    /// Takes away so many of the first ones, and gives their repositories.
    pub(super) delete: &'static str,
    /// How many rows are kept.
    pub(super) kept: i64,
}

impl Latest {
    /// Is called after each write of a row. The rows are counted, and not told from their numbers: what is written again leaves a gap.
    pub(super) fn trim(&self, connection: &Connection) -> rusqlite::Result<()> {
        if connection.last_insert_rowid() % WRITES_PER_LOOK != 0 {
            return Ok(());
        }
        let count: i64 = connection.prepare_cached(self.count)?.query_row([], |row| row.get(0))?;
        let excess = count - self.kept;
        if excess <= 0 {
            return Ok(());
        }
        let repositories =
            connection.prepare_cached(self.delete)?.query_map([excess], |row| row.get(0))?.collect::<Result<_, _>>()?;
        names::forget_unused(connection, repositories)
    }
}

#[cfg(test)]
mod tests {
    use super::super::listings::{self, ListingRecord};
    use super::super::names::Place;
    use super::super::{Kind, schema, wanted};
    use super::*;

    fn place(name: &str) -> Place {
        Place { upstream: "docker.io".parse().unwrap(), repository: name.parse().unwrap() }
    }

    /// A catalog in the midst of a transaction: nothing of it is to last.
    fn catalog(folder: &tempfile::TempDir) -> Connection {
        let connection = schema::open(&folder.path().join("catalog.sqlite"), 0)
            .unwrap()
            .connection
            .expect("a folder that is well has a catalog");
        connection.execute_batch("BEGIN").unwrap();
        connection
    }

    fn number(connection: &Connection, query: &str) -> i64 {
        connection.query_row(query, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn what_is_asked_for_again_and_again_does_not_push_out_what_was_asked_for_once() {
        let folder = tempfile::tempdir().unwrap();
        let connection = catalog(&folder);
        let note = |name: &str| wanted::note(&connection, &place("a/b"), Kind::Manifest, &name.parse().unwrap(), 0).unwrap();
        note("once");
        (0..25_000).for_each(|time| note(&format!("again-{}", time % 10)));
        assert_eq!(number(&connection, "SELECT count(*) FROM wanted"), 11);
        assert_eq!(number(&connection, "SELECT times FROM wanted WHERE reference = 'once'"), 1);
    }

    #[test]
    fn names_that_nobody_asks_for_again_are_forgotten_with_their_repositories() {
        let folder = tempfile::tempdir().unwrap();
        let connection = catalog(&folder);
        let note = |name: &str| wanted::note(&connection, &place(name), Kind::Manifest, &"1".parse().unwrap(), 0).unwrap();
        (0..12_000).for_each(|guess| note(&format!("guess/{guess}")));
        let wanted = number(&connection, "SELECT count(*) FROM wanted");
        assert!((10_000..=10_000 + WRITES_PER_LOOK).contains(&wanted), "{wanted}");
        assert_eq!(number(&connection, "SELECT count(*) FROM repository"), wanted);
        assert_eq!(
            number(&connection, "SELECT count(*) FROM wanted JOIN repository ON id = repository WHERE name = 'guess/11999'"),
            1
        );
    }

    #[test]
    fn a_listing_that_is_renewed_does_not_push_out_others() {
        let folder = tempfile::tempdir().unwrap();
        let connection = catalog(&folder);
        let record = ListingRecord { body: b"{}".to_vec(), link: None, filters_applied: None, checked_at: 0 };
        listings::set_listing(&connection, &place("a/once"), "tags?", &record).unwrap();
        for _ in 0..5000 {
            listings::set_listing(&connection, &place("a/again"), "tags?", &record).unwrap();
        }
        assert_eq!(listings::listing(&connection, &place("a/once"), "tags?").unwrap(), Some(record.clone()));
        for other in 0..3000 {
            listings::set_listing(&connection, &place(&format!("a/{other}")), "tags?", &record).unwrap();
        }
        let listings = number(&connection, "SELECT count(*) FROM listing");
        assert!((2000..=2000 + WRITES_PER_LOOK).contains(&listings), "{listings}");
        assert_eq!(number(&connection, "SELECT count(*) FROM repository"), listings);
    }
}
