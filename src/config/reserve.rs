//! The reserve of an upstream's limit on pulls, as operators write it: `20` pulls, or `10%` of the limit.

use std::fmt;
use std::str::FromStr;

/// What is left of a limit on pulls for what is not cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// So many; of none, nothing is saved.
    Pulls(u64),
    /// Percent of the limit, 0 to 100.
    Share(u8),
}

/// Why a text is no reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    #[error("is neither a number of pulls nor a share of the limit, as in 20 or 10%")]
    Malformed,
    #[error("is more than all of the limit")]
    TooLarge,
}

impl FromStr for Reserve {
    type Err = ReserveError;

    fn from_str(text: &str) -> Result<Self, ReserveError> {
        let text = text.trim();
        let (number, is_share) = match text.strip_suffix('%') {
            Some(number) => (number.trim_end(), true),
            None => (text, false),
        };
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ReserveError::Malformed);
        }
        // Only overflow is left that could go wrong.
        let number: u64 = number.parse().map_err(|_| ReserveError::TooLarge)?;
        match is_share {
            false => Ok(Self::Pulls(number)),
            true => u8::try_from(number).ok().filter(|share| *share <= 100).map(Self::Share).ok_or(ReserveError::TooLarge),
        }
    }
}

impl fmt::Display for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pulls(pulls) => write!(f, "{pulls}"),
            Self::Share(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pulls_and_shares_are_told_apart() {
        for (text, expected) in [
            ("20", Ok(Reserve::Pulls(20))),
            ("0", Ok(Reserve::Pulls(0))),
            (" 10 % ", Ok(Reserve::Share(10))),
            ("100%", Ok(Reserve::Share(100))),
            ("0%", Ok(Reserve::Share(0))),
            ("101%", Err(ReserveError::TooLarge)),
            ("99999999999999999999", Err(ReserveError::TooLarge)),
            ("", Err(ReserveError::Malformed)),
            ("%", Err(ReserveError::Malformed)),
            ("-1", Err(ReserveError::Malformed)),
            ("+1", Err(ReserveError::Malformed)),
            ("1.5%", Err(ReserveError::Malformed)),
            ("10%%", Err(ReserveError::Malformed)),
            ("ten", Err(ReserveError::Malformed)),
        ] {
            assert_eq!(text.parse(), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_shown_reads_as_the_same(pulls: u64, percent in 0..=100_u8) {
            for reserve in [Reserve::Pulls(pulls), Reserve::Share(percent)] {
                prop_assert_eq!(reserve.to_string().parse(), Ok(reserve));
            }
        }
    }
}
