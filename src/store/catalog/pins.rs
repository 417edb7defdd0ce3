//! The tables of pins: the names that an operator pinned, and all content that this keeps. What a pin keeps is worked out when a pin,
//! a tag or an edge changes, never when something is evicted. Nothing in here writes the refs that pins are made from.

use std::collections::BTreeSet;

use rusqlite::{Connection, Row, params};

use super::contents::{self, digest_column, size_column};
use super::names::{Place, parsed_column};
use super::queues::{self, PINNED};
use super::{edges, holdings};
use crate::oci::{Digest, Reference};
use crate::store::eviction::policy::Queue;
use crate::store::name::Pin;

/// Finds the repositories of a pin of `?1` and `?2`: the one of that name, and those whose names continue it.
macro_rules! below {
    () => {
        "(SELECT id FROM repository
          WHERE upstream = ?1 AND (name = ?2 OR substr(name, 1, length(?2) + 1) = ?2 || '/'))"
    };
}

/// All pins, by name.
pub(in crate::store) fn all(connection: &Connection) -> rusqlite::Result<Vec<Pin>> {
    let pin = |row: &Row<'_>| {
        let reference: String = row.get(2)?;
        let reference = if reference.is_empty() { None } else { Some(parsed_column(row, 2)?) };
        Ok(Pin { upstream: parsed_column(row, 0)?, repository: parsed_column(row, 1)?, reference })
    };
    connection
        .prepare_cached("SELECT upstream, repository, reference FROM pin ORDER BY upstream, repository, reference")?
        .query_map([], pin)?
        .collect()
}

/// Enters a pin, and keeps what it names and what belongs to that.
pub(in crate::store) fn set(connection: &Connection, pin: &Pin) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO pin (upstream, repository, reference) VALUES (?, ?, ?)")?
        .execute(params![pin.upstream.as_str(), pin.repository.as_str(), reference_column(pin)])?;
    extend(connection, roots(connection, pin)?)
}

pub(in crate::store) fn has(connection: &Connection, pin: &Pin) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM pin WHERE upstream = ? AND repository = ? AND reference = ?")?.exists(params![
        pin.upstream.as_str(),
        pin.repository.as_str(),
        reference_column(pin)
    ])
}

/// Takes a pin away, and lets go of what no other keeps.
pub(in crate::store) fn remove(connection: &Connection, pin: &Pin) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM pin WHERE upstream = ? AND repository = ? AND reference = ?")?.execute(params![
        pin.upstream.as_str(),
        pin.repository.as_str(),
        reference_column(pin)
    ])?;
    renew(connection)
}

/// Whether a pin is for `reference` of the repository, or for all of it.
pub(in crate::store) fn covers(connection: &Connection, place: &Place, reference: &Reference) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM pin WHERE upstream = ?1 AND ((repository = ?2 AND reference IN ('', ?3))
             OR (reference = '' AND substr(?2, 1, length(repository) + 1) = repository || '/')) LIMIT 1",
        )?
        .exists(params![place.upstream.as_str(), place.repository.as_str(), reference.to_string()])
}

/// Whether a pin keeps the content.
pub(in crate::store) fn is_pinned(connection: &Connection, digest: &Digest) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM pinned WHERE digest = ?")?.exists([digest.as_bytes()])
}

/// Keeps these and all that they refer to.
pub(super) fn extend(connection: &Connection, roots: impl IntoIterator<Item = Digest>) -> rusqlite::Result<()> {
    edges::closure(connection, roots)?.iter().try_for_each(|digest| keep(connection, digest))
}

/// Lets go of what belongs to `root`, which was named by a pin and may not be any more, unless another one keeps it. What that costs
/// follows from how much belongs to it, not from how much is pinned.
pub(super) fn let_go(connection: &Connection, root: Digest) -> rusqlite::Result<()> {
    for digest in edges::closure(connection, [root])? {
        if !is_kept(connection, digest)? {
            release(connection, &digest)?;
        }
    }
    Ok(())
}

/// Whether a pin names the content, or something that it belongs to.
fn is_kept(connection: &Connection, digest: Digest) -> rusqlite::Result<bool> {
    let (mut open, mut seen) = (vec![digest], BTreeSet::new());
    while let Some(digest) = open.pop() {
        // What is above what is pinned by its name is no matter, nor is what is not pinned.
        if !seen.insert(digest) || !is_pinned(connection, &digest)? {
            continue;
        }
        if is_named(connection, &digest)? {
            return Ok(true);
        }
        open.extend(edges::parents(connection, &digest)?);
    }
    Ok(false)
}

