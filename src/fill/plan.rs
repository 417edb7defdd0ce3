//! Who fetches what: which bytes have arrived, which are on their way over which connection, and which are waited for.
//! Pure arithmetic; it opens no connection and knows no clock.

use std::collections::BTreeMap;
use std::ops::Range;

use super::extents::Extents;

/// A lane that will be at a wanted byte within so many bytes is waited for; another connection would not be there much sooner.
const NEAR: u64 = 2 << 20;

/// What a lane that a reader waits for brings at least, and all that a seek costs if the reader leaves at once. Where a reader goes
/// on, each next lane brings as much as those before it together.
const PIECE: u64 = 4 << 20;

/// The least that is worth a connection of its own, when nobody waits for it.
const WORTHWHILE: u64 = 4 << 20;

/// The bytes of one content: those that are here, and the lanes that bring the others.
#[derive(Debug, Default)]
pub(super) struct Plan {
    size: Option<u64>,
    arrived: Extents,
    lanes: Vec<Lane>,
    opened: u64,
    /// Where readers wait, and how many at each place.
    wanted: BTreeMap<u64, usize>,
}

/// Names a lane for as long as the plan lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LaneId(u64);

/// One connection's share. The shares of no two lanes overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lane {
    id: LaneId,
    begin: u64,
    /// All before it, from where the lane began, has arrived.
    written: u64,
    /// All before it has been taken off the connection.
    taken: u64,
    /// Where the share ends; to the end of the content while nobody knows where that is.
    end: u64,
}

/// How many lanes there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// To be fast.
    pub(super) lanes: usize,
    /// To bring what readers wait for.
    pub(super) wanted: usize,
    /// Whether the upstream can be asked for parts at all.
    pub(super) ranges: bool,
}

/// A lane to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) lane: LaneId,
    /// What to ask for; it ends at [`u64::MAX`] where the size is not known.
    pub(super) share: Range<u64>,
    /// A lane that has to stop for this one.
    pub(super) instead_of: Option<LaneId>,
}

impl Plan {
    /// The size is known now, if it was not before.
    pub(super) fn tell_size(&mut self, size: u64) {
        self.size = Some(size);
        for lane in &mut self.lanes {
            lane.end = lane.end.min(size);
        }
    }

    /// An earlier fill has left these bytes of a content of that size. The last byte is asked for in any case: to give it is the
    /// upstream's word that it has the content.
    pub(super) fn restore(&mut self, size: u64, extents: impl IntoIterator<Item = Range<u64>>) {
        self.tell_size(size);
        let all_but_last = size.saturating_sub(1);
        extents.into_iter().for_each(|extent| self.arrived.insert(extent.start.min(all_but_last)..extent.end.min(all_but_last)));
    }

    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// What has arrived.
    pub(super) fn arrived(&self) -> &[Range<u64>] {
        self.arrived.ranges()
    }

    /// The end of the unbroken run of arrived bytes that begins at `position`.
    pub(super) fn end_of_run(&self, position: u64) -> u64 {
        self.arrived.end_of_run(position)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.size.is_some_and(|size| self.arrived.end_of_run(0) == size)
    }

    /// How many bytes have arrived.
    pub(super) fn arrived_bytes(&self) -> u64 {
        self.arrived.bytes()
    }

    /// Where the share of `lane` ends by now: it may have become smaller since the lane was opened.
    pub(super) fn end_of_share(&self, lane: LaneId) -> u64 {
        self.lane(lane).map_or(0, |lane| lane.end)
    }

    /// The lane has taken all bytes before `position` off its connection.
    pub(super) fn take(&mut self, lane: LaneId, position: u64) {
        if let Some(lane) = self.lane_mut(lane) {
            lane.taken = position;
        }
    }

    /// The bytes of `range`, taken by `lane`, are in the file.
    pub(super) fn arrive(&mut self, lane: LaneId, range: Range<u64>) {
        if let Some(lane) = self.lane_mut(lane) {
            lane.written = range.end;
        }
        self.arrived.insert(range);
    }

