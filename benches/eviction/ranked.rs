//! Policies that give each object a rank and evict the lowest: FIFO, LRU, GDSF, and those that know the future.

use std::collections::{BTreeSet, HashMap};

use super::replay::Policy;
use super::workload::{Kind, Trace};

/// What a rank is made of.
#[derive(Clone, Copy)]
pub(crate) struct Moment<'a> {
    pub(crate) trace: &'a Trace,
    /// The number of the request, and when the object is asked for again, if ever.
    pub(crate) number: usize,
    pub(crate) next: Option<usize>,
    pub(crate) object: u32,
    /// How often it was asked for since it came.
    pub(crate) frequency: u64,
    /// The highest rank that was evicted.
    pub(crate) floor: f64,
}

/// Ranks are not negative.
pub(crate) type Rank = fn(&Moment<'_>) -> f64;

pub(crate) struct Ranked<'a> {
    capacity: u64,
    rank: Rank,
    /// FIFO does not look again at what it has.
    rank_again: bool,
    /// Whether what would be evicted first is not even let in.
    bypass: bool,
    next: &'a [Option<usize>],
    used: u64,
    /// In order: non-negative floating-point numbers are, as bits, in the order of their values.
    order: BTreeSet<(u64, u32)>,
    known: HashMap<u32, Known>,
    floor: u64,
}

#[derive(Clone, Copy)]
struct Known {
    rank: u64,
    frequency: u64,
}

impl<'a> Ranked<'a> {
    fn new(capacity: u64, next: &'a [Option<usize>], rank: Rank) -> Self {
        let (order, known) = (BTreeSet::new(), HashMap::new());
        Self { capacity, rank, rank_again: true, bypass: false, next, used: 0, order, known, floor: 0 }
    }

    pub(crate) fn fifo(capacity: u64, next: &'a [Option<usize>]) -> Self {
        Self { rank_again: false, ..Self::lru(capacity, next) }
    }

    pub(crate) fn lru(capacity: u64, next: &'a [Option<usize>]) -> Self {
        Self::new(capacity, next, |moment| moment.number as f64)
    }

    /// What Larder did before: LRU, and what is small or a manifest after all else.
    pub(crate) fn lru_small_last(capacity: u64, next: &'a [Option<usize>]) -> Self {
        Self::new(capacity, next, |moment| {
            let object = &moment.trace.objects[moment.object as usize];
            let is_protected = object.size < 1 << 20 || object.kind == Kind::Manifest;
            moment.number as f64 + if is_protected { moment.trace.requests.len() as f64 } else { 0.0 }
        })
    }

    /// Greedy-Dual-Size-Frequency (Cherkasova, 1998), of uniform cost.
    pub(crate) fn gdsf(capacity: u64, next: &'a [Option<usize>]) -> Self {
        Self::new(capacity, next, |moment| moment.floor + moment.frequency as f64 / moment.trace.size(moment.object) as f64)
    }

    /// A heuristic that knows the future: what takes most bytes for the longest time goes first.
    pub(crate) fn belady_size(capacity: u64, next: &'a [Option<usize>]) -> Self {
        let rank: Rank = |moment| match moment.next {
            Some(next) => 1.0 / ((next - moment.number) as f64 * moment.trace.size(moment.object) as f64),
            None => 0.0,
        };
        Self { bypass: true, ..Self::new(capacity, next, rank) }
    }
}

impl Policy for Ranked<'_> {
    fn request(&mut self, trace: &Trace, number: usize) -> bool {
        let object = trace.requests[number].object;
        let before = self.known.get(&object).copied();
        if before.is_some() && !self.rank_again {
            return true;
        }
        let frequency = before.map_or(1, |known| known.frequency + 1);
        let floor = f64::from_bits(self.floor);
        let moment = Moment { trace, number, next: self.next[number], object, frequency, floor };
        let rank = (self.rank)(&moment).to_bits();
        match before {
            Some(known) => {
                self.order.remove(&(known.rank, object));
            }
            None if !self.make_room(trace, trace.size(object), rank) => return false,
            None => self.used += trace.size(object),
        }
        self.order.insert((rank, object));
        self.known.insert(object, Known { rank, frequency });
        before.is_some()
    }
}

impl Ranked<'_> {
    fn make_room(&mut self, trace: &Trace, size: u64, rank: u64) -> bool {
        if size > self.capacity {
            return false;
        }
        while self.used + size > self.capacity {
            let (lowest, object) = *self.order.first().expect("what is used is in order");
            if self.bypass && lowest >= rank {
                return false;
            }
            self.order.remove(&(lowest, object));
            self.known.remove(&object);
            self.used -= trace.size(object);
            self.floor = lowest;
        }
        true
    }
}
