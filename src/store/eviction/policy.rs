//! Which content goes when room is needed: S3-FIFO (Yang et al., SOSP'23) by bytes, in two classes of size. Pure decisions, shared
//! by the store and by the benchmark; nothing in here knows where content is or whether somebody reads it.
//!
//! New content is on probation, a short first-in-first-out queue. If it is used there it moves to the main queue when its turn to
//! go comes; if it is not, it goes, and is remembered for a while: should it come back in that time, it begins in the main queue. In
//! the main queue each use buys another round. A scan thus passes through probation and leaves the rest alone.

/// Content below this many bytes is small, and so are manifests of any size.
const SMALL: u64 = 1 << 20;

/// The share of the budget that small content has to itself: what it has beyond that goes first, what is within goes last.
const SMALL_SHARE: u64 = 20;

/// Content on probation goes first while it has more than this share of the bytes of its class.
const PROBATION_SHARE: u64 = 20;

/// Uses are counted up to this number: two bits, as in the paper.
pub(crate) const MAX_USES: u8 = 3;

/// So many contents stay, one after the other, because they were used; the next one goes however much it was. Else the first eviction
/// after a time in which everything was used would go through all there is, three times over.
pub(crate) const PATIENCE: u32 = 128;

/// Reads less than this far apart, in milliseconds, are one use: HEAD and GET, the ranges of a lazy pull, a retry, the pull that a
/// prefetch ran ahead of.
pub(crate) const APART: u64 = 10 * 60 * 1000;

/// Classes have queues of their own, since a manifest and a layer differ in size by a factor of a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    Small,
    Large,
}

/// Within a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    Probation,
    Main,
}

/// A first-in-first-out queue of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Queue {
    pub(crate) class: Class,
    pub(crate) stage: Stage,
}

/// How many bytes are in each queue. A queue in which nothing may go is given as if it were empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Occupancy([u64; Queue::ALL.len()]);

/// What becomes of the content that has been in its queue for longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// To the end of the main queue of its class. What it is known to have been used is less by `spent` from now on.
    Stay { spent: u8 },
    /// Out; its digest is remembered if `remember`.
    Go { remember: bool },
}

impl Class {
    pub(crate) fn of(size: u64, is_manifest: bool) -> Self {
        if is_manifest || size < SMALL { Self::Small } else { Self::Large }
    }

    /// For how long what went is remembered: while no more than so many bytes of its class have followed it, all that the class has
    /// room for. With less, what is asked for at longer intervals would not be let in although there is room for it.
    pub(crate) fn memory(self, budget: u64) -> u64 {
        let small = budget / SMALL_SHARE;
        match self {
            Self::Small => small,
            Self::Large => budget - small,
        }
    }
}

impl Queue {
    pub(crate) const ALL: [Self; 4] = [
        Self::new(Class::Small, Stage::Probation),
        Self::new(Class::Small, Stage::Main),
        Self::new(Class::Large, Stage::Probation),
        Self::new(Class::Large, Stage::Main),
    ];

    pub(crate) const fn new(class: Class, stage: Stage) -> Self {
        Self { class, stage }
    }

    /// Where content begins that is new. `remembered` tells that it went not long ago.
    pub(crate) fn of_new(class: Class, remembered: bool) -> Self {
        Self { class, stage: if remembered { Stage::Main } else { Stage::Probation } }
    }

    /// Its place in [`Queue::ALL`].
    pub(crate) const fn index(self) -> usize {
        let class = match self.class {
            Class::Small => 0,
            Class::Large => 2,
        };
        match self.stage {
            Stage::Probation => class,
            Stage::Main => class + 1,
        }
    }

    /// Decides about the oldest content of this queue, which has been used so often since it was last decided about. `spared` says how
    /// many have stayed since an eviction began or something went.
    pub(crate) fn verdict(self, uses: u8, spared: u32) -> Verdict {
        match (self.stage, if spared < PATIENCE { uses } else { 0 }) {
            (Stage::Probation, 0) => Verdict::Go { remember: true },
            (Stage::Main, 0) => Verdict::Go { remember: false },
            (Stage::Probation, uses) => Verdict::Stay { spent: uses },
            (Stage::Main, _) => Verdict::Stay { spent: 1 },
        }
    }
}

impl Occupancy {
    pub(crate) fn bytes(&mut self, queue: Queue) -> &mut u64 {
        &mut self.0[queue.index()]
    }

    /// The queue whose oldest content is decided about next, in a store of `budget` bytes; `None` if all are empty.
    pub(crate) fn next(&self, budget: u64) -> Option<Queue> {
        let [small_probation, small_main, large_probation, large_main] = self.0;
        let (small, large) = (small_probation + small_main, large_probation + large_main);
        let (class, probation, all) = if large == 0 || small > budget / SMALL_SHARE {
            (Class::Small, small_probation, small)
        } else {
            (Class::Large, large_probation, large)
        };
        let stage = if probation == all || probation > all / PROBATION_SHARE { Stage::Probation } else { Stage::Main };
        (all > 0).then_some(Queue { class, stage })
    }
}

/// Whether a read at `now` is another use of content that was last used at `last`, both in milliseconds since 1970.
pub(crate) fn is_use(last: i64, now: i64) -> bool {
    // The clock may have been set back: what lies in the future is as far away as what lies in the past.
    now.abs_diff(last) >= APART
}