    /// The lane is done with; what it has not brought is free for others. If it has brought nothing at all, its share goes back
    /// to the lane that it was taken from.
    pub(super) fn close(&mut self, lane: LaneId) {
        let Some(at) = self.lanes.iter().position(|open| open.id == lane) else { return };
        let closed = self.lanes.swap_remove(at);
        if closed.taken == closed.begin
            && let Some(before) = self.lanes.iter_mut().find(|open| open.end == closed.begin)
        {
            before.end = closed.end;
        }
    }

    /// A reader waits at `position`. Tells whether no lane will be there soon.
    pub(super) fn want(&mut self, position: u64) -> bool {
        *self.wanted.entry(position).or_default() += 1;
        !self.is_soon(position)
    }

    /// A reader does not wait at `position` any more.
    pub(super) fn unwant(&mut self, position: u64) {
        if let Some(count) = self.wanted.get_mut(&position) {
            *count -= 1;
            if *count == 0 {
                self.wanted.remove(&position);
            }
        }
    }

    /// The lane that should be opened next, if any. It counts as open from now on.
    pub(super) fn next(&mut self, allowance: Allowance) -> Option<Opening> {
        if self.is_complete() {
            return None;
        }
        if !allowance.ranges || self.size.is_none() {
            return self.lanes.is_empty().then(|| self.open(self.arrived.end_of_run(0), u64::MAX, None));
        }
        let unmet = self.wanted.keys().copied().find(|position| !self.is_soon(*position));
        if let Some(position) = unmet {
            let most = PIECE.max(position - self.arrived.start_of_run(position));
            if self.lanes.len() < allowance.wanted.max(1) {
                return Some(self.open(position, most, None));
            }
            if let Some(idle) = self.lanes.iter().find(|lane| !self.is_wanted(lane)).map(|lane| lane.id) {
                self.curtail(idle);
                return Some(self.open(position, most, Some(idle)));
            }
        }
        if self.lanes.len() >= allowance.lanes.max(1) {
            return None;
        }
        let begin = self.first_gap().or_else(|| self.middle_of_largest())?;
        Some(self.open(begin, u64::MAX, None))
    }

    /// Opens a lane that begins at `begin` and brings `most` bytes, or less where others bring the rest or it is there.
    fn open(&mut self, begin: u64, most: u64, instead_of: Option<LaneId>) -> Opening {
        let size = self.size.unwrap_or(u64::MAX);
        let next_arrived = self.arrived.next_after(begin).unwrap_or(size);
        let next_lane = self.lanes.iter().map(|lane| lane.written).filter(|written| *written > begin).min().unwrap_or(size);
        let share = begin..size.min(next_arrived).min(next_lane).min(begin.saturating_add(most));
        // Whoever had these bytes before them as its share stops there.
        for lane in self.lanes.iter_mut().filter(|lane| lane.written <= begin && begin < lane.end) {
            lane.end = begin.max(lane.taken);
        }
        let lane = LaneId(self.opened);
        self.opened += 1;
        self.lanes.push(Lane { id: lane, begin, written: begin, taken: begin, end: share.end });
        Opening { lane, share, instead_of }
    }

    /// Leaves the lane nothing but what it has taken already.
    pub(super) fn curtail(&mut self, lane: LaneId) {
        if let Some(lane) = self.lane_mut(lane) {
            lane.end = lane.taken;
        }
    }

    /// Whether `position` has arrived or will within a moment.
    fn is_soon(&self, position: u64) -> bool {
        self.arrived.end_of_run(position) > position
            || self.lanes.iter().any(|lane| lane.written <= position && position < lane.end && position < lane.taken + NEAR)
    }

    /// Whether a reader waits for what the lane is bringing.
    fn is_wanted(&self, lane: &Lane) -> bool {
        self.wanted.range(lane.written..lane.end.min(lane.taken + NEAR)).next().is_some()
    }

    /// The first byte that has neither arrived nor is any lane's share.
    fn first_gap(&self) -> Option<u64> {
        let size = self.size?;
        let mut position = 0;
        loop {
            position = self.arrived.end_of_run(position);
            match self.lanes.iter().find(|lane| lane.written <= position && position < lane.end) {
                Some(lane) => position = lane.end,
                None => return (position < size).then_some(position),
            }
        }
    }

