//! Parts that outlive the fill that wrote them, so that the next fill of the same content goes on from there: after an upstream
//! that failed, after a restart, after a kill. It never says that a part's bytes are right: whoever takes one up hashes it again.
//!
//! Beside a part that is kept lies its map, a small file that says which of its bytes have been written. It is replaced as a whole.
//! Neither is synced: after a loss of power a map may say too much, and readers would be given what is not there before the hash
//! brings that to light. So a map counts only as long as the operating system runs under which it was written.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use serde::{Deserialize, Serialize};

use super::budget::{Budget, Reservation};
use super::filesystem::{Entry, FileSystem, StoredFile};
use super::health::{Health, Operation};
use super::layout::{InFlight, Layout};
use crate::oci::Digest;
use crate::util::Clock;

/// How long a part is kept, in milliseconds: a day.
const MAX_AGE: i64 = 24 * 60 * 60 * 1000;

/// The share of the budget that kept parts may take.
const SHARE: u64 = 8;

/// No map is larger: a thousand seeks leave it a few ten kilobytes long.
const MAP_MAX_BYTES: u64 = 1 << 20;

/// Which bytes of a content are in its part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartMap {
    /// The size of the whole content in bytes.
    pub size: u64,
    /// Disjoint and in ascending order.
    pub extents: Vec<Range<u64>>,
}

/// The file of a map.
#[derive(Serialize, Deserialize)]
struct MapFile {
    /// See [`FileSystem::epoch`]; empty where nobody told.
    epoch: String,
    #[serde(flatten)]
    map: PartMap,
}

/// The parts that nobody writes at the moment.
pub(super) struct Parts {
    kept: Mutex<HashMap<Digest, KeptPart>>,
    taken_over: Mutex<bool>,
    fs: Arc<dyn FileSystem>,
    layout: Arc<Layout>,
    health: Arc<Health>,
    clock: Arc<dyn Clock>,
    budget: Budget,
    epoch: String,
    /// Names parts and temporary files.
    numbers: Arc<AtomicU64>,
}

/// The files of a part: the number tells those of the same content apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PartName {
    pub(super) digest: Digest,
    pub(super) number: u64,
}

/// A part that waits for the next fill.
pub(super) struct KeptPart {
    pub(super) name: PartName,
    pub(super) map: PartMap,
    pub(super) reservation: Reservation,
    /// Milliseconds since 1970-01-01 UTC.
    pub(super) kept_at: i64,
    /// Shared with writes that have not come to their end.
    pub(super) writers: Arc<()>,
}

impl PartMap {
    /// Where the last byte that is there ends.
    fn end(&self) -> u64 {
        self.extents.last().map_or(0, |extent| extent.end)
    }

    /// How many bytes are there.
    pub fn bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.end - extent.start).sum()
    }

    /// Whether it is one that a fill could have written.
    fn is_sound(&self) -> bool {
        let in_order = self.extents.windows(2).all(|pair| pair[0].end <= pair[1].start);
        in_order && self.extents.iter().all(|extent| extent.start < extent.end) && self.end() <= self.size
    }

    /// Takes out what `file` has not got after all.
    fn trim(&mut self, file: &dyn StoredFile) -> io::Result<()> {
        let length = file.len()?;
        for extent in &mut self.extents {
            let end = if extent.start < length { file.end_of_data(extent.start)?.min(length) } else { extent.start };
            extent.end = extent.end.min(end);
        }
        self.extents.retain(|extent| extent.start < extent.end);
        Ok(())
    }
}

// === impl Parts ===

/// All of these block.
impl Parts {
    /// Nothing is known of what is in the folder yet.
    pub(super) fn new(
        fs: Arc<dyn FileSystem>,
        layout: Arc<Layout>,
        health: Arc<Health>,
        clock: Arc<dyn Clock>,
        budget: Budget,
        numbers: Arc<AtomicU64>,
    ) -> Self {
        let epoch = fs.epoch().unwrap_or_else(|error| {
            tracing::warn!(%error, "the system does not tell when it was started; parts will not outlive this process");
            String::new()
        });
        Self { kept: Mutex::default(), taken_over: Mutex::new(false), fs, layout, health, clock, budget, epoch, numbers }
    }

