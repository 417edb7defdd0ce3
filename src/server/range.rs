//! Range requests (RFC 9110 section 14), as arithmetic on sizes. Pure.

use std::ops::Range;

/// How many ranges one request may name: as many as containers/storage puts into one.
const RANGES_MAX: usize = 1024;

/// A `Range` header that names bytes, not yet compared with a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RangeSet(Vec<RangeSpec>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RangeSpec {
    /// `first-last`, both inclusive, or `first-`.
    From { first: u64, last: Option<u64> },
    /// `-length`.
    Suffix { length: u64 },
}

/// What to answer a request for ranges with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// 206 with one range, because one was asked for.
    Single(Range<u64>),
    /// 206 with multipart/byteranges: one part per satisfiable range, in the order of the request, never merged. containers/storage
    /// counts the parts.
    Parts(Vec<Range<u64>>),
    /// 416: none of it is within the content.
    Unsatisfiable,
    /// 400: more ranges than are reasonable, or more bytes than the content has. Clients that lazily pull step down on a 400.
    Excessive,
}

/// Why a `Range` header is not a range set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RangeError {
    /// Not in bytes: to be ignored.
    OtherUnit,
    /// In bytes, and malformed: answered like one that cannot be satisfied. To ignore it would send the whole content to a client that
    /// does not look at the status.
    Malformed,
}

impl RangeSet {
    pub(super) fn parse(header: &str) -> Result<Self, RangeError> {
        let (unit, set) = header.split_once('=').ok_or(RangeError::OtherUnit)?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return Err(RangeError::OtherUnit);
        }
        set.split(',').map(|spec| RangeSpec::parse(spec.trim())).collect::<Option<_>>().map(Self).ok_or(RangeError::Malformed)
    }

    /// What of `size` bytes of content is asked for.
    pub(super) fn select(&self, size: u64) -> Selection {
        if self.0.len() > RANGES_MAX {
            return Selection::Excessive;
        }
        let mut ranges: Vec<_> = self.0.iter().filter_map(|spec| spec.within(size)).collect();
        let total = ranges.iter().try_fold(0_u64, |total, range| total.checked_add(range.end - range.start));
        match (ranges.len(), self.0.len()) {
            (0, _) => Selection::Unsatisfiable,
            (1, 1) => Selection::Single(ranges.remove(0)),
            _ if total.is_none_or(|total| total > size) => Selection::Excessive,
            _ => Selection::Parts(ranges),
        }
    }
}

impl RangeSpec {
    fn parse(spec: &str) -> Option<Self> {
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
            // More digits than fit mean a position beyond any content.
            true => Some(text.parse().unwrap_or(u64::MAX)),
            false => None,
        };
        match spec.split_once('-')? {
            ("", length) => Some(Self::Suffix { length: number(length)? }),
            (first, "") => Some(Self::From { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From { first, last: Some(last) })
            }
        }
    }

    /// The bytes of it that `size` bytes of content have, if any.
    fn within(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From { first, last } => first..last.map_or(size, |last| last.saturating_add(1).min(size)),
            Self::Suffix { length } => size.saturating_sub(length)..size,
        };
        (!range.is_empty()).then_some(range)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn select(header: &str, size: u64) -> Result<Selection, RangeError> {
        RangeSet::parse(header).map(|set| set.select(size))
    }

    #[test]
    fn the_forms_of_the_rfc() {
        for (header, selection) in [
            ("bytes=0-0", Selection::Single(0..1)),
            ("bytes=0-", Selection::Single(0..1000)),
            ("bytes=500-", Selection::Single(500..1000)),
            ("bytes=500-1499", Selection::Single(500..1000)),
            ("bytes=500-1000", Selection::Single(500..1000)),
            ("bytes=-500", Selection::Single(500..1000)),
            ("bytes=-5000", Selection::Single(0..1000)),
            ("Bytes = 1-2", Selection::Single(1..3)),
            ("bytes=1000-", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=99999999999999999999-", Selection::Unsatisfiable),
            ("bytes=0-99999999999999999999", Selection::Single(0..1000)),
            ("bytes=0-1, 5-6 ,-1", Selection::Parts(vec![0..2, 5..7, 999..1000])),
            ("bytes=5-6,0-1", Selection::Parts(vec![5..7, 0..2])),
            ("bytes=0-1,4-5,2000-", Selection::Parts(vec![0..2, 4..6])),
            ("bytes=2000-,3000-", Selection::Unsatisfiable),
            ("bytes=0-,0-", Selection::Excessive),
        ] {
            assert_eq!(select(header, 1000), Ok(selection), "{header}");
        }
        assert_eq!(select("bytes=0-", 0), Ok(Selection::Unsatisfiable));
    }

    #[test]
    fn what_is_malformed_is_never_taken_for_the_whole() {
        for header in [
            "bytes=",
            "bytes=500-0",
            "bytes=a-b",
            "bytes=1",
            "bytes=1-2-3",
            "bytes=-",
            "bytes=1-2,",
            "bytes=+1-2",
            "bytes= 1 - 2",
        ] {
            assert_eq!(select(header, 1000), Err(RangeError::Malformed), "{header}");
        }
        for header in ["", "items=0-1", "0-1"] {
            assert_eq!(select(header, 1000), Err(RangeError::OtherUnit), "{header}");
        }
    }

    #[test]
    fn a_thousand_and_twenty_four_ranges_are_served_and_no_more() {
        let header = |count: u64| format!("bytes={}", (0..count).map(|at| format!("{at}-{at}")).collect::<Vec<_>>().join(","));
        assert!(matches!(select(&header(1024), 5000), Ok(Selection::Parts(parts)) if parts.len() == 1024));
        assert_eq!(select(&header(1025), 5000), Ok(Selection::Excessive));
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(header in "\\PC{0,40}", size: u64) {
            let _ = select(&header, size);
            let _ = select(&format!("bytes={header}"), size);
        }

        #[test]
        fn what_is_selected_is_what_was_asked_for(first in 0u64..200, length in 1u64..200, size in 0u64..200) {
            let asked = first..first + length;
            let expected: Vec<u64> = asked.clone().filter(|at| *at < size).collect();
            let selected = match select(&format!("bytes={}-{}", asked.start, asked.end - 1), size) {
                Ok(Selection::Single(range)) => range.collect(),
                Ok(Selection::Unsatisfiable) => vec![],
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            };
            prop_assert_eq!(selected, expected);
        }

        #[test]
        fn nobody_gets_more_than_the_content_out_of_one_request(specs in prop::collection::vec((0u64..100, 0u64..100), 1..20), size in 1u64..100) {
            let header: Vec<String> = specs.iter().map(|(first, length)| format!("{first}-{}", first + length)).collect();
            if let Ok(Selection::Parts(parts)) = select(&format!("bytes={}", header.join(",")), size) {
                prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= size));
                prop_assert!(parts.iter().map(|part| part.end - part.start).sum::<u64>() <= size);
            }
        }
    }
}
