//! The catalog's tables, and how its file is opened or, when it cannot be used, set aside. It never mends a catalog and never
//! migrates one: the next walk over `blobs/` and `refs/` fills a new one.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use super::{CatalogError, contents};

/// Why catalogs are set aside: they cannot be read, or are not of this version.
const REASONS: [&str; 2] = [CORRUPT, OTHER_VERSION];
pub(super) const CORRUPT: &str = "corrupt";
const OTHER_VERSION: &str = "version";

/// Raised whenever the tables change.
pub(in crate::store) const VERSION: i64 = 3;

/// Digests are stored as their 32 or 64 bytes: the length tells the algorithm.
///
/// `blob.queue` is one of the policy's queues by its index, `position` orders it, oldest first, and `uses` counts what has been noted
/// of them. The triggers keep `queue` equal to the sums over `blob` within every transaction, so that neither opening a large
/// catalog nor a decision has to add them up.
///
/// `edge` says which manifest refers to what, so that what belongs to an image can be told without reading it. `pin` holds what an
/// operator named (a whole repository where `reference` is empty), and `pinned` all that this keeps, at rest or not: it is made anew
/// when a pin, a tag or an edge changes. Content that is pinned is in a queue of its own, which no decision looks at.
///
/// `ghost` remembers what was evicted from probation. `queue.gone` counts the bytes that went in this way, and `ghost.gone` is what
/// it was when this content had gone: the difference is the age of the memory.
const TABLES: &str = "
CREATE TABLE repository (
    id INTEGER PRIMARY KEY,
    upstream TEXT NOT NULL,
    name TEXT NOT NULL,
    UNIQUE (upstream, name)
);
CREATE TABLE blob (
    digest BLOB PRIMARY KEY,
    size INTEGER NOT NULL,
    accessed_at INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    position INTEGER NOT NULL,
    uses INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX blob_by_position ON blob (queue, position);
CREATE TABLE queue (
    number INTEGER PRIMARY KEY,
    bytes INTEGER NOT NULL,
    blobs INTEGER NOT NULL,
    gone INTEGER NOT NULL
);
INSERT INTO queue VALUES (0, 0, 0, 0), (1, 0, 0, 0), (2, 0, 0, 0), (3, 0, 0, 0), (4, 0, 0, 0);
CREATE TRIGGER blob_added AFTER INSERT ON blob BEGIN
    UPDATE queue SET bytes = bytes + new.size, blobs = blobs + 1 WHERE number = new.queue;
END;
CREATE TRIGGER blob_removed AFTER DELETE ON blob BEGIN
    UPDATE queue SET bytes = bytes - old.size, blobs = blobs - 1 WHERE number = old.queue;
END;
CREATE TRIGGER blob_changed AFTER UPDATE OF size, queue ON blob WHEN old.size <> new.size OR old.queue <> new.queue BEGIN
    UPDATE queue SET bytes = bytes - old.size, blobs = blobs - 1 WHERE number = old.queue;
    UPDATE queue SET bytes = bytes + new.size, blobs = blobs + 1 WHERE number = new.queue;
END;
CREATE TABLE ghost (
    digest BLOB PRIMARY KEY,
    queue INTEGER NOT NULL,
    gone INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX ghost_by_age ON ghost (queue, gone);
CREATE TABLE manifest (
    digest BLOB PRIMARY KEY,
    media_type TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE tag (
    repository INTEGER NOT NULL REFERENCES repository (id),
    name TEXT NOT NULL,
    digest BLOB NOT NULL,
    media_type TEXT NOT NULL,
    size INTEGER NOT NULL,
    checked_at INTEGER NOT NULL,
    PRIMARY KEY (repository, name)
) WITHOUT ROWID;
CREATE TABLE listing (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    repository INTEGER NOT NULL REFERENCES repository (id),
    question TEXT NOT NULL,
    body BLOB NOT NULL,
    link TEXT,
    filters_applied TEXT,
    checked_at INTEGER NOT NULL,
    UNIQUE (repository, question)
);
CREATE TABLE link (
    digest BLOB NOT NULL,
    repository INTEGER NOT NULL REFERENCES repository (id),
    kind INTEGER NOT NULL,
    fetched INTEGER NOT NULL,
    size INTEGER,
    PRIMARY KEY (digest, repository, kind)
) WITHOUT ROWID;
CREATE TABLE wanted (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    repository INTEGER NOT NULL REFERENCES repository (id),
    kind INTEGER NOT NULL,
    reference TEXT NOT NULL,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    times INTEGER NOT NULL,
    UNIQUE (repository, kind, reference)
);
CREATE INDEX link_by_repository ON link (repository, kind);
CREATE INDEX tag_by_digest ON tag (digest);
CREATE TABLE edge (
    parent BLOB NOT NULL,
    child BLOB NOT NULL,
    PRIMARY KEY (parent, child)
) WITHOUT ROWID;
CREATE INDEX edge_by_child ON edge (child);
CREATE TABLE pin (
    upstream TEXT NOT NULL,
    repository TEXT NOT NULL,
    reference TEXT NOT NULL,
    PRIMARY KEY (upstream, repository, reference)
) WITHOUT ROWID;
CREATE TABLE pinned (
    digest BLOB PRIMARY KEY
) WITHOUT ROWID;
";

/// A catalog that is ready to be written; or none, of which nothing is known.
pub(super) struct Opened {
    pub(super) connection: Option<Connection>,
    /// It was made just now and knows nothing.
    pub(super) fresh: bool,
    /// Bytes of all content in it.
    pub(super) at_rest: u64,
    /// Number of contents in it.
    pub(super) blobs: u64,
}

impl Default for Opened {
    fn default() -> Self {
        Self { connection: None, fresh: true, at_rest: 0, blobs: 0 }
    }
}

/// Opens the catalog at `path` for writing. One that is corrupt or of another version is set aside, with `now` (milliseconds
/// since 1970) in its new name, and a new one made.
pub(super) fn open(path: &Path, now: i64) -> Result<Opened, CatalogError> {
    let reason = match try_open(path) {
        Ok(Some(opened)) => return Ok(opened),
        Ok(None) => OTHER_VERSION,
        Err(error) if is_corruption(&error) => CORRUPT,
        Err(error) => return Err(error.into()),
    };
    set_aside(path, reason, now)?;
    try_open(path)?.ok_or(CatalogError::Unusable)
}

/// `None` if the catalog is of another version, or not a catalog at all.
fn try_open(path: &Path) -> rusqlite::Result<Option<Opened>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = Connection::open_with_flags(path, flags)?;
    if connection.is_readonly("main")? {
        // What can only be read is opened for reading without a word.
        return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_READONLY), None));
    }
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let fresh = tables == 0 && version == 0;
    if !fresh && version != VERSION {
        return Ok(None);
    }
    // WAL with NORMAL: a commit survives the process, the last ones may be lost with the machine; refs/ and blobs/ are not.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -16384; PRAGMA journal_size_limit = 67108864;",
    )?;
    if fresh {
        let transaction = connection.transaction()?;
        transaction.execute_batch(TABLES)?;
        transaction.execute_batch(&format!("PRAGMA user_version = {VERSION}"))?;
        transaction.commit()?;
    }
    let (at_rest, blobs) = match contents::total(&connection) {
        Ok(total) => total,
        Err(error) if is_corruption(&error) => return Err(error),
        Err(_) => return Ok(None),
    };
    Ok(Some(Opened { connection: Some(connection), fresh, at_rest, blobs }))
}

