//! Whether an endpoint is believed to answer, by how the last questions to it ended. It is told what happened and when, and decides;
//! it never asks, waits or logs.

use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::error::{Phase, UpstreamError, is_server_failure};
use crate::util::jitter;

/// After so many failures, with no answer among them, nothing is asked for a while. One suffices if nothing could be connected to.
const FAILURES: u32 = 3;

/// How long an endpoint is left alone at first, doubled each time that it still fails then.
const FIRST_HOLD: Duration = Duration::from_millis(500);

/// The longest time between two looks at it.
const LAST_HOLD: Duration = Duration::from_secs(15);

/// An endpoint that fails again sooner than this after it was found to answer is left alone for longer than the last time.
const STEADY: Duration = Duration::from_secs(30);

/// What the end of a question says of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answers, whatever it says.
    Answers,
    /// There was no answer, or one that says that there is none.
    Fails,
    /// There was no connection.
    IsUnreachable,
    /// Nothing: it was not the endpoint's doing, or a matter of one body.
    Nothing,
}

/// Whether an endpoint is asked.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// How often it has opened.
    openings: u64,
    hold: Duration,
    closed_at: Option<Instant>,
}

#[derive(Debug)]
enum State {
    /// It is asked. So many failures have there been since its last answer.
    Closed {
        failures: u32,
    },
    Open(Open),
}

/// An endpoint that is left alone.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) since: Instant,
    /// How it failed the last time.
    pub(super) cause: UpstreamError,
    /// When it is looked at again.
    pub(super) look_at: Instant,
}

/// Which opening of the breaker something belongs to: a question to the time before it, a look to the time after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening(u64);

/// What has become of the breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Opened(Opening),
    /// After so long.
    Closed(Duration),
}

impl Verdict {
    pub(super) fn of<T>(result: &Result<T, UpstreamError>) -> Self {
        let Err(error) = result else { return Self::Answers };
        match error {
            UpstreamError::Unreachable { .. } => Self::IsUnreachable,
            UpstreamError::Timeout { phase: Phase::Resolve | Phase::Connect } => Self::IsUnreachable,
            UpstreamError::Timeout { phase: Phase::Headers | Phase::Token } => Self::Fails,
            UpstreamError::NoAnswer { .. } => Self::Fails,
            UpstreamError::Status { status, .. } if is_server_failure(*status) => Self::Fails,
            UpstreamError::NotFound
            | UpstreamError::Denied { .. }
            | UpstreamError::RateLimited { .. }
            | UpstreamError::RangeNotSatisfiable
            | UpstreamError::Status { .. } => Self::Answers,
            UpstreamError::Timeout { phase: Phase::Queue | Phase::Body }
            | UpstreamError::Broken { .. }
            | UpstreamError::Refused(_)
            | UpstreamError::Offline
            | UpstreamError::Suspended { .. }
            | UpstreamError::Saving { .. }
            | UpstreamError::ShareSpent { .. } => Self::Nothing,
        }
    }

