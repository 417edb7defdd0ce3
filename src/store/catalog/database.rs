//! The catalog's file as the rest of the store uses it: blocking reads on any thread, writes through the one that writes.
//! It knows connections and transactions, not what is in the tables.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use rusqlite::Connection;

use super::accesses::Accesses;
use super::readers::Readers;
use super::schema::Opened;
use super::writer::{Command, Trouble, Worker, Writer};
use super::{CatalogError, schema};
use crate::oci::Digest;
use crate::store::budget::Budget;
use crate::store::folder::Folder;
use crate::store::health::Health;
use crate::util::Clock;

/// The open catalog. Dropping it waits for what was submitted.
pub(in crate::store) struct Database {
    writer: Writer,
    readers: Arc<Readers>,
    accesses: Arc<Accesses>,
}

impl Database {
    /// Opens the catalog at `path` in `folder`, or a new one in place of one that cannot be used, and starts the writer. The budget
    /// begins with what the catalog says is at rest, and begins again whenever the catalog is opened again or replaced.
    ///
    /// `on_renewed` is called if the catalog is a new one, and whenever it is opened again or replaced later. Where it cannot be opened,
    /// it tells why, and whoever writes tries again.
    pub(in crate::store) fn open(
        path: PathBuf,
        folder: Arc<Folder>,
        health: Arc<Health>,
        max_bytes: u64,
        clock: Arc<dyn Clock>,
        on_renewed: Box<dyn Fn() + Send>,
    ) -> Result<(Self, Budget, Option<CatalogError>), CatalogError> {
        let opened = folder.check().map_err(CatalogError::from).and_then(|()| schema::open(&path, clock.unix_millis()));
        let (opened, error) = match opened {
            Ok(opened) => (opened, None),
            Err(error) => (Opened::default(), Some(error)),
        };
        if opened.fresh && error.is_none() {
            tracing::info!(path = %path.display(), "a new catalog is made from blobs/ and refs/");
            on_renewed();
        }
        let budget = Budget::new(max_bytes, opened.at_rest, opened.blobs, opened.fresh);
        let readers = Arc::new(Readers::new(path.clone(), Arc::clone(&folder)));
        let accesses = Arc::new(Accesses::default());
        let worker = Worker {
            path,
            folder,
            connection: opened.connection,
            trouble: Trouble::default(),
            health,
            readers: Arc::clone(&readers),
            accesses: Arc::clone(&accesses),
            budget: budget.clone(),
            clock,
            on_renewed,
        };
        let writer = Writer::start(worker).map_err(|error| CatalogError::Thread(Arc::new(error)))?;
        Ok((Self { writer, readers, accesses }, budget, error))
    }

    /// Blocks, for microseconds as a rule.
    pub(in crate::store) fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, CatalogError> {
        self.judge(self.readers.read(work))
    }

    /// As [`Database::read`], for what goes through much of the catalog: look-ups do not wait for it.
    pub(in crate::store) fn examine<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, CatalogError> {
        self.judge(self.readers.read_apart(work))
    }

    fn judge<T>(&self, (result, generation): (rusqlite::Result<T>, u64)) -> Result<T, CatalogError> {
        result.map_err(|error| {
            if schema::is_corruption(&error) {
                // The writer is gone at shutdown only; then the next start finds the corruption.
                let _ = self.writer.send(Command::SetAside { generation });
            }
            error.into()
        })
    }

    /// Blocks until `work` is committed, together with whatever else waits for the writer.
    pub(in crate::store) fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CatalogError> {
        self.write_then(work, |value| value)
    }

    /// As [`Database::write`]; `then` is called on the writer's thread in the moment after the commit, and not if there is none.
    pub(in crate::store) fn write_then<T: Send + 'static, U: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
        then: impl FnOnce(T) -> U + Send + 'static,
    ) -> Result<U, CatalogError> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.writer.submit(work, move |outcome| {
            // The receiver waits below.
            let _ = answer.send(outcome.map(then));
        });
        answered.recv().unwrap_or(Err(CatalogError::Stopped))
    }

    /// As [`Database::write`], without waiting.
    pub(in crate::store) fn submit<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
        done: impl FnOnce(Result<T, CatalogError>) + Send + 'static,
    ) {
        self.writer.submit(work, done);
        // What follows from a seed does not hang on how fast the writer's thread is.
        #[cfg(test)]
        if crate::util::simulated::is_under_way() {
            // What comes after it is done after it.
            let _ = self.write(|_| Ok(()));
        }
    }

    /// Notes a read of content at `now`, whose last use in the catalog is `stored`, as far as the caller knows; both in milliseconds
    /// since 1970.
    pub(in crate::store) fn note_access(&self, digest: &Digest, stored: Option<i64>, now: i64) {
        if self.accesses.note(digest, stored, now) {
            // As above.
            let _ = self.writer.send(Command::Flush);
        }
    }

    /// Blocks until the disk has taken a change that changes nothing.
    pub(in crate::store) fn probe(&self) -> Result<(), CatalogError> {
        self.write(schema::write_nothing)
    }

    /// Blocks until all accesses so far are in the catalog.
    pub(in crate::store) fn flush_accesses(&self) -> Result<(), CatalogError> {
        self.writer.send(Command::Flush).map_err(|_| CatalogError::Stopped)?;
        self.write(|_| Ok(()))
    }

    /// Closes the file, which is out of reach: whoever writes next opens it again, if it is back.
    pub(in crate::store) fn let_go(&self) {
        // As above.
        let _ = self.writer.send(Command::LetGo);
    }

    /// Blocks while the whole file is looked through, and has it set aside if it is broken.
    pub(in crate::store) fn check(&self) -> Result<(), CatalogError> {
        let verdict = |connection: &Connection| connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        let (verdict, generation) = self.readers.read_apart(verdict);
        match verdict {
            Ok(verdict) if verdict == "ok" => return Ok(()),
            Ok(verdict) => tracing::warn!(%verdict, "the catalog is broken"),
            Err(error) if schema::is_corruption(&error) => tracing::warn!(%error, "the catalog is broken"),
            Err(error) => return Err(error.into()),
        }
        self.writer.send(Command::SetAside { generation }).map_err(|_| CatalogError::Stopped)
    }

    /// Has the catalog replaced as if it had been found to be broken, and waits until it is.
    #[cfg(test)]
    pub(in crate::store) fn set_aside(&self) {
        let generation = self.readers.generation();
        assert!(self.writer.send(Command::SetAside { generation }).is_ok(), "the writer lives as long as this");
        while self.readers.generation() == generation {
            std::thread::yield_now();
        }
    }
}