/// Opens the catalog at `path` for reading.
pub(in crate::store) fn open_for_reading(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = Connection::open_with_flags(path, flags)?;
    let is_readable = |connection: &Connection| connection.query_row("PRAGMA schema_version", [], |_| Ok(()));
    if let Err(error) = is_readable(&connection) {
        // Where nothing can be written beside it, a catalog that was closed in order can still be read, since nobody changes it.
        let is_sealed = matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly));
        if !is_sealed || beside(path, "-wal").exists() {
            return Err(error);
        }
        connection = Connection::open_with_flags(immutable(path), flags | OpenFlags::SQLITE_OPEN_URI)?;
        is_readable(&connection)?;
    }
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// The name by which SQLite opens a file that it need not lock.
fn immutable(path: &Path) -> String {
    let path = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    format!("file:{path}?immutable=1")
}

/// A path that goes on with `suffix`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether the file is broken, rather than out of reach.
pub(super) fn is_corruption(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Whether the disk did not give or take what it should.
pub(super) fn is_disk_error(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure)
}

/// Whether the file can be read, but not written.
pub(super) fn is_for_reading(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::ReadOnly)
}

/// Writes, and takes it back: the disk is asked for that, and nobody who reads sees it.
pub(super) fn write_nothing(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("INSERT INTO pinned (digest) VALUES (x''); DELETE FROM pinned WHERE digest = x'';")
}

/// Gives the catalog a name under which nobody opens it, so that the operator can look into it. There is one such at most: it may
/// be large, and nobody counts it.
pub(super) fn set_aside(path: &Path, reason: &'static str, now: i64) -> Result<(), CatalogError> {
    tracing::warn!(path = %path.display(), reason, "the catalog is set aside; a new one is made from blobs/ and refs/");
    remove_set_aside(path);
    for part in ["", "-wal", "-shm"] {
        match fs::rename(beside(path, part), beside(path, &format!(".{reason}-{now}{part}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(CatalogError::SetAside(error.into())),
            _ => {}
        }
    }
    Ok(())
}

/// Removes what was set aside before, as far as that is possible.
fn remove_set_aside(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else { return };
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let suffix = entry.file_name().to_str().and_then(|other| other.strip_prefix(name)?.strip_prefix('.')).map(str::to_owned);
        let is_set_aside = suffix.is_some_and(|suffix| REASONS.iter().any(|reason| suffix.starts_with(&format!("{reason}-"))));
        if is_set_aside && let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "a catalog that was set aside before cannot be removed");
        }
    }
}
