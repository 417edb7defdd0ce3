//! The table of edges: which manifest refers to what. An edge is true for good, since a manifest does not change; it says nothing of
//! what is at rest.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use super::contents::digest_column;
use crate::oci::Digest;

/// Notes that the manifest `parent` refers to `child`.
pub(super) fn add(connection: &Connection, parent: &Digest, child: &Digest) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO edge (parent, child) VALUES (?, ?)")?
        .execute(params![parent.as_bytes(), child.as_bytes()])
        .map(drop)
}

/// Forgets what a manifest that is gone referred to.
pub(in crate::store) fn remove_from(connection: &Connection, parent: &Digest) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM edge WHERE parent = ?")?.execute([parent.as_bytes()]).map(drop)
}

/// What the manifest refers to.
pub(in crate::store) fn children(connection: &Connection, parent: &Digest) -> rusqlite::Result<Vec<Digest>> {
    digests(connection, "SELECT child FROM edge WHERE parent = ?", parent)
}

/// The manifests that refer to the content.
pub(in crate::store) fn parents(connection: &Connection, child: &Digest) -> rusqlite::Result<Vec<Digest>> {
    digests(connection, "SELECT parent FROM edge WHERE child = ?", child)
}

/// Whether a manifest refers to the content.
pub(super) fn has_parent(connection: &Connection, child: &Digest) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM edge WHERE child = ? LIMIT 1")?.exists([child.as_bytes()])
}

/// The roots and all that can be reached from them.
pub(in crate::store) fn closure(
    connection: &Connection,
    roots: impl IntoIterator<Item = Digest>,
) -> rusqlite::Result<BTreeSet<Digest>> {
    let mut open: Vec<Digest> = roots.into_iter().collect();
    let mut seen = BTreeSet::new();
    while let Some(digest) = open.pop() {
        if seen.insert(digest) {
            open.extend(children(connection, &digest)?);
        }
    }
    Ok(seen)
}

fn digests(connection: &Connection, sql: &str, digest: &Digest) -> rusqlite::Result<Vec<Digest>> {
    connection.prepare_cached(sql)?.query_map([digest.as_bytes()], |row| digest_column(row, 0))?.collect()
}
