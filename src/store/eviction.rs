//! Room for new content: the policy says what goes, and it goes unless it is open. Nothing in here decides whether content may be
//! stored; it gives what room there is.

mod clearing;
pub(super) mod policy;

use std::collections::HashSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use rusqlite::Connection;

pub use self::clearing::{Clearing, Evicted};
use self::policy::{Occupancy, Queue, Stage, Verdict};
use super::blobs::{Blobs, DigestClaim};
use super::budget::{Change, Refusal, Reservation};
use super::catalog::queues::{self, Candidate, Place};
use super::catalog::{contents, forgotten};
use super::error::StoreError;
use super::holds::Leave;
use crate::oci::Digest;

/// How many contents are decided about at a time: their rows change in one transaction.
const BATCH: usize = 128;

/// How many files that cannot be removed end an eviction: of a disk that refuses so many, no others are tried.
const REFUSALS: usize = 16;

/// How many inodes of the file system are left to others: each content takes one, and its folder, its map and its refs some more.
const MIN_FREE_INODES: u64 = 256;

/// What becomes of one content.
enum Decision {
    Go(Victim),
    /// To the end of a queue, with so many fewer uses.
    Stay {
        digest: Digest,
        queue: Queue,
        spent: u8,
    },
}

/// Content that is about to go. Nobody opens or replaces it until its row is gone, too: the digest is held
/// before it leaves, and let go of after.
struct Victim {
    digest: Digest,
    size: u64,
    queue: Queue,
    remember: bool,
    _leave: Leave,
    _claim: DigestClaim,
}

/// What an eviction has found so far that does not go: it is open, or its file could not be removed, or it was used.
#[derive(Default)]
struct Stuck {
    seen: HashSet<Digest>,
    /// How many have stayed because they were used, since something went.
    spared: u32,
    /// By queue, how many of those came one after the other.
    in_a_row: [usize; Queue::ALL.len()],
    /// How many files could not be removed.
    refusals: usize,
}

impl Stuck {
    fn note_stuck(&mut self, queue: Queue, digest: &Digest) {
        self.seen.insert(*digest);
        self.in_a_row[queue.index()] += 1;
    }

    fn note_other(&mut self, queue: Queue) {
        self.in_a_row[queue.index()] = 0;
    }

    /// Whether all that is in the queue has been seen, some of it twice.
    fn is_all(&self, queue: Queue) -> bool {
        self.in_a_row[queue.index()] > self.seen.len()
    }
}

/// All of these block.
impl Blobs {
    /// Makes the reservation at least `total` bytes large, and room for it if need be.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] if there is no room and nothing that may go.
    pub(super) fn reserve(&self, reservation: &mut Reservation, total: u64) -> Result<(), StoreError> {
        let before = reservation.bytes();
        self.reserve_in_budget(reservation, total)?;
        let more = reservation.bytes() - before;
        if more > 0 && !self.make_free(more) {
            reservation.shrink(before);
            return Err(StoreError::NoSpace);
        }
        Ok(())
    }

    /// As [`Blobs::reserve`], but nothing goes for it. Tells whether there was room.
    pub(super) fn reserve_what_is_free(&self, reservation: &mut Reservation, total: u64) -> bool {
        let before = reservation.bytes();
        if reservation.grow(total).is_err() {
            return false;
        }
        let more = reservation.bytes() - before;
        let is_free = more == 0 || self.lacking(self.floor(), more) == 0;
        if !is_free {
            reservation.shrink(before);
        }
        is_free
    }

    /// How many bytes the store may have: the limit, or what it has and what others have left of the file system besides.
    pub(super) fn capacity(&self) -> u64 {
        let Ok(space) = self.fs.space(self.layout.root()) else { return self.budget.max() };
        let amounts = self.budget.amounts();
        let room = space.bytes.saturating_sub(self.min_free().max(self.margin()));
        self.budget.max().min(amounts.at_rest.saturating_add(amounts.reserved).saturating_add(room))
    }

    /// Evicts what is more than the budget, or what is left to others, allows. Where nothing may go there is nothing to be done.
    pub(super) fn keep_within_limits(&self) {
        if self.budget.amounts().at_rest > self.budget.max() {
            // Who asks for room for one byte has it made.
            let _ = self.reserve_in_budget(&mut self.budget.reservation(), 1);
        }
        self.make_free(0);
    }

