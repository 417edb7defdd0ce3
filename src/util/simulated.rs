//! What a simulation takes into its hands: randomness, and when work that blocks gets done. Both follow from a seed, for all that
//! runs on the thread of the simulation; other threads know nothing of it.

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The simulation of this thread. It ends when this is dropped.
pub(crate) struct Simulated(());

impl Simulated {
    /// Begins it. All randomness on this thread follows from `seed` from now on.
    pub(crate) fn begin(seed: u64) -> Self {
        STATE.set(Some(seed));
        Self(())
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        STATE.set(None);
    }
}

/// Whether this thread is one of a simulation.
pub(crate) fn is_under_way() -> bool {
    STATE.get().is_some()
}

/// A number out of the simulation, if there is one.
pub(crate) fn random() -> Option<u64> {
    let mut state = STATE.get()?;
    let number = next(&mut state);
    STATE.set(Some(state));
    Some(number)
}

/// The next of the numbers that follow from a seed, which `state` is at first. SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// How long work that blocks waits in the simulation before it is done: mostly not at all, at times as long as a busy disk takes.
pub(super) fn pause() -> Option<Duration> {
    let random = random()?;
    Some(match random % 8 {
        0..5 => Duration::ZERO,
        5 | 6 => Duration::from_micros(random >> 8 & 0xfff),
        _ => Duration::from_millis(random >> 8 & 0xff),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_none_when_it_is_over() {
        let run = |seed| {
            let _simulated = Simulated::begin(seed);
            [random(), random(), random()]
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        assert!(run(7).iter().all(Option::is_some) && random().is_none() && pause().is_none());
    }
}
