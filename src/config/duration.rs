//! Durations as operators write them: `90s`, `5m`, `1h30m`, `250ms`. Whole numbers only, larger units first, each at most once.

use std::time::Duration;

/// The longest duration that is accepted: ten years. Beyond it lies nothing that an operator can mean, and within it adding
/// it to a point in time cannot overflow.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

/// In the order in which they must be written, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Why a text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("is no duration: write whole numbers with units (d, h, m, s, ms), as in 90s, 1h30m or 250ms")]
    Malformed,
    #[error("lacks a unit, as in 90s, 1h30m or 250ms")]
    NoUnit,
    #[error("is longer than ten years")]
    TooLong,
}

pub(super) fn parse(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.trim();
    let mut units = UNITS.iter();
    let mut millis: u64 = 0;
    if rest.is_empty() {
        return Err(DurationError::Malformed);
    }
    while !rest.is_empty() {
        let (number, after) = split_where(rest, |byte| !byte.is_ascii_digit());
        let (unit, after) = split_where(after, |byte| byte.is_ascii_digit());
        if number.is_empty() {
            return Err(DurationError::Malformed);
        }
        if unit.is_empty() {
            return Err(DurationError::NoUnit);
        }
        // Going on where the last unit was found is what keeps them in order and each at most once.
        let (_, factor) = units.find(|(name, _)| *name == unit).ok_or(DurationError::Malformed)?;
        // Only overflow is left that could go wrong.
        let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
        millis = number.checked_mul(*factor).and_then(|more| millis.checked_add(more)).ok_or(DurationError::TooLong)?;
        rest = after;
    }
    let duration = Duration::from_millis(millis);
    if duration > LONGEST { Err(DurationError::TooLong) } else { Ok(duration) }
}

/// Cuts before the first byte that `is_end` accepts. It accepts either ASCII digits or everything else, so a cut is always
/// between characters.
fn split_where(text: &str, is_end: impl Fn(u8) -> bool) -> (&str, &str) {
    text.split_at(text.bytes().position(is_end).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, millis) in [
            ("90s", 90_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("1d1ms", 86_400_001),
            (" 0s ", 0),
            ("100m", 6_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_reason() {
        use DurationError::{Malformed, NoUnit, TooLong};
        for (text, error) in [
            ("", Malformed),
            ("s", Malformed),
            ("-5s", Malformed),
            ("1.5h", Malformed),
            ("5 m", Malformed),
            ("30m1h", Malformed),
            ("1s1s", Malformed),
            ("5S", Malformed),
            ("5é", Malformed),
            ("1y", Malformed),
            ("60", NoUnit),
            ("1h30", NoUnit),
            ("3651d", TooLong),
            ("99999999999999999999s", TooLong),
            ("18446744073709551615d", TooLong),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_part_counts(parts in [0..100u64, 0..100u64, 0..100u64, 0..100u64, 0..100u64], given in 1..32u8) {
            let used: Vec<usize> = (0..UNITS.len()).filter(|index| given & 1 << index != 0).collect();
            let text: String = used.iter().map(|index| format!("{}{}", parts[*index], UNITS[*index].0)).collect();
            let millis = used.iter().map(|index| parts[*index] * UNITS[*index].1).sum();
            prop_assert_eq!(parse(&text), Ok(Duration::from_millis(millis)));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,24}|([0-9]{0,20}(d|h|m|s|ms|é)?){0,4}") {
            if let Ok(duration) = parse(&text) {
                prop_assert!(duration <= LONGEST);
            }
        }
    }
}
