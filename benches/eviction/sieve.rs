//! SIEVE (Zhang et al., NSDI'24) by bytes: one queue, one bit for each object, and a hand that goes round.

use std::collections::{BTreeMap, HashMap};

use super::replay::Policy;
use super::workload::Trace;

pub(crate) struct Sieve {
    capacity: u64,
    used: u64,
    arrivals: u64,
    /// By arrival.
    queue: BTreeMap<u64, u32>,
    /// Arrival, and whether it was asked for since the hand passed.
    known: HashMap<u32, (u64, bool)>,
    hand: u64,
}

impl Sieve {
    pub(crate) fn new(capacity: u64) -> Self {
        Self { capacity, used: 0, arrivals: 0, queue: BTreeMap::new(), known: HashMap::new(), hand: 0 }
    }

    fn evict(&mut self, trace: &Trace) {
        loop {
            let next = self.queue.range(self.hand..).next().or_else(|| self.queue.iter().next());
            let (&arrival, &object) = next.expect("what is used is in the queue");
            self.hand = arrival + 1;
            let (_, visited) = self.known.get_mut(&object).expect("what is in the queue is known");
            if !std::mem::take(visited) {
                self.queue.remove(&arrival);
                self.known.remove(&object);
                self.used -= trace.size(object);
                return;
            }
        }
    }
}

impl Policy for Sieve {
    fn request(&mut self, trace: &Trace, number: usize) -> bool {
        let object = trace.requests[number].object;
        if let Some((_, visited)) = self.known.get_mut(&object) {
            *visited = true;
            return true;
        }
        let size = trace.size(object);
        if size <= self.capacity {
            while self.used + size > self.capacity {
                self.evict(trace);
            }
            self.arrivals += 1;
            self.queue.insert(self.arrivals, object);
            self.known.insert(object, (self.arrivals, false));
            self.used += size;
        }
        false
    }
}
