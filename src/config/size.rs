//! Sizes as operators write them: `50GB`, `50GiB`, `80%`. Whole numbers only, so that what is written is exactly what is meant.

use std::fmt;
use std::str::FromStr;

/// The most the cache may hold. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxSize {
    Bytes(u64),
    /// Percent of the file system's size, 1 to 100.
    Share(u8),
}

/// Why a text is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    #[error("is no size: write a whole number with a unit, as in 50GB, 50GiB or 80%")]
    Malformed,
    #[error("lacks a unit, as in 50GB, 50GiB or 80%")]
    NoUnit,
    #[error("is more than there can be")]
    TooLarge,
    #[error("leaves no room for anything")]
    Zero,
    #[error("is a share where a size is meant, as in 50GB or 50GiB")]
    Share,
}

/// From large to small. Units of 1000 are decimal (SI), units of 1024 binary (IEC 80000-13); case does not matter.
const UNITS: [(&str, u64); 11] = [
    ("PiB", 1 << 50),
    ("PB", 1_000_000_000_000_000),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

impl FromStr for MaxSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(SizeError::Malformed);
        }
        // Only overflow is left that could go wrong.
        let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
        match unit.trim_start() {
            "" => Err(SizeError::NoUnit),
            _ if number == 0 => Err(SizeError::Zero),
            "%" => u8::try_from(number).ok().filter(|share| *share <= 100).map(Self::Share).ok_or(SizeError::TooLarge),
            unit => {
                let (_, factor) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or(SizeError::Malformed)?;
                number.checked_mul(*factor).map(Self::Bytes).ok_or(SizeError::TooLarge)
            }
        }
    }
}

impl MaxSize {
    /// The bytes of a size that cannot be a share of anything.
    pub(super) fn bytes(self) -> Result<u64, SizeError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Share(_) => Err(SizeError::Share),
        }
    }
}

/// In the largest unit that says it exactly.
impl fmt::Display for MaxSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => {
                let (unit, factor) =
                    UNITS.iter().find(|(_, factor)| bytes.is_multiple_of(*factor)).expect("the last unit is one byte");
                write!(f, "{}{unit}", bytes / factor)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_families_of_units_are_known() {
        for (text, bytes) in [
            ("50GB", 50_000_000_000),
            ("50GiB", 50 << 30),
            ("50 gib", 50 << 30),
            (" 7kB ", 7_000),
            ("7KiB", 7_168),
            ("1B", 1),
            ("3TB", 3_000_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(MaxSize::Bytes(bytes)), "{text}");
        }
        assert_eq!("80%".parse(), Ok(MaxSize::Share(80)));
        assert_eq!("100 %".parse(), Ok(MaxSize::Share(100)));
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        use SizeError::{Malformed, NoUnit, TooLarge, Zero};
        for (text, error) in [
            ("", Malformed),
            ("GB", Malformed),
            ("-1GB", Malformed),
            ("1.5GB", Malformed),
            // Neither of the two meanings of a bare G is guessed at.
            ("50G", Malformed),
            ("50Gi", Malformed),
            ("50GB!", Malformed),
            ("50", NoUnit),
            ("0", NoUnit),
            ("0GB", Zero),
            ("0%", Zero),
            ("101%", TooLarge),
            ("99999999999999999999B", TooLarge),
            ("20000PB", TooLarge),
        ] {
            assert_eq!(text.parse::<MaxSize>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_shown_reads_as_the_same(bytes in 1..=u64::MAX, shift in 0..60u32, share in 1..=100u8) {
            for size in [MaxSize::Bytes(bytes), MaxSize::Bytes((bytes >> shift).max(1) << (shift % 4 * 10) >> 1 | 1), MaxSize::Share(share)] {
                prop_assert_eq!(size.to_string().parse(), Ok(size));
            }
        }

        #[test]
        fn whole_units_stay_what_they_are(number in 1..1000u64, unit in 0..UNITS.len()) {
            let text = format!("{number}{}", UNITS[unit].0);
            prop_assert_eq!(text.parse::<MaxSize>(), Ok(MaxSize::Bytes(number * UNITS[unit].1)));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,24}|[0-9]{0,24} ?[kKmMgGtTpPiIbB%]{0,4}") {
            let _ = text.parse::<MaxSize>();
        }
    }
}
