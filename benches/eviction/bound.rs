//! What no policy can do better: Belady's choice over bytes instead of objects, and a cache that never forgets.

use std::collections::BTreeSet;

use super::replay::{Outcome, Policy};
use super::workload::Trace;

/// For each request, the number of the next request for the same object.
pub(crate) fn next_requests(trace: &Trace) -> Vec<Option<usize>> {
    let mut latest = vec![None; trace.objects.len()];
    let mut next: Vec<_> = trace
        .requests
        .iter()
        .enumerate()
        .rev()
        .map(|(number, request)| latest[request.object as usize].replace(number))
        .collect();
    next.reverse();
    next
}

/// An upper bound of the byte hit ratio: the cache may keep a part of an object, and evicts, byte by byte, what is asked for again
/// last, the new object's bytes included. For bytes, which are all of one size, that is the optimum (Belady, 1966), and a cache
/// that keeps whole objects can do no better. It is no bound of the object hit ratio.
pub(crate) fn byte_hit_ratio(trace: &Trace, next: &[Option<usize>], capacity: u64) -> f64 {
    let mut kept = vec![0; trace.objects.len()];
    let mut order = BTreeSet::new();
    let (mut used, mut hit_bytes, mut bytes) = (0, 0, 0);
    for (number, request) in trace.requests.iter().enumerate() {
        let (object, size) = (request.object, trace.size(request.object));
        let had = std::mem::take(&mut kept[object as usize]);
        hit_bytes += had;
        bytes += size;
        used -= had;
        order.remove(&(number, object));
        let Some(again) = next[number] else { continue };
        kept[object as usize] = size;
        used += size;
        order.insert((again, object));
        while used > capacity {
            let &(again, last) = order.last().expect("what is used is in order");
            let part = &mut kept[last as usize];
            let cut = (used - capacity).min(*part);
            *part -= cut;
            used -= cut;
            if *part == 0 {
                order.remove(&(again, last));
            }
        }
    }
    hit_bytes as f64 / bytes as f64
}

/// Keeps everything.
pub(crate) struct Unlimited(Vec<bool>);

impl Unlimited {
    pub(crate) fn new(trace: &Trace) -> Self {
        Self(vec![false; trace.objects.len()])
    }

    pub(crate) fn outcome(trace: &Trace) -> Outcome {
        Outcome::of(trace, &mut Self::new(trace))
    }
}

impl Policy for Unlimited {
    fn request(&mut self, trace: &Trace, number: usize) -> bool {
        std::mem::replace(&mut self.0[trace.requests[number].object as usize], true)
    }
}