    /// Whether another endpoint may do better.
    pub(super) fn is_failure(self) -> bool {
        matches!(self, Self::Fails | Self::IsUnreachable)
    }
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self { state: State::Closed { failures: 0 }, openings: 0, hold: FIRST_HOLD, closed_at: None }
    }

    /// What a question takes along that is asked now.
    pub(super) fn opening(&self) -> Opening {
        Opening(self.openings)
    }

    /// How and since when the endpoint is left alone, if it is.
    pub(super) fn open(&self) -> Option<&Open> {
        match &self.state {
            State::Closed { .. } => None,
            State::Open(open) => Some(open),
        }
    }

    /// The endpoint has answered something.
    pub(super) fn answers(&mut self, now: Instant) -> Option<Change> {
        match std::mem::replace(&mut self.state, State::Closed { failures: 0 }) {
            State::Closed { .. } => None,
            State::Open(open) => {
                self.closed_at = Some(now);
                Some(Change::Closed(now - open.since))
            }
        }
    }

    /// A look has shown that the endpoint answers, only not what has failed: it is no worse than before.
    pub(super) fn answers_others(&mut self, now: Instant) -> Option<Change> {
        let change = self.answers(now);
        self.closed_at = None;
        change
    }

    /// A question that was `asked` then has failed, by `cause`. What was asked before the last opening says nothing about the time
    /// after it.
    pub(super) fn fails(&mut self, asked: Opening, is_unreachable: bool, cause: &UpstreamError, now: Instant) -> Option<Change> {
        let State::Closed { failures } = &mut self.state else { return None };
        if asked != Opening(self.openings) {
            return None;
        }
        *failures += 1;
        if *failures < FAILURES && !is_unreachable {
            return None;
        }
        self.hold = match self.closed_at {
            Some(closed_at) if now - closed_at < STEADY => longer(self.hold),
            _ => FIRST_HOLD,
        };
        self.openings += 1;
        self.state = State::Open(Open { since: now, cause: cause.clone(), look_at: now + jitter(self.hold) });
        Some(Change::Opened(self.opening()))
    }

    /// When the one who looks after this `opening` is to look again; `None` if it is over.
    pub(super) fn look_at(&self, opening: Opening) -> Option<Instant> {
        self.open().filter(|_| opening == self.opening()).map(|open| open.look_at)
    }

    /// A look at the endpoint has failed: there is another one, later.
    pub(super) fn still_fails(&mut self, opening: Opening, cause: &UpstreamError, now: Instant) {
        let is_current = opening == self.opening();
        if let State::Open(open) = &mut self.state
            && is_current
        {
            self.hold = longer(self.hold);
            open.cause = cause.clone();
            open.look_at = now + jitter(self.hold);
        }
    }
}