/// Whether a pin names it: by its digest, by a tag that points to it, or with all of a repository.
fn is_named(connection: &Connection, digest: &Digest) -> rusqlite::Result<bool> {
    if connection.prepare_cached("SELECT 1 FROM pin WHERE reference = ? LIMIT 1")?.exists([digest.to_string()])? {
        return Ok(true);
    }
    for (holder, tag) in holdings::tags_of(connection, digest)? {
        if covers(connection, &holder.place, &Reference::Tag(tag))? {
            return Ok(true);
        }
    }
    for holder in holdings::holders(connection, digest)? {
        if covers(connection, &holder.place, &Reference::Digest(*digest))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Works out anew what the pins keep, and lets go of the rest.
pub(in crate::store) fn renew(connection: &Connection) -> rusqlite::Result<()> {
    let mut keeping = Vec::new();
    for pin in all(connection)? {
        keeping.extend(roots(connection, &pin)?);
    }
    let after = edges::closure(connection, keeping)?;
    let before: BTreeSet<Digest> = connection
        .prepare_cached("SELECT digest FROM pinned")?
        .query_map([], |row| digest_column(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    before.difference(&after).try_for_each(|digest| release(connection, digest))?;
    after.difference(&before).try_for_each(|digest| keep(connection, digest))
}

/// What the pin names, as far as is known: what its tags point to, and the manifests that were fetched by their digests.
pub(in crate::store) fn roots(connection: &Connection, pin: &Pin) -> rusqlite::Result<Vec<Digest>> {
    let (upstream, repository) = (pin.upstream.as_str(), pin.repository.as_str());
    let digest = |row: &Row<'_>| digest_column(row, 0);
    match &pin.reference {
        Some(Reference::Digest(digest)) => Ok(vec![*digest]),
        Some(Reference::Tag(tag)) => connection
            .prepare_cached(
                "SELECT digest FROM tag WHERE name = ?3
                 AND repository = (SELECT id FROM repository WHERE upstream = ?1 AND name = ?2)",
            )?
            .query_map(params![upstream, repository, tag.as_str()], digest)?
            .collect(),
        None => connection
            .prepare_cached(concat!(
                "SELECT digest FROM tag WHERE repository IN ",
                below!(),
                " UNION SELECT digest FROM link WHERE kind = 0 AND fetched AND repository IN ",
                below!()
            ))?
            .query_map(params![upstream, repository], digest)?
            .collect(),
    }
}

/// Bytes and number of the content at rest that is pinned.
pub(in crate::store) fn total(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    connection
        .prepare_cached("SELECT bytes, blobs FROM queue WHERE number = ?")?
        .query_row([PINNED], |row| Ok((size_column(row, 0)?, size_column(row, 1)?)))
}

fn keep(connection: &Connection, digest: &Digest) -> rusqlite::Result<()> {
    connection.prepare_cached("INSERT OR IGNORE INTO pinned (digest) VALUES (?)")?.execute([digest.as_bytes()])?;
    connection
        .prepare_cached("UPDATE blob SET queue = ?2 WHERE digest = ?1 AND queue <> ?2")?
        .execute(params![digest.as_bytes(), PINNED])
        .map(drop)
}

/// What was pinned has lasted until now: it goes on in the main queue, at the place that its time gives it there.
fn release(connection: &Connection, digest: &Digest) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM pinned WHERE digest = ?")?.execute([digest.as_bytes()])?;
    let Some(row) = contents::get(connection, digest)? else { return Ok(()) };
    let queue = Queue::of_new(contents::class_of(connection, digest, row.size)?, true);
    connection
        .prepare_cached("UPDATE blob SET queue = ?2, position = accessed_at WHERE digest = ?1")?
        .execute(params![digest.as_bytes(), queues::column(queue)])
        .map(drop)
}

fn reference_column(pin: &Pin) -> String {
    pin.reference.as_ref().map(Reference::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, TagRecord, names, schema};
    use super::*;
    use crate::oci::Manifest;

    fn digest(number: u32) -> Digest {
        Digest::sha256(&number.to_be_bytes())
    }

    fn pinned(connection: &Connection) -> BTreeSet<Digest> {
        let mut statement = connection.prepare("SELECT digest FROM pinned").unwrap();
        statement.query_map([], |row| digest_column(row, 0)).unwrap().map(Result::unwrap).collect()
    }

    /// Whatever comes and goes, what is pinned is what would be if it were worked out anew.
    #[test]
    fn what_pins_keep_is_the_same_however_it_came_about() {
        let folder = tempfile::tempdir().unwrap();
        let connection = schema::open(&folder.path().join("catalog.sqlite"), 0).unwrap().connection.unwrap();
        let mut state = 7_u64;
        let mut roll = move |below: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from(state >> 40).unwrap() % below
        };
        let places = ["a", "a/b", "c"].map(|name| Place { upstream: "hub".parse().unwrap(), repository: name.parse().unwrap() });
        let media_type: crate::oci::MediaType = crate::oci::MediaType::OCI_INDEX.parse().unwrap();
        for step in 0..1500 {
            let place = &places[roll(3) as usize];
            let (manifest, tag) = (digest(roll(8)), format!("t{}", roll(3)).parse().unwrap());
            let reference = match roll(3) {
                0 => None,
                1 => Some(Reference::Tag(format!("t{}", roll(3)).parse().unwrap())),
                _ => Some(Reference::Digest(digest(roll(8)))),
            };
            let pin = Pin { upstream: place.upstream.clone(), repository: place.repository.clone(), reference };
            match roll(8) {
                0 => set(&connection, &pin).unwrap(),
                1 => remove(&connection, &pin).unwrap(),
                2 | 3 => {
                    let record = TagRecord { digest: manifest, media_type: media_type.clone(), size: 7, checked_at: 0 };
                    names::set_tag(&connection, place, &tag, &record).unwrap();
                }
                4 => names::remove_tag(&connection, place, &tag).unwrap(),
                5 => names::unlink(&connection, place, Kind::Manifest, &manifest).unwrap(),
                _ => {
                    // Later ones refer to earlier ones, some of them shared.
                    let number = roll(8);
                    let child = |number: u32| format!(r#"{{"mediaType":"{}","digest":"{}","size":7}}"#, "a/b", digest(number));
                    let document = format!(r#"{{"manifests":[{},{}]}}"#, child(number / 2 + 20), child(number + 1));
                    let content = Manifest::inspect(document.as_bytes(), &media_type).unwrap();
                    names::add_manifest(&connection, place, &digest(number), &media_type, Some(7), Some(&content)).unwrap();
                }
            }
            let found = pinned(&connection);
            renew(&connection).unwrap();
            assert_eq!(found, pinned(&connection), "step {step}");
        }
    }
}