    /// Sees to it that the file system has room for `more` bytes besides what is left to others. Tells whether it has.
    fn make_free(&self, more: u64) -> bool {
        let floor = self.floor();
        // Nothing goes for what would not have room if all went.
        let amounts = self.budget.amounts();
        if self.lacking(floor, more) > amounts.at_rest.saturating_add(self.parts.bytes()) {
            return false;
        }
        // What goes may be free only a while later: twice is enough to find out, and not all of the cache is to go for nothing.
        for _ in 0..2 {
            while self.lacking(floor, more) > 0 && self.parts.give_up_oldest() {}
            if self.lacking(floor, more) == 0 {
                return true;
            }
            let _turn = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
            match self.lacking(floor, more) {
                0 => return true,
                lacking if self.evict(lacking, &mut |_, _| {}) == 0 => return false,
                _ => {}
            }
        }
        self.lacking(floor, more) == 0
    }

    /// How many bytes of the file system are to be free when room has been made: what is left to others, and of the margin as much as
    /// is free now. Where others have taken that, content goes for content, but not for nothing.
    fn floor(&self) -> u64 {
        let free = self.fs.space(self.layout.root()).map_or(0, |space| space.bytes);
        self.min_free().max(self.margin().min(free))
    }

    fn min_free(&self) -> u64 {
        self.min_free.load(Ordering::Relaxed)
    }

    fn margin(&self) -> u64 {
        self.margin.load(Ordering::Relaxed)
    }

    /// How many bytes have to go for `more` to have room above `floor`. Where it is inodes that are short, one is enough: with it goes
    /// a file.
    fn lacking(&self, floor: u64, more: u64) -> u64 {
        let Ok(space) = self.fs.space(self.layout.root()) else {
            // Whoever writes is told what is wrong.
            return 0;
        };
        let bytes = floor.saturating_add(more).saturating_sub(space.bytes);
        bytes.max(u64::from(space.inodes < MIN_FREE_INODES))
    }

    fn reserve_in_budget(&self, reservation: &mut Reservation, total: u64) -> Result<(), StoreError> {
        if total > self.budget.max() {
            return Err(StoreError::NoSpace);
        }
        loop {
            match reservation.grow(total) {
                Ok(()) => return Ok(()),
                // What is of use only if somebody comes back for it goes before what is whole.
                Err(_) if self.parts.give_up_oldest() => continue,
                Err(Refusal::Never) => return Err(StoreError::NoSpace),
                Err(Refusal::Evict(_)) => {}
            }
            let _turn = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever had the turn before may have made room for this one, too.
            match reservation.grow(total) {
                Ok(()) => return Ok(()),
                Err(Refusal::Never) => return Err(StoreError::NoSpace),
                Err(Refusal::Evict(bytes)) if self.evict(bytes, &mut |_, _| {}) == 0 => return Err(StoreError::NoSpace),
                Err(Refusal::Evict(_)) => {}
            }
        }
    }

    /// Evicts content of `bytes` bytes or a little more, or all that may go; nothing as long as it may not be known what is pinned.
    /// Tells what goes, with its size, and gives how many bytes went.
    fn evict(&self, bytes: u64, tell: &mut dyn FnMut(Digest, u64)) -> u64 {
        if self.walks.may_miss_pins() || self.health.is_catalog_closed() {
            return 0;
        }
        if let Err(error) = self.catalog.database.flush_accesses() {
            self.health.catalog_error("flush accesses", &error);
        }
        let capacity = self.capacity();
        let mut stuck = Stuck::default();
        let mut evicted = 0;
        while evicted < bytes && stuck.refusals < REFUSALS {
            let plan = |connection: &_| self.plan(connection, &mut stuck, bytes - evicted, capacity);
            let decisions = self.catalog.read("plan an eviction", plan).unwrap_or_default();
            if decisions.is_empty() {
                break;
            }
            match self.carry_out(decisions, &mut stuck, capacity, tell) {
                Some(gone) => evicted += gone,
                None => break,
            }
        }
        evicted
    }

    /// Decides until content of `bytes` bytes is to go, or a batch is full, or nothing is left to decide about.
    fn plan(&self, connection: &Connection, stuck: &mut Stuck, bytes: u64, capacity: u64) -> rusqlite::Result<Vec<Decision>> {
        let mut occupancy = queues::occupancy(connection)?;
        let mut last: [Option<Place>; Queue::ALL.len()] = Default::default();
        let mut entered = [false; Queue::ALL.len()];
        let mut decisions = Vec::new();
        let mut going = 0;
        while going < bytes && decisions.len() < BATCH {
            for queue in Queue::ALL.into_iter().filter(|queue| stuck.is_all(*queue)) {
                *occupancy.bytes(queue) = 0;
            }
            let Some(queue) = occupancy.next(capacity) else { break };
            let Some(candidate) = queues::oldest(connection, queue, last[queue.index()])? else {
                if entered[queue.index()] {
                    // Next is what is still to enter it.
                    break;
                }
                *occupancy.bytes(queue) = 0;
                continue;
            };
            last[queue.index()] = Some(candidate.place);
            let decision = self.decide(queue, &candidate, stuck);
            take(&mut occupancy, queue, candidate.size);
            match &decision {
                Decision::Go(_) => going += candidate.size,
                Decision::Stay { queue, .. } => {
                    *occupancy.bytes(*queue) += candidate.size;
                    entered[queue.index()] = true;
                }
            }
            decisions.push(decision);
        }
        Ok(decisions)
    }

