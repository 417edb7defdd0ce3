//! How many connections one content is worth: more as long as each brings more, and never for long where it does not.
//! Pure: it is told what arrived in each interval.

use std::time::Duration;

/// How often it is told.
pub(super) const INTERVAL: Duration = Duration::from_millis(250);

/// How often that is in a second.
pub(super) const INTERVALS_PER_SECOND: u64 = 4;

/// What is fast enough, from one upstream, in bytes an interval: 64 MiB a second. Whether more connections bring more than that is not
/// worth finding out at the upstream's expense.
const ENOUGH: u64 = 16 << 20;

/// A content that will be here after so many intervals anyway is not worth more connections.
const SOON: u64 = 8;

/// For how many intervals a number of connections that brought nothing is not tried again, the first time; then twice as long, and so on.
const HOLD: u32 = 40;

/// The longest of these times: about five minutes.
const HOLD_MOST: u32 = 1280;

/// Decides how many lanes there are to be.
#[derive(Debug)]
pub(super) struct Tempo {
    lanes: usize,
    most: usize,
    hold: u32,
    state: State,
}

/// What an interval brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Bytes of this content.
    pub(super) bytes: u64,
    /// Bytes of all contents from the same upstream.
    pub(super) of_link: u64,
    /// Connections to it, for all contents.
    pub(super) lanes_of_link: usize,
    /// Bytes of this content that are still to come.
    pub(super) rest: u64,
    /// Whether it is this content's turn to try.
    pub(super) may_try: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The interval under way is not representative: connections have just been opened or closed.
    Settling { then: After },
    /// The interval under way tells what the present lanes bring.
    Measuring,
    /// The one under way tells whether more lanes brought more.
    Trying(Before),
    /// More lanes brought nothing, or are not to be had.
    Holding { intervals: u32 },
}

/// What there was before more lanes were tried.
#[derive(Clone, Copy, Debug)]
struct Before {
    lanes: usize,
    bytes: u64,
    of_link: u64,
    lanes_of_link: usize,
}

#[derive(Clone, Copy, Debug)]
enum After {
    Measure,
    Try(Before),
}

impl Tempo {
    /// Begins with one lane; `most` is at least one.
    pub(super) fn new(most: usize) -> Self {
        Self { lanes: 1, most: most.max(1), hold: HOLD, state: State::Settling { then: After::Measure } }
    }

    pub(super) fn lanes(&self) -> usize {
        self.lanes
    }

    /// Whether it is being found out if more lanes bring more.
    pub(super) fn is_trying(&self) -> bool {
        matches!(self.state, State::Trying(_) | State::Settling { then: After::Try(_) })
    }

    /// An interval is over.
    pub(super) fn interval(&mut self, sample: Sample) {
        self.state = match self.state {
            State::Settling { then: After::Measure } => State::Measuring,
            State::Settling { then: After::Try(before) } => State::Trying(before),
            State::Measuring => self.try_more(sample),
            State::Trying(before) if before.is_exceeded(self.lanes, sample) => self.try_more(sample),
            State::Trying(before) => {
                self.lanes = before.lanes;
                self.hold()
            }
            State::Holding { intervals: 0 } => State::Settling { then: After::Measure },
            State::Holding { intervals } => State::Holding { intervals: intervals - 1 },
        };
    }

    /// A connection failed or was refused: one is enough for a while.
    pub(super) fn retreat(&mut self) {
        self.lanes = 1;
        self.state = State::Holding { intervals: HOLD };
    }

    fn hold(&mut self) -> State {
        let intervals = self.hold;
        self.hold = (2 * self.hold).min(HOLD_MOST);
        State::Holding { intervals }
    }

    /// Has more lanes opened, if that can be of use.
    fn try_more(&mut self, sample: Sample) -> State {
        let Sample { bytes, of_link, lanes_of_link, rest, may_try } = sample;
        if self.lanes == self.most || !may_try || bytes == 0 || of_link >= ENOUGH || rest <= bytes.saturating_mul(SOON) {
            return State::Measuring;
        }
        let before = Before { lanes: self.lanes, bytes, of_link, lanes_of_link };
        self.lanes = (2 * self.lanes).min(self.most);
        State::Settling { then: After::Try(before) }
    }
}

