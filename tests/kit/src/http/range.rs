//! The `Range` field of a request (RFC 9110, section 14).
//! Pure arithmetic over a known size; several ranges at once are taken as none, which the RFC allows a server.

/// A part of a representation, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteRange {
    /// The first byte's offset.
    pub(crate) start: u64,
    /// The last byte's offset, inclusive.
    pub(crate) last: u64,
}

impl ByteRange {
    pub(crate) fn len(self) -> u64 {
        self.last - self.start + 1
    }
}

/// What a `Range` field asks of a representation of a certain size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RangeRequest {
    /// No range, or one that a server ignores: answer with 200.
    Whole,
    /// Answer with 206.
    Part(ByteRange),
    /// Answer with 416.
    Unsatisfiable,
}

impl RangeRequest {
    /// Reads the field's value against a representation of `size` bytes.
    pub(crate) fn parse(value: Option<&str>, size: u64) -> RangeRequest {
        value
            .and_then(|value| value.strip_prefix("bytes="))
            .and_then(|spec| spec.trim().split_once('-'))
            .and_then(|(first, last)| RangeRequest::single(first.trim(), last.trim(), size))
            .unwrap_or(RangeRequest::Whole)
    }

    /// `None` where it is not a single well-formed range.
    fn single(first: &str, last: &str, size: u64) -> Option<RangeRequest> {
        let number = |text: &str| text.parse::<u64>().ok();
        let (start, last) = match (first, last) {
            ("", suffix) => match number(suffix)? {
                0 => return Some(RangeRequest::Unsatisfiable),
                suffix => (size.saturating_sub(suffix), u64::MAX),
            },
            (first, "") => (number(first)?, u64::MAX),
            (first, last) => (number(first)?, number(last)?),
        };
        if start > last {
            return None;
        }
        if start >= size {
            return Some(RangeRequest::Unsatisfiable);
        }
        let last = last.min(size - 1);
        Some(RangeRequest::Part(ByteRange { start, last }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: u64, last: u64) -> RangeRequest {
        RangeRequest::Part(ByteRange { start, last })
    }

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        for (value, expected) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=5-", part(5, 9)),
            ("bytes=5-99", part(5, 9)),
            ("bytes=-3", part(7, 9)),
            ("bytes=-99", part(0, 9)),
            ("bytes=10-", RangeRequest::Unsatisfiable),
            ("bytes=-0", RangeRequest::Unsatisfiable),
            ("bytes=5-2", RangeRequest::Whole),
            ("bytes=0-1,3-4", RangeRequest::Whole),
            ("bytes=-", RangeRequest::Whole),
            ("lines=0-1", RangeRequest::Whole),
        ] {
            assert_eq!(RangeRequest::parse(Some(value), 10), expected, "{value}");
        }
        assert_eq!(RangeRequest::parse(None, 10), RangeRequest::Whole);
        assert_eq!(RangeRequest::parse(Some("bytes=0-"), 0), RangeRequest::Unsatisfiable);
    }
}
