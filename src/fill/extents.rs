//! The map of what has arrived: disjoint ranges of bytes, in order. Pure arithmetic.

use std::ops::Range;

/// A set of byte positions, kept as disjoint, non-adjacent, non-empty ranges in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extents(Vec<Range<u64>>);

impl Extents {
    /// Adds `range`, merging it with what it touches.
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|have| have.end < range.start);
        let last = self.0.partition_point(|have| have.start <= range.end);
        let merged = match self.0.get(first..last) {
            Some([]) | None => range,
            Some([one]) => one.start.min(range.start)..one.end.max(range.end),
            Some([from, .., to]) => from.start.min(range.start)..to.end.max(range.end),
        };
        self.0.splice(first..last, [merged]);
    }

    /// The end of the unbroken run of bytes that begins at `position`; `position` itself if that byte is not there.
    pub(super) fn end_of_run(&self, position: u64) -> u64 {
        let next = self.0.partition_point(|have| have.end <= position);
        self.0.get(next).filter(|have| have.start <= position).map_or(position, |have| have.end)
    }

    /// The beginning of the unbroken run of bytes that ends right before `position`; `position` itself if that byte is not there.
    pub(super) fn start_of_run(&self, position: u64) -> u64 {
        let before = self.0.partition_point(|have| have.start < position);
        before.checked_sub(1).map(|at| &self.0[at]).filter(|have| have.end >= position).map_or(position, |have| have.start)
    }

    /// The ranges, in ascending order.
    pub(super) fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }

    /// How many bytes are in it.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// The first position after `position` at which a range begins.
    pub(super) fn next_after(&self, position: u64) -> Option<u64> {
        self.0.get(self.0.partition_point(|have| have.start <= position)).map(|have| have.start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_become_one() {
        let mut extents = Extents::default();
        extents.insert(10..20);
        extents.insert(30..40);
        assert_eq!(
            (extents.end_of_run(0), extents.end_of_run(10), extents.end_of_run(19), extents.end_of_run(20)),
            (0, 20, 20, 20)
        );
        extents.insert(20..30);
        assert_eq!((extents.0.len(), extents.end_of_run(10)), (1, 40));
    }

    proptest! {
        #[test]
        fn it_is_the_set_it_claims_to_be(ranges in prop::collection::vec((0u64..60, 0u64..20), 0..12), position in 0u64..80) {
            let mut extents = Extents::default();
            let mut model = [false; 100];
            for (start, length) in ranges {
                extents.insert(start..start + length);
                model[start as usize..(start + length) as usize].fill(true);
            }
            let end = (position..).find(|at| !model[*at as usize]).unwrap_or(position);
            prop_assert_eq!(extents.end_of_run(position), end);
            let start = (0..position).rev().find(|at| !model[*at as usize]).map_or(0, |at| at + 1);
            prop_assert_eq!(extents.start_of_run(position), start);
            prop_assert!(extents.0.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert!(extents.0.iter().all(|range| range.start < range.end));
        }
    }
}
