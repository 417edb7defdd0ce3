//! The randomness of a schedule: everything that is left to chance in it follows from one number. It knows no other source.

use std::ops::Range;
use std::time::Duration;

use crate::util::simulated;

/// A stream of numbers that its seed determines.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice of their own, so that how often one part of the simulation rolls does not change what another part gets.
    pub(super) fn fork(&mut self) -> Self {
        Self(self.roll())
    }

    pub(super) fn roll(&mut self) -> u64 {
        simulated::next(&mut self.0)
    }

    /// A number in `range`; its start if it is empty.
    pub(super) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.roll() % range.end.saturating_sub(range.start).max(1)
    }

    /// Whether something happens that happens once in `times`.
    pub(super) fn one_in(&mut self, times: u64) -> bool {
        self.roll().is_multiple_of(times)
    }

    pub(super) fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    /// One of `choices`, of which there is at least one.
    pub(super) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let index = self.roll() % choices.len() as u64;
        &choices[usize::try_from(index).expect("an index of a slice")]
    }
}
