//! From the text of a value to its type. One function per kind of value, the same for the file, the environment and the
//! defaults; what they refuse is described without the text wherever that might be a secret.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use super::LogFormat;
use super::address::AddressError;
use super::duration::{self, DurationError};
use super::freshness::{Failure, Lifetime};
use super::reserve::{Reserve, ReserveError};
use super::size::{MaxSize, SizeError};
use super::suggest::Hint;
use crate::oci::UpstreamName;
use crate::util::Secret;

/// Why a value is not accepted.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ValueError {
    #[error("is empty")]
    Empty,
    #[error("{text:?} {error}")]
    Size { text: String, error: SizeError },
    #[error("{text:?} {error}")]
    Duration { text: String, error: DurationError },
    #[error("{text:?} {error}")]
    Reserve { text: String, error: ReserveError },
    #[error("must be longer than nothing")]
    ZeroDuration,
    #[error("{0:?} is longer than {1}, the most it can be")]
    LongerThan(String, &'static str),
    #[error("{0:?} is no address to listen on: write an IP address and a port, as in 127.0.0.1:5050, 0.0.0.0:5050 or [::]:5050")]
    NotSocketAddress(String),
    #[error("{0:?} is no whole number from 1 to {1}")]
    NotCount(String, u64),
    #[error("{0:?} is neither true nor false")]
    NotFlag(String),
    #[error("{text:?} is none of the words for it; {hint}")]
    UnknownWord { text: String, hint: Hint },
    #[error("holds what is no name of an upstream: a name is that of a host, optionally with a port")]
    NotUpstreamName,
    #[error("{0}")]
    Address(AddressError),
    #[error("holds a control character, such as a line end")]
    ControlCharacter,
    /// RFC 7617, section 2: the first colon ends the user's name.
    #[error("holds a colon, which no user name can")]
    ColonInUsername,
}

/// The longest a phase of a request may be given. Beyond it, no client waits.
const LONGEST_TIMEOUT: (Duration, &str) = (Duration::from_secs(3600), "1h");
/// The longest that absence may be remembered: who pushes an image and pulls it must not wait for long.
const LONGEST_ABSENCE: (Duration, &str) = (Duration::from_secs(60), "60s");

pub(super) fn text(text: &str) -> Result<String, ValueError> {
    if text.is_empty() { Err(ValueError::Empty) } else { Ok(text.to_owned()) }
}

pub(super) fn flag(text: &str) -> Result<bool, ValueError> {
    text.parse().map_err(|_| ValueError::NotFlag(text.to_owned()))
}

/// A whole number above zero.
pub(super) fn count<N: Count>(text: &str) -> Result<N, ValueError> {
    text.parse().map_err(|_| ValueError::NotCount(text.to_owned(), N::MOST))
}

/// The types of numbers above zero that the configuration has.
pub(super) trait Count: FromStr {
    const MOST: u64;
}

impl Count for std::num::NonZeroU32 {
    const MOST: u64 = u32::MAX as u64;
}

