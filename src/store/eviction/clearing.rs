//! Room that an operator asks for: the evictions that come next, carried out or only told. What goes and in which order is the
//! policy's; nothing in here decides otherwise.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::PoisonError;

use rusqlite::Connection;

use super::policy::{Occupancy, Queue, Stage, Verdict};
use super::{Stuck, take};
use crate::oci::{Digest, Reference};
use crate::store::blobs::Blobs;
use crate::store::catalog::{contents, edges, holdings, queues};
use crate::store::error::StoreError;
use crate::store::name::Name;

/// What was evicted, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clearing {
    /// Bytes of what was left of fetches that were broken off. They go before anything that is whole.
    pub parts_bytes: u64,
    /// In the order in which it goes.
    pub evicted: Vec<Evicted>,
    /// Bytes that the cache may still take, before and after.
    pub free_before: u64,
    pub free_after: u64,
}

/// A content that was evicted, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// The images that it belongs to.
    pub images: Vec<Name>,
}

/// All of these block.
impl Blobs {
    /// Evicts until `free` bytes are free, or all that may go is gone. With `is_dry`, only tells what that would be.
    pub(in crate::store) fn clear(&self, free: u64, is_dry: bool) -> Result<Clearing, StoreError> {
        let free = free.min(self.capacity());
        let free_before = self.free();
        let mut clearing = Clearing { free_before, ..Clearing::default() };
        if is_dry {
            for bytes in self.parts.oldest_first() {
                if free_before + clearing.parts_bytes < free {
                    clearing.parts_bytes += bytes;
                }
            }
            let lacking = free.saturating_sub(free_before + clearing.parts_bytes);
            self.catalog.database.flush_accesses()?;
            let foresee = |connection: &_| name_all(connection, &self.foresee(connection, lacking)?);
            clearing.evicted = self.catalog.database.examine(foresee)?;
            let bytes: u64 = clearing.evicted.iter().map(|evicted| evicted.size).sum();
            clearing.free_after = free_before + clearing.parts_bytes + bytes;
        } else {
            let parts_before = self.parts.bytes();
            while self.free() < free && self.parts.give_up_oldest() {}
            clearing.parts_bytes = parts_before.saturating_sub(self.parts.bytes());
            let _turn = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
            let lacking = free.saturating_sub(self.free());
            if lacking > 0 {
                clearing.evicted = self.catalog.database.examine(|connection| self.evict_named(connection, lacking))?;
            }
            clearing.free_after = self.free();
        }
        Ok(clearing)
    }

    /// Evicts, and names what has gone, by what was known of it before: names go with what they are of.
    fn evict_named(&self, connection: &Connection, bytes: u64) -> rusqlite::Result<Vec<Evicted>> {
        let before = connection.unchecked_transaction()?;
        // The first question is what it begins with.
        contents::total(&before)?;
        let mut gone = Vec::new();
        self.evict(bytes, &mut |digest, size| gone.push((digest, size)));
        name_all(&before, &gone)
    }

    fn free(&self) -> u64 {
        let amounts = self.budget.amounts();
        self.capacity().saturating_sub(amounts.at_rest.saturating_add(amounts.reserved))
    }

    /// What an eviction of `bytes` bytes would take: the same decisions, on a copy of the queues.
    fn foresee(&self, connection: &Connection, bytes: u64) -> rusqlite::Result<Vec<(Digest, u64)>> {
        let (mut going, mut gone) = (0, Vec::new());
        if bytes == 0 {
            return Ok(gone);
        }
        let mut waiting: [VecDeque<(Digest, u64, u8)>; Queue::ALL.len()] = Default::default();
        let mut occupancy = Occupancy::default();
        for queue in Queue::ALL {
            waiting[queue.index()] = queues::in_order(connection, queue)?.into();
            *occupancy.bytes(queue) = waiting[queue.index()].iter().map(|(_, size, _)| size).sum();
        }
        let capacity = self.capacity();
        let mut stuck = Stuck::default();
        while going < bytes {
            for queue in Queue::ALL.into_iter().filter(|queue| stuck.is_all(*queue)) {
                *occupancy.bytes(queue) = 0;
            }
            let Some(queue) = occupancy.next(capacity) else { break };
            let Some((digest, size, uses)) = waiting[queue.index()].pop_front() else {
                *occupancy.bytes(queue) = 0;
                continue;
            };
            take(&mut occupancy, queue, size);
            let (next, uses) = match queue.verdict(uses, stuck.spared) {
                Verdict::Stay { spent } => {
                    stuck.spared += 1;
                    stuck.note_other(queue);
                    (Queue { stage: Stage::Main, ..queue }, uses.saturating_sub(spent))
                }
                Verdict::Go { .. } if self.holds.is_held(&digest) => {
                    stuck.note_stuck(queue, &digest);
                    (queue, uses)
                }
                Verdict::Go { .. } => {
                    stuck.spared = 0;
                    stuck.note_other(queue);
                    going += size;
                    gone.push((digest, size));
                    continue;
                }
            };
            *occupancy.bytes(next) += size;
            waiting[next.index()].push_back((digest, size, uses));
        }
        Ok(gone)
    }
}

fn name_all(connection: &Connection, gone: &[(Digest, u64)]) -> rusqlite::Result<Vec<Evicted>> {
    let named =
        gone.iter().map(|(digest, size)| Ok(Evicted { digest: *digest, size: *size, images: images_of(connection, digest)? }));
    named.collect()
}

/// The images that a content belongs to: tags that lead to it, and manifests without a tag that nothing else refers to.
fn images_of(connection: &Connection, digest: &Digest) -> rusqlite::Result<Vec<Name>> {
    let mut images = BTreeMap::new();
    let (mut open, mut seen) = (vec![*digest], BTreeSet::new());
    while let Some(digest) = open.pop() {
        if !seen.insert(digest) {
            continue;
        }
        let parents = edges::parents(connection, &digest)?;
        let tags = holdings::tags_of(connection, &digest)?;
        let mut names: Vec<_> = tags.into_iter().map(|(holder, tag)| (holder.place, Reference::Tag(tag))).collect();
        if names.is_empty() && parents.is_empty() {
            let holders = holdings::holders(connection, &digest)?;
            names.extend(holders.into_iter().map(|holder| (holder.place, Reference::Digest(digest))));
        }
        for (place, reference) in names {
            let name = Name::Image { upstream: place.upstream, repository: place.repository, reference };
            images.insert(name.to_string(), name);
        }
        open.extend(parents);
    }
    Ok(images.into_values().collect())
}
