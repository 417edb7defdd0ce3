//! Which pieces of a file are in memory. A look fetches a byte that nobody else wants into a cache of the processor; for a blob of one piece
//! all looks were 1 to 2 % of what it costs to send (docs/performance.md). So what was found there a moment ago is not looked for again.
//! The system gives up last what was used last; should it be wrong all the same, one thread waits for the disk.

use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// At this distance it is looked, in bytes: a look for each page would cost more than to read it. Where a page in between is not there, one
/// thread waits for the disk, as nginx does for all of them.
const PIECE: u64 = 1 << 20;

/// Of so many pieces it is remembered that they are there: 64 GiB, which takes 256 KiB.
const PIECES_MAX: u64 = 1 << 16;

/// Where to look whether `range` is in memory: at the end of each piece, or of the range.
pub(super) fn looks(range: Range<u64>) -> impl Iterator<Item = u64> {
    pieces(range).map(|(_, look)| look)
}

/// The pieces that `range` lies in, and the last byte of it in each.
fn pieces(range: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    let until = range.end.div_ceil(PIECE);
    (range.start / PIECE..until).map(move |piece| (piece, ((piece + 1) * PIECE).min(range.end) - 1))
}

/// What was found in memory of one file that does not change.
#[derive(Default)]
pub(super) struct Presence {
    size: u64,
    /// The second in which the end of each piece was found; 0 for never.
    found: Box<[AtomicU32]>,
}

impl Presence {
    /// Of a file of `size` bytes, of which nothing is known.
    pub(super) fn of(size: u64) -> Self {
        let pieces = size.div_ceil(PIECE).min(PIECES_MAX);
        Self { size, found: (0..pieces).map(|_| AtomicU32::default()).collect() }
    }

    /// Whether the bytes of `range` are in memory. `look` tells it of one byte.
    pub(super) fn covers(&self, range: Range<u64>, look: impl Fn(u64) -> bool) -> bool {
        self.covers_in(second(), range, look)
    }

    fn covers_in(&self, second: u32, range: Range<u64>, look: impl Fn(u64) -> bool) -> bool {
        pieces(range).all(|(piece, offset)| {
            let found = usize::try_from(piece).ok().and_then(|piece| self.found.get(piece));
            if found.is_some_and(|found| found.load(Ordering::Relaxed) == second) {
                return true;
            }
            let is_there = look(offset);
            let end = ((piece + 1) * PIECE).min(self.size);
            if let Some(found) = found.filter(|_| is_there && offset + 1 == end) {
                found.store(second, Ordering::Relaxed);
            }
            is_there
        })
    }
}

/// The seconds since the process began to ask for them, from 1 on.
fn second() -> u32 {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    u32::try_from(FIRST.elapsed().as_secs()).map_or(u32::MAX, |seconds| seconds.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const SIZE: u64 = 5 * PIECE + 1000;

    /// Whether `presence` covers `range`, and where it was looked.
    fn ask(presence: &Presence, second: u32, range: Range<u64>, is_there: bool) -> (bool, Vec<u64>) {
        let looks = RefCell::new(Vec::new());
        let look = |offset| {
            looks.borrow_mut().push(offset);
            is_there
        };
        let covers = presence.covers_in(second, range, look);
        (covers, looks.into_inner())
    }

    #[test]
    fn each_piece_is_looked_at_once_in_a_second() {
        let presence = Presence::of(SIZE);
        let ends = [PIECE, 2 * PIECE, 3 * PIECE, 4 * PIECE, 5 * PIECE, SIZE].map(|end| end - 1);
        for second in [1, 2] {
            assert_eq!(ask(&presence, second, 0..4 * PIECE, true), (true, ends[..4].to_vec()));
            assert_eq!(ask(&presence, second, 300..4 * PIECE + 300, true), (true, vec![4 * PIECE + 299]));
            assert_eq!(ask(&presence, second, 2 * PIECE..SIZE, true), (true, ends[4..].to_vec()));
            assert_eq!(ask(&presence, second, 0..SIZE, true), (true, vec![]));
        }
    }

    #[test]
    fn what_is_not_there_is_looked_for_again() {
        let presence = Presence::of(SIZE);
        assert_eq!(ask(&presence, 1, 0..3 * PIECE, false), (false, vec![PIECE - 1]));
        assert_eq!(ask(&presence, 1, 0..2 * PIECE, true), (true, vec![PIECE - 1, 2 * PIECE - 1]));
        assert_eq!(ask(&presence, 1, 0..3 * PIECE, false), (false, vec![3 * PIECE - 1]));
    }

    /// The rest of the piece may be elsewhere.
    #[test]
    fn a_byte_within_a_piece_says_nothing_of_it() {
        let presence = Presence::of(SIZE);
        for _ in 0..2 {
            assert_eq!(ask(&presence, 1, 7..8, true), (true, vec![7]));
            assert_eq!(ask(&presence, 1, 5 * PIECE..SIZE - 1, true), (true, vec![SIZE - 2]));
        }
    }

    #[test]
    fn of_what_changes_nothing_is_remembered() {
        let presence = Presence::default();
        for _ in 0..2 {
            assert_eq!(ask(&presence, 1, 0..PIECE, true), (true, vec![PIECE - 1]));
        }
        assert_eq!(looks(PIECE - 1..2 * PIECE + 1).collect::<Vec<_>>(), [PIECE - 1, 2 * PIECE - 1, 2 * PIECE]);
    }

    #[test]
    fn what_looks_huge_takes_little() {
        let presence = Presence::of(u64::MAX);
        assert_eq!(presence.found.len() as u64, PIECES_MAX);
        let far = PIECES_MAX * PIECE..PIECES_MAX * PIECE + 1;
        assert_eq!(ask(&presence, 1, far.clone(), true), (true, vec![far.start]));
    }
}