    /// Where to cut the largest share in two, if both halves are worth it.
    fn middle_of_largest(&self) -> Option<u64> {
        let largest = self.lanes.iter().max_by_key(|lane| lane.end - lane.taken)?;
        let left = largest.end - largest.taken;
        (left >= 2 * WORTHWHILE).then(|| largest.taken + left / 2)
    }

    fn lane(&self, id: LaneId) -> Option<&Lane> {
        self.lanes.iter().find(|lane| lane.id == id)
    }

    fn lane_mut(&mut self, id: LaneId) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|lane| lane.id == id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MB: u64 = 1 << 20;

    fn allow(lanes: usize, wanted: usize) -> Allowance {
        Allowance { lanes, wanted, ranges: true }
    }

    fn plan(size: u64) -> Plan {
        let mut plan = Plan::default();
        plan.tell_size(size);
        plan
    }

    #[test]
    fn one_lane_takes_it_all_and_a_second_one_half_of_the_rest() {
        let mut plan = plan(100 * MB);
        let first = plan.next(allow(1, 4)).unwrap();
        assert_eq!(first.share, 0..100 * MB);
        assert_eq!(plan.next(allow(1, 4)), None);
        plan.take(first.lane, 20 * MB);
        plan.arrive(first.lane, 0..10 * MB);
        assert_eq!(plan.next(allow(2, 4)).unwrap().share, 60 * MB..100 * MB);
        assert_eq!(plan.end_of_share(first.lane), 60 * MB);
        assert_eq!(plan.next(allow(2, 4)), None);
    }

    #[test]
    fn what_a_reader_waits_for_gets_a_lane_unless_one_is_near() {
        let mut plan = plan(100 * MB);
        let first = plan.next(allow(1, 2)).unwrap();
        assert!(!plan.want(MB), "the first lane is nearly there");
        assert_eq!(plan.next(allow(1, 2)), None);
        assert!(plan.want(50 * MB));
        let second = plan.next(allow(1, 2)).unwrap();
        assert_eq!(second.share, 50 * MB..54 * MB);
        assert_eq!(plan.end_of_share(first.lane), 50 * MB);
        // No third lane: the one that nobody waits for gives way.
        assert!(plan.want(97 * MB));
        plan.unwant(MB);
        let third = plan.next(allow(1, 2)).unwrap();
        assert_eq!((third.share, third.instead_of), (97 * MB..100 * MB, Some(first.lane)));
    }

    #[test]
    fn a_reader_that_goes_on_gets_ever_larger_pieces() {
        let mut plan = plan(100 * MB);
        let first = plan.next(allow(1, 2)).unwrap();
        let mut position = 20 * MB;
        for piece in [4, 4, 8, 16, 32, 16] {
            plan.want(position);
            let opening = plan.next(allow(1, 2)).unwrap();
            assert_eq!(opening.share, position..position + piece * MB);
            plan.unwant(position);
            plan.take(opening.lane, opening.share.end);
            plan.arrive(opening.lane, opening.share.clone());
            plan.close(opening.lane);
            position = opening.share.end;
        }
        assert_eq!(plan.end_of_share(first.lane), 20 * MB);
    }

    #[test]
    fn what_an_earlier_fill_left_is_not_asked_for_but_for_the_last_byte() {
        let mut restored = Plan::default();
        restored.restore(100 * MB, [0..30 * MB, 50 * MB..60 * MB]);
        assert_eq!(restored.next(allow(1, 1)).unwrap().share, 30 * MB..50 * MB);
        assert_eq!((restored.end_of_run(0), restored.arrived_bytes()), (30 * MB, 40 * MB));
        let mut restored = Plan::default();
        restored.restore(100, Some(0..100));
        assert_eq!(restored.next(allow(1, 1)).unwrap().share, 99..100);
        let mut restored = Plan::default();
        restored.restore(1, Some(0..1));
        assert_eq!(restored.next(allow(1, 1)).unwrap().share, 0..1);
    }