fn longer(hold: Duration) -> Duration {
    (hold * 2).min(LAST_HOLD)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNREACHABLE: UpstreamError = UpstreamError::Timeout { phase: Phase::Connect };
    const FAILURE: UpstreamError = UpstreamError::status(503);

    /// A breaker, and the time as it sees it.
    struct Case {
        breaker: Breaker,
        now: Instant,
    }

    impl Case {
        fn new() -> Self {
            Self { breaker: Breaker::new(), now: Instant::now() }
        }

        fn fail(&mut self) -> Option<Change> {
            let asked = self.breaker.opening();
            self.breaker.fails(asked, false, &FAILURE, self.now)
        }

        fn open(&mut self) -> Opening {
            let asked = self.breaker.opening();
            match self.breaker.fails(asked, true, &UNREACHABLE, self.now) {
                Some(Change::Opened(opening)) => opening,
                change => panic!("{change:?}"),
            }
        }

        fn pass(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }

        /// How long the endpoint is still left alone.
        fn rest(&self) -> Duration {
            self.breaker.open().expect("it is open").look_at - self.now
        }

        fn rests_about(&self, hold: Duration) -> bool {
            (hold / 2..=hold).contains(&self.rest())
        }
    }

    #[test]
    fn a_failure_to_connect_opens_it_and_others_only_in_a_row() {
        let mut case = Case::new();
        assert_eq!((case.fail(), case.fail()), (None, None));
        assert_eq!(case.breaker.answers(case.now), None);
        assert_eq!((case.fail(), case.fail()), (None, None));
        assert!(matches!(case.fail(), Some(Change::Opened(_))));
        assert_eq!(case.breaker.open().map(|open| open.cause.clone()), Some(FAILURE));
        assert!(case.rests_about(FIRST_HOLD));
        case.pass(4);
        assert_eq!(case.breaker.answers(case.now), Some(Change::Closed(Duration::from_secs(4))));
        case.open();
    }

    #[test]
    fn what_was_asked_before_it_opened_does_not_open_it_again() {
        let mut case = Case::new();
        let asked = case.breaker.opening();
        case.open();
        case.breaker.answers(case.now);
        for _ in 0..10 {
            assert_eq!(case.breaker.fails(asked, true, &UNREACHABLE, case.now), None);
        }
        assert!(case.breaker.open().is_none());
    }

    #[test]
    fn looks_become_rarer_and_flapping_does_not_make_them_more_frequent() {
        let mut case = Case::new();
        let opening = case.open();
        let mut hold = FIRST_HOLD;
        for _ in 0..8 {
            assert!(case.rests_about(hold), "{:?} of {hold:?}", case.rest());
            case.now = case.breaker.look_at(opening).expect("it is open");
            case.breaker.still_fails(opening, &FAILURE, case.now);
            hold = (hold * 2).min(LAST_HOLD);
        }
        case.breaker.answers(case.now);
        case.pass(29);
        case.open();
        assert!(case.rests_about(LAST_HOLD));
        case.breaker.answers(case.now);
        case.pass(30);
        case.open();
        assert!(case.rests_about(FIRST_HOLD));
        // That one thing fails again and again is not held against the others.
        for _ in 0..10 {
            case.breaker.answers_others(case.now);
            case.open();
            assert!(case.rests_about(FIRST_HOLD));
        }
    }

    #[test]
    fn who_looked_after_an_earlier_opening_is_told_to_stop() {
        let mut case = Case::new();
        let first = case.open();
        assert!(case.breaker.look_at(first).is_some());
        case.breaker.answers(case.now);
        assert_eq!(case.breaker.look_at(first), None);
        let second = case.open();
        assert_eq!(case.breaker.look_at(first), None);
        let look_at = case.breaker.look_at(second);
        case.breaker.still_fails(first, &FAILURE, case.now);
        assert_eq!(case.breaker.look_at(second), look_at);
    }

    #[test]
    fn answers_are_told_from_failures() {
        let of = |error| Verdict::of::<()>(&Err(error));
        for status in [500, 502, 503, 504, 507, 520, 522, 527, 599] {
            assert_eq!(of(UpstreamError::status(status)), Verdict::Fails, "{status}");
        }
        for status in [400, 405, 408, 501, 505, 600] {
            assert_eq!(of(UpstreamError::status(status)), Verdict::Answers, "{status}");
        }
        for (phase, verdict) in [
            (Phase::Queue, Verdict::Nothing),
            (Phase::Resolve, Verdict::IsUnreachable),
            (Phase::Connect, Verdict::IsUnreachable),
            (Phase::Headers, Verdict::Fails),
            (Phase::Token, Verdict::Fails),
            (Phase::Body, Verdict::Nothing),
        ] {
            assert_eq!(of(UpstreamError::Timeout { phase }), verdict, "{phase}");
        }
        assert_eq!(of(UpstreamError::NotFound), Verdict::Answers);
        assert_eq!(of(UpstreamError::denied(401)), Verdict::Answers);
        assert_eq!(of(UpstreamError::NoAnswer { reason: String::new() }), Verdict::Fails);
        assert_eq!(of(UpstreamError::Broken { reason: String::new() }), Verdict::Nothing);
        assert_eq!(Verdict::of(&Ok(())), Verdict::Answers);
    }

    /// Something that happens to a breaker.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Answer,
        Fail { is_unreachable: bool },
        Look { fails: bool },
        Pass(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Answer),
            any::<bool>().prop_map(|is_unreachable| Event::Fail { is_unreachable }),
            any::<bool>().prop_map(|fails| Event::Look { fails }),
            (0..60_u64).prop_map(Event::Pass),
        ]
    }

    proptest! {
        /// Whatever happens: one answer closes it, it is open after a failure to connect, and never for longer than the longest
        /// hold without a look.
        #[test]
        fn it_is_open_exactly_when_it_should_be(events in proptest::collection::vec(event(), 0..60)) {
            let mut case = Case::new();
            let mut in_a_row = 0;
            for event in events {
                match event {
                    Event::Answer => {
                        case.breaker.answers(case.now);
                        in_a_row = 0;
                        prop_assert!(case.breaker.open().is_none());
                    }
                    Event::Fail { is_unreachable } => {
                        let was_open = case.breaker.open().is_some();
                        let asked = case.breaker.opening();
                        let change = case.breaker.fails(asked, is_unreachable, &FAILURE, case.now);
                        in_a_row += 1;
                        prop_assert_eq!(change.is_some(), !was_open && (is_unreachable || in_a_row >= FAILURES));
                    }
                    Event::Look { fails } => {
                        let opening = case.breaker.opening();
                        if let Some(at) = case.breaker.look_at(opening) {
                            case.now = case.now.max(at);
                            if fails {
                                case.breaker.still_fails(opening, &FAILURE, case.now);
                            } else {
                                prop_assert!(matches!(case.breaker.answers(case.now), Some(Change::Closed(_))));
                                in_a_row = 0;
                            }
                        }
                    }
                    Event::Pass(seconds) => case.pass(seconds),
                }
                if let Some(open) = case.breaker.open() {
                    prop_assert!(open.look_at <= case.now + LAST_HOLD);
                }
            }
        }
    }
}