    fn decide(&self, queue: Queue, candidate: &Candidate, stuck: &mut Stuck) -> Decision {
        let digest = candidate.place.digest;
        match queue.verdict(candidate.uses, stuck.spared) {
            Verdict::Stay { spent } => {
                stuck.spared += 1;
                stuck.note_other(queue);
                Decision::Stay { digest, queue: Queue { stage: Stage::Main, ..queue }, spent }
            }
            Verdict::Go { remember } => match self.victim(queue, candidate, remember) {
                Some(victim) => {
                    stuck.spared = 0;
                    Decision::Go(victim)
                }
                None => {
                    stuck.note_stuck(queue, &digest);
                    Decision::Stay { digest, queue, spent: 0 }
                }
            },
        }
    }

    /// Removes the files of what is to go, then changes the rows: what is counted as free is free. Gives how many bytes went, or
    /// nothing if the catalog failed.
    fn carry_out(
        &self,
        decisions: Vec<Decision>,
        stuck: &mut Stuck,
        capacity: u64,
        tell: &mut dyn FnMut(Digest, u64),
    ) -> Option<u64> {
        let (mut victims, mut staying) = (Vec::new(), Vec::new());
        for decision in decisions {
            match decision {
                Decision::Go(victim) if stuck.refusals < REFUSALS && self.unlink(&victim.digest) => {
                    stuck.note_other(victim.queue);
                    victims.push(victim);
                }
                Decision::Go(Victim { digest, queue, .. }) => {
                    stuck.refusals += 1;
                    stuck.note_stuck(queue, &digest);
                    staying.push((digest, queue, 0));
                }
                Decision::Stay { digest, queue, spent } => staying.push((digest, queue, spent)),
            }
        }
        let count = victims.len() as u64;
        let going: Vec<_> = victims.iter().map(|victim| (victim.digest, victim.queue, victim.size, victim.remember)).collect();
        let now = self.clock.unix_millis();
        let change = move |connection: &_| {
            for (digest, queue, spent) in &staying {
                queues::advance(connection, digest, *queue, *spent, now)?;
            }
            for (digest, queue, size, _) in going.iter().filter(|(.., remember)| *remember) {
                queues::remember(connection, digest, *queue, *size, queue.class.memory(capacity))?;
            }
            let (mut total, mut named) = (Change::default(), Vec::new());
            for (digest, ..) in &going {
                total = total + contents::delete(connection, digest)?;
                if forgotten::forget_content(connection, digest)? {
                    named.push(*digest);
                }
            }
            Ok((total, named))
        };
        let budget = self.budget.clone();
        let outcome = self.catalog.database.write_then(change, move |(change, named)| {
            budget.apply(change, None);
            (change.bytes.unsigned_abs(), named)
        });
        match outcome {
            Ok((evicted, named)) => {
                tracing::debug!(blobs = count, size_bytes = evicted, "evicted");
                victims.iter().for_each(|victim| tell(victim.digest, victim.size));
                self.evictions.fetch_add(count, Ordering::Relaxed);
                self.evicted_bytes.fetch_add(evicted, Ordering::Relaxed);
                drop(victims);
                self.forget(&named);
                Some(evicted)
            }
            // The rows stay, and count, until a walk finds that they have no files.
            Err(error) => {
                self.health.catalog_error("evict", &error);
                None
            }
        }
    }

    fn victim(&self, queue: Queue, candidate: &Candidate, remember: bool) -> Option<Victim> {
        let digest = candidate.place.digest;
        let claim = self.claims.try_claim(&digest)?;
        let leave = self.holds.leave(&digest)?;
        Some(Victim { digest, size: candidate.size, queue, remember, _leave: leave, _claim: claim })
    }
}

fn take(occupancy: &mut Occupancy, queue: Queue, bytes: u64) {
    let left = occupancy.bytes(queue);
    // The catalog's numbers are input.
    *left = left.saturating_sub(bytes);
}
