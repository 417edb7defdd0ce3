//! What a registry says of its limit on pulls. It is read and passed on; what follows from it is decided elsewhere.

use std::time::Duration;

use reqwest::header::HeaderMap;

/// How many counted requests an upstream still answers: `ratelimit-limit: 100;w=21600` and `ratelimit-remaining: 76;w=21600`, as
/// Docker Hub has them on its answers to GET (counted) and HEAD (not counted) of manifests. Both fields are from an early
/// draft of draft-ietf-httpapi-ratelimit-headers, where `w` is the window in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// How many there are in a window, if it is told.
    pub limit: Option<u64>,
    /// How many are left in this window.
    pub remaining: u64,
    pub window: Option<Duration>,
    /// Whom it is counted for: `docker-ratelimit-source`, which is an address or the identifier of an account. For people; it is none
    /// of the metrics' business.
    pub source: Option<String>,
}

/// The longest source that is kept, in bytes: an IPv6 address, or a UUID.
const SOURCE_MAX_BYTES: usize = 64;

impl RateLimit {
    /// What `headers` say. Nothing without a number of what is left.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let quota = |name| headers.get(name).and_then(|value| value.to_str().ok()).and_then(quota);
        let (remaining, window) = quota("ratelimit-remaining")?;
        let (limit, window_of_limit) = quota("ratelimit-limit").unzip();
        let source = headers.get("docker-ratelimit-source").and_then(|value| value.to_str().ok()).and_then(source);
        Some(Self { limit, remaining, window: window.or(window_of_limit.flatten()), source })
    }
}

/// `76;w=21600`: a number and the window that it is for. Where several are listed, the first one counts.
fn quota(text: &str) -> Option<(u64, Option<Duration>)> {
    let mut parts = text.split(',').next()?.split(';').map(str::trim);
    let count = number(parts.next()?)?;
    let window = parts.find_map(|parameter| parameter.strip_prefix("w=")).and_then(number);
    Some((count, window.map(Duration::from_secs)))
}

/// A word of printable characters, none of which means anything to a terminal.
fn source(text: &str) -> Option<String> {
    let text = text.trim();
    let is_word = (1..=SOURCE_MAX_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_word.then(|| text.to_owned())
}

/// Digits alone: `parse` would take a sign.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit out of these two fields, `-` for one that is not there.
    fn of(limit: &'static str, remaining: &'static str) -> Option<RateLimit> {
        let fields = [("ratelimit-limit", limit), ("ratelimit-remaining", remaining)];
        let fields = fields.into_iter().filter(|(_, value)| *value != "-");
        let field = |(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value));
        RateLimit::of(&fields.map(field).collect())
    }

    fn told(limit: Option<u64>, remaining: u64, window: Option<u64>) -> Option<RateLimit> {
        Some(RateLimit { limit, remaining, window: window.map(Duration::from_secs), source: None })
    }

    #[test]
    fn what_registries_send_is_understood() {
        assert_eq!(of("100;w=21600", "76;w=21600"), told(Some(100), 76, Some(21_600)));
        assert_eq!(of("100", "0"), told(Some(100), 0, None));
        assert_eq!(of("-", "76;w=60"), told(None, 76, Some(60)));
        assert_eq!(of("100;w=60", "76"), told(Some(100), 76, Some(60)));
        assert_eq!(of("100, 100;w=60;comment=\"x\", 5000;w=3600", " 7 ; w=60 "), told(Some(100), 7, Some(60)));
    }

    #[test]
    fn what_is_malformed_counts_as_absent() {
        assert_eq!(of("100;w=21600", "-"), None);
        for remaining in ["", "many", "-1", "+5", ";w=60", "99999999999999999999"] {
            assert_eq!(of("100", remaining), None, "{remaining:?}");
        }
        assert_eq!(of("lots", "3;w=soon"), told(None, 3, None));
    }
    #[test]
    fn a_source_is_kept_if_it_is_short_and_printable() {
        let of = |source: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert("ratelimit-remaining", http::HeaderValue::from_static("7"));
            headers.insert("docker-ratelimit-source", http::HeaderValue::from_bytes(source).unwrap());
            RateLimit::of(&headers).unwrap().source
        };
        for text in ["192.0.2.7", "2001:db8::/64", "0a7c3f2e-5a0b-4b69-8f4c-1d2e3f405162"] {
            assert_eq!(of(text.as_bytes()).as_deref(), Some(text));
        }
        for bytes in [&b""[..], b"a b", b"\xff\xfe", &[b'x'; 65]] {
            assert_eq!(of(bytes), None);
        }
    }
}
