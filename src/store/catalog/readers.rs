//! A few connections that only read, lent to whoever asks from a thread that may block. They never write and never wait for the
//! writer: WAL gives each of them a snapshot.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rusqlite::{Connection, ffi};

use super::schema;
use crate::store::folder::Folder;

/// How many connections there are at most. A look-up takes some ten microseconds; each connection has a cache of its own.
const MAX: usize = 4;

/// The pool of connections.
pub(super) struct Readers {
    path: PathBuf,
    /// What is no more to be opened when it is gone: an open file keeps a file system from being unmounted for good.
    folder: Arc<Folder>,
    state: Mutex<State>,
    returned: Condvar,
    /// Held by the one that reads with a connection of its own.
    apart: Mutex<()>,
}

#[derive(Default)]
struct State {
    idle: Vec<Connection>,
    lent: usize,
    /// Counts the files that have been the catalog: connections to an earlier one are of no use.
    generation: u64,
}

/// A connection on loan. Returned when dropped.
struct Loan<'a> {
    readers: &'a Readers,
    connection: Option<Connection>,
    generation: u64,
}

impl Readers {
    pub(super) fn new(path: PathBuf, folder: Arc<Folder>) -> Self {
        Self { path, folder, state: Mutex::default(), returned: Condvar::new(), apart: Mutex::new(()) }
    }

    /// Runs `work` with a connection; blocks. Gives the generation of the file that was read, too.
    pub(super) fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> (rusqlite::Result<T>, u64) {
        let mut loan = self.borrow();
        let generation = loan.generation;
        let connection = match loan.connection.take() {
            Some(connection) => connection,
            None => match self.open() {
                Ok(connection) => connection,
                Err(error) => return (Err(error), generation),
            },
        };
        let connection = loan.connection.insert(connection);
        (work(connection), generation)
    }

    /// As [`Readers::read`], for work that may take long: it has a connection to itself, and waits for others of its kind, so that it
    /// keeps nobody else from a look-up.
    pub(super) fn read_apart<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> (rusqlite::Result<T>, u64) {
        let _turn = self.apart.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.generation();
        (self.open().and_then(|connection| work(&connection)), generation)
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        let unreachable = ffi::Error::new(ffi::SQLITE_CANTOPEN);
        self.folder.check().map_err(|gone| rusqlite::Error::SqliteFailure(unreachable, Some(gone.to_string())))?;
        schema::open_for_reading(&self.path)
    }

    pub(super) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// The catalog is another file from now on.
    pub(super) fn renew(&self) {
        let mut state = self.lock();
        state.generation += 1;
        state.idle.clear();
    }

    fn borrow(&self) -> Loan<'_> {
        let mut state = self.lock();
        while state.lent >= MAX {
            state = self.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.lent += 1;
        Loan { readers: self, connection: state.idle.pop(), generation: state.generation }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let mut state = self.readers.lock();
        state.lent -= 1;
        if state.generation == self.generation {
            state.idle.extend(self.connection.take());
        }
        drop(state);
        self.readers.returned.notify_one();
    }
}