impl Count for std::num::NonZeroUsize {
    const MOST: u64 = usize::MAX as u64;
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, ValueError> {
    text.parse().map_err(|_| ValueError::NotSocketAddress(text.to_owned()))
}

pub(super) fn max_size(text: &str) -> Result<MaxSize, ValueError> {
    text.parse().map_err(|error| ValueError::Size { text: text.to_owned(), error })
}

pub(super) fn bytes(text: &str) -> Result<u64, ValueError> {
    let bytes = text.parse::<MaxSize>().and_then(MaxSize::bytes);
    bytes.map_err(|error| ValueError::Size { text: text.to_owned(), error })
}

pub(super) fn reserve(text: &str) -> Result<Reserve, ValueError> {
    text.parse().map_err(|error| ValueError::Reserve { text: text.to_owned(), error })
}

pub(super) fn duration(text: &str) -> Result<Duration, ValueError> {
    duration::parse(text).map_err(|error| ValueError::Duration { text: text.to_owned(), error })
}

/// A duration, or `forever`.
pub(super) fn lifetime(text: &str) -> Result<Lifetime, ValueError> {
    if text == "forever" { Ok(Lifetime::Forever) } else { duration(text).map(Lifetime::For) }
}

pub(super) fn failure(text: &str) -> Result<Failure, ValueError> {
    word(
        text,
        &[
            ("unreachable", Failure::Unreachable),
            ("timeout", Failure::Timeout),
            ("server-error", Failure::ServerError),
            ("rate-limited", Failure::RateLimited),
            ("denied", Failure::Denied),
        ],
    )
}

pub(super) fn timeout(text: &str) -> Result<Duration, ValueError> {
    match at_most(text, LONGEST_TIMEOUT)? {
        Duration::ZERO => Err(ValueError::ZeroDuration),
        timeout => Ok(timeout),
    }
}

pub(super) fn at_most_a_minute(text: &str) -> Result<Duration, ValueError> {
    at_most(text, LONGEST_ABSENCE)
}

fn at_most(text: &str, (most, name): (Duration, &'static str)) -> Result<Duration, ValueError> {
    let duration = duration(text)?;
    if duration > most { Err(ValueError::LongerThan(text.to_owned(), name)) } else { Ok(duration) }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, ValueError> {
    word(text, &[("text", LogFormat::Text), ("json", LogFormat::Json)])
}

pub(super) fn log_level(text: &str) -> Result<tracing::Level, ValueError> {
    use tracing::Level;
    word(
        text,
        &[
            ("error", Level::ERROR),
            ("warn", Level::WARN),
            ("info", Level::INFO),
            ("debug", Level::DEBUG),
            ("trace", Level::TRACE),
        ],
    )
}

fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, ValueError> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| ValueError::UnknownWord {
        text: text.to_owned(),
        hint: Hint::among(text, words.iter().map(|(word, _)| *word)),
    })
}

pub(super) fn upstream_name(text: &str) -> Result<UpstreamName, ValueError> {
    text.parse().map_err(|_| ValueError::NotUpstreamName)
}

pub(super) fn username(text: &str) -> Result<String, ValueError> {
    match sendable(text)? {
        name if name.contains(':') => Err(ValueError::ColonInUsername),
        name => Ok(name.to_owned()),
    }
}

pub(super) fn password(text: &str) -> Result<Secret, ValueError> {
    sendable(text).map(Secret::new)
}

/// RFC 7617, section 2: neither user name nor password may hold control characters.
fn sendable(text: &str) -> Result<&str, ValueError> {
    match text {
        "" => Err(ValueError::Empty),
        _ if text.contains(char::is_control) => Err(ValueError::ControlCharacter),
        _ => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn zero_is_refused_where_it_means_nothing() {
        assert_eq!(timeout("0s"), Err(ValueError::ZeroDuration));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(at_most_a_minute("0s"), Ok(Duration::ZERO));
        assert_eq!(count::<NonZeroU32>("0"), Err(ValueError::NotCount("0".to_owned(), u64::from(u32::MAX))));
        assert!(count::<NonZeroU32>("4294967296").is_err() && count::<NonZeroU32>("-1").is_err());
    }

    #[test]
    fn bounds_include_themselves() {
        assert_eq!(at_most_a_minute("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(at_most_a_minute("1m1ms"), Err(ValueError::LongerThan("1m1ms".to_owned(), "60s")));
        assert_eq!(timeout("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(timeout("1h1s"), Err(ValueError::LongerThan("1h1s".to_owned(), "1h")));
    }

    #[test]
    fn words_are_matched_exactly_and_suggested() {
        assert_eq!(log_level("debug"), Ok(tracing::Level::DEBUG));
        let error = log_level("warning").expect_err("not one of the words").to_string();
        assert_eq!(error, "\"warning\" is none of the words for it; did you mean `warn`?");
        let error = log_format("xml").expect_err("not one of the words").to_string();
        assert_eq!(error, "\"xml\" is none of the words for it; there is `text` and `json`");
    }

    #[test]
    fn a_password_that_is_refused_is_not_repeated() {
        for text in ["canary\n", "canary\0"] {
            assert_eq!(password(text), Err(ValueError::ControlCharacter));
            assert!(!ValueError::ControlCharacter.to_string().contains("canary"));
        }
        assert_eq!(username("canary:x"), Err(ValueError::ColonInUsername));
        assert_eq!(password("a:b"), Ok(Secret::new("a:b")));
    }
}