impl Before {
    /// Whether `lanes` have brought at least half of what they would if each brought as much as those before, to this content and to
    /// all from its upstream. Where they have not, the link is the limit, and what one content gains the others lose.
    fn is_exceeded(&self, lanes: usize, now: Sample) -> bool {
        let added = (lanes - self.lanes) as f64;
        let gain = |before: usize| 1.0 + added / before.max(1) as f64 / 2.0;
        now.bytes as f64 >= self.bytes as f64 * gain(self.lanes)
            && now.of_link as f64 >= self.of_link as f64 * gain(self.lanes_of_link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: u64 = 1 << 40;

    /// Runs `intervals` over a link of `link` bytes an interval, on which each connection brings `each` at most, and of which others
    /// have `others` connections.
    fn run_beside(tempo: &mut Tempo, intervals: usize, each: u64, link: u64, others: usize) -> Vec<usize> {
        (0..intervals)
            .map(|_| {
                let lanes_of_link = tempo.lanes() + others;
                let of_link = (each * lanes_of_link as u64).min(link);
                let bytes = of_link * tempo.lanes() as u64 / lanes_of_link as u64;
                tempo.interval(Sample { bytes, of_link, lanes_of_link, rest: FAR, may_try: true });
                tempo.lanes()
            })
            .collect()
    }

    fn run(tempo: &mut Tempo, intervals: usize, each: u64, link: u64) -> Vec<usize> {
        run_beside(tempo, intervals, each, link, 0)
    }

    #[test]
    fn connections_that_are_limited_each_are_multiplied() {
        let mut tempo = Tempo::new(4);
        let lanes = run(&mut tempo, 10, 10, 1000);
        assert_eq!(lanes[9], 4);
        assert!(lanes.iter().position(|lanes| *lanes == 4).is_some_and(|at| at <= 4), "{lanes:?}");
    }

    #[test]
    fn where_the_link_is_the_limit_a_second_one_does_not_stay() {
        let mut tempo = Tempo::new(8);
        let lanes = run(&mut tempo, 1000, 1000, 1000);
        assert!(lanes.iter().filter(|lanes| **lanes > 1).count() <= 12, "{lanes:?}");
        assert!(lanes.iter().all(|lanes| *lanes <= 2));
    }

    #[test]
    fn it_stops_where_the_link_is_full() {
        let mut tempo = Tempo::new(16);
        let lanes = run(&mut tempo, 30, 10, 42);
        assert_eq!(lanes[29], 4);
    }

    #[test]
    fn what_it_would_take_from_others_is_no_gain() {
        let mut tempo = Tempo::new(4);
        // Of a full link with three more connections on it, a second one would bring this content 1.6 times as much.
        let lanes = run_beside(&mut tempo, 40, 1000, 1000, 3);
        assert!(lanes.iter().filter(|lanes| **lanes > 1).count() <= 2, "{lanes:?}");
        let mut tempo = Tempo::new(4);
        assert_eq!(run_beside(&mut tempo, 20, 10, 1000, 3)[19], 4, "there is room for all");
    }

    #[test]
    fn what_is_fast_or_nearly_here_is_left_alone() {
        let sample = Sample { bytes: 10, of_link: 10, lanes_of_link: 1, rest: FAR, may_try: true };
        for (sample, lanes) in [
            (sample, 2),
            (Sample { of_link: ENOUGH, ..sample }, 1),
            (Sample { rest: 80, ..sample }, 1),
            (Sample { may_try: false, ..sample }, 1),
            (Sample { bytes: 0, ..sample }, 1),
        ] {
            let mut tempo = Tempo::new(2);
            tempo.interval(sample);
            tempo.interval(sample);
            assert_eq!((tempo.lanes(), tempo.is_trying()), (lanes, lanes == 2), "{sample:?}");
        }
    }

    #[test]
    fn a_refusal_is_a_reason_to_hold() {
        let mut tempo = Tempo::new(4);
        run(&mut tempo, 10, 10, 1000);
        tempo.retreat();
        assert!(run(&mut tempo, 30, 10, 1000).iter().all(|lanes| *lanes == 1));
    }
}