    /// Takes over what earlier runs have left in the folder, and removes what is of no use, unless that has been done. No part is begun
    /// before.
    pub(super) fn take_over(&self) -> io::Result<()> {
        let mut taken_over = self.taken_over.lock().unwrap_or_else(PoisonError::into_inner);
        if *taken_over {
            return Ok(());
        }
        let entries = self.entries().inspect_err(|error| {
            self.health.disk_error(Operation::ListFolder, &self.layout.ingest(), error);
        })?;
        let in_flight = entries.iter().filter(|entry| !entry.is_folder).filter_map(|entry| Layout::parse_in_flight(&entry.name));
        let (mut names, mut without_map) = (Vec::new(), Vec::new());
        for found in in_flight {
            match found {
                InFlight::Map(name) => names.push(name),
                InFlight::Part(name) => without_map.push(name),
                InFlight::Temporary(number) => self.unlink(self.layout.temporary(number)),
            }
        }
        for name in names {
            self.numbers.fetch_max(name.number + 1, Ordering::Relaxed);
            // What is at rest needs no part: this one was to be removed, and could not be.
            let is_at_rest = self.fs.metadata(&self.layout.blob(&name.digest)).is_ok_and(|blob| blob.is_file);
            match self.read_map(name).filter(|_| !is_at_rest) {
                Some((map, kept_at)) => {
                    without_map.retain(|other| *other != name);
                    let reservation = self.budget.reservation();
                    self.keep(KeptPart { name, map, reservation, kept_at, writers: Arc::default() });
                }
                None => self.remove(name),
            }
        }
        without_map.into_iter().for_each(|name| self.remove(name));
        self.sweep();
        *taken_over = true;
        Ok(())
    }

    /// Whether it is known, without asking the disk, that no part of `digest` is kept.
    pub(super) fn has_none_of(&self, digest: &Digest) -> bool {
        let taken_over = match self.taken_over.try_lock() {
            Ok(taken_over) => *taken_over,
            Err(TryLockError::Poisoned(poisoned)) => *poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => false,
        };
        taken_over && !self.lock().contains_key(digest)
    }

    fn entries(&self) -> io::Result<Vec<Entry>> {
        match self.fs.list(&self.layout.ingest()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed,
        }
    }

    /// The folder was gone and is back, or another is in its place: makes the files and what is known of them agree. Of no use are
    /// the parts that were written when it went; whoever still writes one does so in vain.
    pub(super) fn review(&self) {
        if !*self.taken_over.lock().unwrap_or_else(PoisonError::into_inner) {
            // Whoever begins one does that.
            return;
        }
        let entries = match self.entries() {
            Ok(entries) => entries,
            Err(error) => return self.health.disk_error(Operation::ListFolder, &self.layout.ingest(), &error),
        };
        let found: Vec<InFlight> = entries.iter().filter_map(|entry| Layout::parse_in_flight(&entry.name)).collect();
        let mut kept = self.lock();
        kept.retain(|_, part| found.contains(&InFlight::Part(part.name)));
        let is_kept = |name: &PartName| kept.get(&name.digest).is_some_and(|part| part.name == *name);
        for found in &found {
            match found {
                InFlight::Part(name) | InFlight::Map(name) => {
                    self.numbers.fetch_max(name.number + 1, Ordering::Relaxed);
                    if !is_kept(name) {
                        self.remove(*name);
                    }
                }
                InFlight::Temporary(number) => self.unlink(self.layout.temporary(*number)),
            }
        }
    }

    /// A name for a new part.
    pub(super) fn name(&self, digest: &Digest) -> PartName {
        PartName { digest: *digest, number: self.numbers.fetch_add(1, Ordering::Relaxed) }
    }

    /// A name for a file that will not last.
    pub(super) fn temporary(&self) -> PathBuf {
        self.layout.temporary(self.numbers.fetch_add(1, Ordering::Relaxed))
    }

    /// Notes what has been written of a part. If that fails, what was noted before stands.
    pub(super) fn note(&self, name: PartName, map: &PartMap) -> io::Result<()> {
        let file = MapFile { epoch: self.epoch.clone(), map: map.clone() };
        let bytes = serde_json::to_vec(&file).map_err(io::Error::other)?;
        let temporary = self.temporary();
        let write = || {
            self.fs.create(&temporary)?.write_all_at(&bytes, 0)?;
            self.fs.rename(&temporary, &self.layout.map(name))
        };
        write().inspect_err(|error| {
            self.health.disk_error(Operation::WriteMap, &self.layout.map(name), error);
            // It may not be there any more, or never have been.
            let _ = self.fs.remove(&temporary);
        })
    }

    /// Keeps a part that is not written any more, unless there is no room, or a better one of the same content is kept.
    pub(super) fn keep(&self, mut part: KeptPart) {
        let digest = part.name.digest;
        // The file system has set the whole size aside; what will not be written soon goes back to it.
        let shortened = self.fs.reopen(&self.layout.part(part.name)).and_then(|file| {
            part.map.trim(&*file)?;
            file.truncate(part.map.end())
        });
        if let Err(error) = shortened {
            // Where a map was left behind by a part that has become content, there is nothing wrong.
            if error.kind() != io::ErrorKind::NotFound {
                self.health.disk_error(Operation::ReopenPart, &self.layout.part(part.name), &error);
            }
            return self.remove(part.name);
        }
        let end = part.map.end();
        part.reservation.shrink(end);
        if part.reservation.grow(end).is_err() || end == 0 {
            return self.remove(part.name);
        }
        let worse = {
            let mut kept = self.lock();
            match kept.get(&digest).is_some_and(|other| other.map.bytes() >= part.map.bytes()) {
                true => Some(part),
                false => kept.insert(digest, part),
            }
        };
        if let Some(worse) = worse {
            self.remove(worse.name);
        }
    }