    #[test]
    fn without_ranges_there_is_one_lane_from_where_it_stands() {
        let mut plan = Plan::default();
        let allowance = Allowance { lanes: 4, wanted: 4, ranges: false };
        let first = plan.next(allowance).unwrap();
        assert_eq!(first.share, 0..u64::MAX);
        plan.want(5);
        assert_eq!(plan.next(allowance), None);
        plan.take(first.lane, 3);
        plan.arrive(first.lane, 0..3);
        plan.close(first.lane);
        assert_eq!(plan.next(allowance).unwrap().share, 3..u64::MAX);
    }

    #[derive(Clone, Debug)]
    enum Move {
        Open { lanes: usize, wanted: usize },
        Bring { lane: prop::sample::Index, bytes: u64 },
        Break { lane: prop::sample::Index },
        Want { position: prop::sample::Index },
        Leave,
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let a_move = prop_oneof![
            3 => (1usize..5, 1usize..5).prop_map(|(lanes, wanted)| Move::Open { lanes, wanted }),
            6 => (any::<prop::sample::Index>(), 1..8 * MB).prop_map(|(lane, bytes)| Move::Bring { lane, bytes }),
            1 => any::<prop::sample::Index>().prop_map(|lane| Move::Break { lane }),
            2 => any::<prop::sample::Index>().prop_map(|position| Move::Want { position }),
            1 => Just(Move::Leave),
        ];
        prop::collection::vec(a_move, 0..60)
    }

    proptest! {
        /// Whatever happens: no byte is any two lanes' share, none is brought twice, and in the end all are there.
        #[test]
        fn every_byte_is_brought_exactly_once(size in 1..64 * MB, moves in moves()) {
            let mut plan = plan(size);
            let mut brought: u64 = 0;
            let mut wanted = Vec::new();
            let step = |plan: &mut Plan, a_move: Move, brought: &mut u64, wanted: &mut Vec<u64>| match a_move {
                Move::Open { lanes, wanted } => {
                    plan.next(allow(lanes, wanted));
                }
                Move::Bring { lane, bytes } if !plan.lanes.is_empty() => {
                    let Lane { id, taken, end, .. } = plan.lanes[lane.index(plan.lanes.len())];
                    let to = end.min(taken + bytes);
                    plan.take(id, to);
                    plan.arrive(id, taken..to);
                    *brought += to - taken;
                    if to == end {
                        plan.close(id);
                    }
                }
                Move::Break { lane } if !plan.lanes.is_empty() => plan.close(plan.lanes[lane.index(plan.lanes.len())].id),
                Move::Want { position } => {
                    let position = position.index(size as usize) as u64;
                    plan.want(position);
                    wanted.push(position);
                }
                Move::Leave => wanted.drain(..).for_each(|position| plan.unwant(position)),
                Move::Bring { .. } | Move::Break { .. } => {}
            };
            for a_move in moves {
                step(&mut plan, a_move, &mut brought, &mut wanted);
                let mut shares: Vec<_> = plan.lanes.iter().map(|lane| lane.taken..lane.end).filter(|share| !share.is_empty()).collect();
                shares.sort_by_key(|share| share.start);
                prop_assert!(shares.windows(2).all(|pair| pair[0].end <= pair[1].start), "{shares:?}");
                prop_assert!(shares.iter().all(|share| plan.arrived.next_after(share.start).is_none_or(|next| next >= share.end)));
            }
            for _ in 0..10_000 {
                if plan.is_complete() {
                    break;
                }
                step(&mut plan, Move::Open { lanes: 2, wanted: 2 }, &mut brought, &mut wanted);
                step(&mut plan, Move::Bring { lane: prop::sample::Index::default_first(), bytes: 8 * MB }, &mut brought, &mut wanted);
            }
            prop_assert!(plan.is_complete());
            prop_assert_eq!(brought, size);
        }
    }

    trait First {
        fn default_first() -> Self;
    }

    impl First for prop::sample::Index {
        /// The index of the first of however many there are.
        fn default_first() -> Self {
            use proptest::strategy::ValueTree;
            use proptest::test_runner::TestRunner;
            let mut tree = any::<prop::sample::Index>().new_tree(&mut TestRunner::deterministic()).unwrap();
            while tree.simplify() {}
            tree.current()
        }
    }
}
