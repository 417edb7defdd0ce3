//! What can go wrong with one answer of an upstream: all that `Origin` allows it.

use std::time::Duration;

use crate::simulation::dice::Dice;
use crate::upstream::{Method, Party, Question, Target, UpstreamError};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Misfortune {
    /// No answer comes.
    Silence,
    /// An answer that is none comes.
    Error(UpstreamError),
    /// It begins well.
    InBody(InBody),
}

/// What is wrong with a body, or the head that announces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InBody {
    /// The connection is cut after so many bytes.
    Cut {
        after: u64,
    },
    /// Nothing comes after so many bytes.
    Stall {
        after: u64,
    },
    /// A few bytes come at a time.
    Trickle,
    WrongByte {
        at: u64,
    },
    /// Bytes are missing at the end (an even number) or there are more (an odd one), and the announced length agrees with that
    /// or is missing.
    OtherSize {
        by: u64,
        is_told: bool,
    },
    NoLength,
    /// `Range` is ignored.
    WholeInsteadOfPart,
    /// The part does not begin where it should, as its `Content-Range` says.
    OtherPart {
        by: u64,
    },
}

impl InBody {
    /// Whether other bytes are sent than those that are there.
    pub(super) fn is_lie(self) -> bool {
        matches!(self, Self::WrongByte { .. } | Self::OtherSize { .. })
    }
}

impl Misfortune {
    pub(super) fn roll(dice: &mut Dice, question: &Question) -> Self {
        if dice.one_in(2) || question.method == Method::Head {
            return Self::before_the_body(dice);
        }
        // Around the beginning, around what is withheld, anywhere.
        let after = match dice.within(0..3) {
            0 => dice.within(0..3),
            1 => dice.within(0..140_000),
            _ => dice.within(0..300_000),
        };
        let is_part = matches!(question.method, Method::GetRange { .. });
        Self::InBody(match dice.within(0..10) {
            0..=2 => InBody::Cut { after },
            3 => InBody::Stall { after },
            4 => InBody::Trickle,
            5 => InBody::WrongByte { at: dice.roll() },
            6 if dice.one_in(2) => InBody::OtherSize { by: 1 + dice.within(0..100_000), is_told: dice.one_in(2) },
            6 | 7 => InBody::NoLength,
            8 if is_part => InBody::WholeInsteadOfPart,
            _ if is_part => InBody::OtherPart { by: 1 + dice.within(0..5000) },
            _ if matches!(question.target, Target::Blob(_)) => InBody::Cut { after },
            _ => InBody::WrongByte { at: dice.roll() },
        })
    }

    fn before_the_body(dice: &mut Dice) -> Self {
        let retry_after = match dice.within(0..3) {
            0 => None,
            _ => Some(Duration::from_secs(dice.within(0..90))),
        };
        Self::Error(match dice.within(0..12) {
            0 | 1 => return Self::Silence,
            2 => UpstreamError::NotFound,
            3 => UpstreamError::denied(401),
            4 => UpstreamError::denied(403),
            5 => UpstreamError::RateLimited { retry_after, by: Party::Registry },
            6 => UpstreamError::RangeNotSatisfiable,
            7 | 8 => UpstreamError::status(*dice.pick(&[400, 405, 500, 502, 503, 504])),
            9 => UpstreamError::NoAnswer { reason: "the connection was cut".to_owned() },
            _ => UpstreamError::Unreachable { reason: "connection refused".to_owned() },
        })
    }
}