    /// The part of `digest`, if one is kept that can be gone on with. `size` is that of the content, if it is known.
    pub(super) fn take(&self, digest: &Digest, size: Option<u64>) -> Option<(KeptPart, Arc<dyn StoredFile>)> {
        let mut part = self.lock().remove(digest)?;
        let mut usable = || {
            // A write that was given up but has not ended would change bytes behind the back of whoever hashes them.
            if Arc::strong_count(&part.writers) > 1 || size.is_some_and(|size| size != part.map.size) {
                return Ok(None);
            }
            let file = self.fs.reopen(&self.layout.part(part.name))?;
            part.map.trim(&*file)?;
            Ok(Some(file))
        };
        match usable() {
            Ok(Some(file)) => Some((part, file)),
            Ok(None) => {
                self.remove(part.name);
                None
            }
            Err(error) => {
                self.health.disk_error(Operation::ReopenPart, &self.layout.part(part.name), &error);
                self.remove(part.name);
                None
            }
        }
    }

    /// Removes the part that is kept of `digest`, if there is one: the content is at rest now.
    pub(super) fn give_up(&self, digest: &Digest) {
        let part = self.lock().remove(digest);
        if let Some(part) = part {
            self.remove(part.name);
        }
    }

    /// Removes the oldest of the kept parts, for the room that it takes. Tells whether there was one.
    pub(super) fn give_up_oldest(&self) -> bool {
        let oldest = {
            let mut kept = self.lock();
            let oldest = kept.iter().min_by_key(|(digest, part)| (part.kept_at, **digest)).map(|(digest, _)| *digest);
            oldest.and_then(|digest| kept.remove(&digest))
        };
        oldest.inspect(|part| self.remove(part.name)).is_some()
    }

    /// The sizes of the kept parts in bytes, in the order in which they would be given up.
    pub(super) fn oldest_first(&self) -> Vec<u64> {
        let kept = self.lock();
        let mut parts: Vec<_> = kept.iter().map(|(digest, part)| (part.kept_at, *digest, part.reservation.bytes())).collect();
        parts.sort_unstable_by_key(|(kept_at, digest, _)| (*kept_at, *digest));
        parts.into_iter().map(|(.., bytes)| bytes).collect()
    }

    /// Removes what is too old, and what is more than kept parts may take.
    pub(super) fn sweep(&self) {
        let now = self.clock.unix_millis();
        // A clock that was set back must not make a part immortal.
        let is_old = |part: &KeptPart| now.checked_sub(part.kept_at).is_none_or(|age| !(-MAX_AGE..MAX_AGE).contains(&age));
        let old: Vec<KeptPart> = self.lock().extract_if(|_, part| is_old(part)).map(|(_, part)| part).collect();
        old.iter().for_each(|part| self.remove(part.name));
        while self.bytes() > self.budget.max() / SHARE && self.give_up_oldest() {}
    }

    /// Removes a part and its map. The part goes first: one without a map is nothing to a start.
    pub(super) fn remove(&self, name: PartName) {
        self.unlink(self.layout.part(name));
        self.unlink(self.layout.map(name));
    }

    /// Removes the map of a part that has become content.
    pub(super) fn forget(&self, name: PartName) {
        self.unlink(self.layout.map(name));
    }

    /// How many bytes the kept parts take.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().values().map(|part| part.reservation.bytes()).sum()
    }

    fn read_map(&self, name: PartName) -> Option<(PartMap, i64)> {
        let path = self.layout.map(name);
        let read = || {
            let (metadata, file) = (self.fs.metadata(&path)?, self.fs.open(&path)?);
            let bytes = file.read_all(MAP_MAX_BYTES)?;
            let MapFile { epoch, map } = serde_json::from_slice(&bytes)?;
            if epoch.is_empty() || epoch != self.epoch {
                return Ok(None);
            }
            let map = Some(map).filter(PartMap::is_sound).ok_or(io::ErrorKind::InvalidData)?;
            Ok::<_, io::Error>(Some((map, metadata.used_at)))
        };
        read().unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "the map of a part cannot be read; it is removed");
            None
        })
    }

    /// If this fails the next start does it.
    fn unlink(&self, path: PathBuf) {
        match self.fs.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.health.disk_error(Operation::RemovePart, &path, &error);
            }
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, KeptPart>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_no_fill_could_have_written_is_none() {
        let map =
            |size, extents: &[(u64, u64)]| PartMap { size, extents: extents.iter().map(|(start, end)| *start..*end).collect() };
        assert!(map(10, &[]).is_sound() && map(10, &[(0, 3), (5, 10)]).is_sound());
        for bad in [map(10, &[(0, 11)]), map(10, &[(5, 7), (0, 3)]), map(10, &[(3, 3)]), map(10, &[(0, 5), (4, 6)])] {
            assert!(!bad.is_sound(), "{bad:?}");
        }
    }
}
