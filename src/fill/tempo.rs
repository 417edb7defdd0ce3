//! How many connections one content is worth: more as long as each brings more, and never for long where it does not.
//! Pure: it is told what arrived in each interval.

use std::time::Duration;

/// How often it is told.
pub(super) const INTERVAL: Duration = Duration::from_millis(250);

/// For how many intervals a number of connections that brought nothing is not tried again.
const HOLD: u32 = 40;

/// Decides how many lanes there are to be.
#[derive(Debug)]
pub(super) struct Tempo {
    lanes: usize,
    most: usize,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The interval under way is not representative: connections have just been opened or closed.
    Settling { then: After },
    /// The interval under way tells what the present lanes bring.
    Measuring,
    /// The one under way tells whether more lanes brought more than `before`, in bytes an interval, which `fewer` brought.
    Trying { fewer: usize, before: u64 },
    /// More lanes brought nothing, or are not to be had.
    Holding { intervals: u32 },
}

#[derive(Clone, Copy, Debug)]
enum After {
    Measure,
    Try { fewer: usize, before: u64 },
}

impl Tempo {
    /// Begins with one lane; `most` is at least one.
    pub(super) fn new(most: usize) -> Self {
        Self { lanes: 1, most: most.max(1), state: State::Settling { then: After::Measure } }
    }

    pub(super) fn lanes(&self) -> usize {
        self.lanes
    }

    /// An interval is over, in which `bytes` arrived.
    pub(super) fn interval(&mut self, bytes: u64) {
        self.state = match self.state {
            State::Settling { then: After::Measure } => State::Measuring,
            State::Settling { then: After::Try { fewer, before } } => State::Trying { fewer, before },
            State::Measuring if bytes == 0 || self.lanes == self.most => State::Measuring,
            State::Measuring => self.try_more(bytes),
            State::Trying { fewer, before } => {
                // Half of what they would bring if each brought as much as those before: below that, the link is the limit.
                let gain = (self.lanes - fewer) as f64 / fewer as f64;
                if bytes as f64 >= before as f64 * (1.0 + gain / 2.0) {
                    if self.lanes == self.most { State::Measuring } else { self.try_more(bytes) }
                } else {
                    self.lanes = fewer;
                    State::Holding { intervals: HOLD }
                }
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

    fn try_more(&mut self, before: u64) -> State {
        let fewer = self.lanes;
        self.lanes = (2 * self.lanes).min(self.most);
        State::Settling { then: After::Try { fewer, before } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `intervals` over a link of `link` bytes an interval, on which each connection brings `each` at most.
    fn run(tempo: &mut Tempo, intervals: usize, each: u64, link: u64) -> Vec<usize> {
        (0..intervals)
            .map(|_| {
                tempo.interval((each * tempo.lanes() as u64).min(link));
                tempo.lanes()
            })
            .collect()
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
        let lanes = run(&mut tempo, 100, 1000, 1000);
        assert!(lanes.iter().filter(|lanes| **lanes > 1).count() <= 6, "{lanes:?}");
        assert!(lanes.iter().all(|lanes| *lanes <= 2));
    }

    #[test]
    fn it_stops_where_the_link_is_full() {
        let mut tempo = Tempo::new(16);
        let lanes = run(&mut tempo, 30, 10, 42);
        assert_eq!(lanes[29], 4);
    }

    #[test]
    fn a_refusal_is_a_reason_to_hold() {
        let mut tempo = Tempo::new(4);
        run(&mut tempo, 10, 10, 1000);
        tempo.retreat();
        assert!(run(&mut tempo, 30, 10, 1000).iter().all(|lanes| *lanes == 1));
    }

    #[test]
    fn nothing_arriving_is_no_reason_for_more() {
        let mut tempo = Tempo::new(4);
        assert!(run(&mut tempo, 50, 0, 0).iter().all(|lanes| *lanes == 1));
    }
}
