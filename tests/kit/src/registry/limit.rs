//! The limit on manifest GETs, counted by identity in windows, with Docker Hub's headers.
//! HEAD is free and never counted.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::config::RateLimit;
use crate::http::Reply;

/// Counts GETs of manifests.
#[derive(Debug, Default)]
pub(crate) struct RateLimiter(Mutex<HashMap<String, Window>>);

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    used: u64,
}

/// Where an identity stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    limit: RateLimit,
    remaining: u64,
    exceeded: bool,
}

impl RateLimiter {
    /// Where `identity` stands, having asked once more if `counts`.
    pub(super) fn check(&self, limit: RateLimit, identity: &str, counts: bool) -> Standing {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Window { began: Instant::now(), used: 0 };
        let window = windows.entry(identity.to_owned()).or_insert(fresh);
        if window.began.elapsed() >= limit.window {
            *window = fresh;
        }
        let exceeded = counts && window.used >= limit.limit;
        if counts && !exceeded {
            window.used += 1;
        }
        Standing { limit, remaining: limit.limit.saturating_sub(window.used), exceeded }
    }

    /// Begins all windows anew.
    pub(crate) fn reset(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Standing {
    /// The 429, if the limit is exceeded.
    pub(super) fn refusal(self) -> Option<Reply> {
        let message = "You have reached your pull rate limit.";
        let mut refusal = Reply::error(429, "TOOMANYREQUESTS", message);
        if let Some(seconds) = self.limit.retry_after {
            refusal.headers.add("Retry-After", seconds.to_string());
        }
        self.exceeded.then_some(refusal)
    }

    /// Adds the headers that tell it.
    pub(super) fn tell(self, identity: &str, reply: &mut Reply) {
        let window = self.limit.window.as_secs();
        let of = |count: u64| format!("{count};w={window}");
        let headers = &mut reply.headers;
        headers.add("ratelimit-limit", of(self.limit.limit));
        headers.add("ratelimit-remaining", of(self.remaining));
        headers.add("docker-ratelimit-source", identity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_identity_has_its_own_count_and_head_is_free() {
        let limiter = RateLimiter::default();
        let limit = RateLimit::of(2);
        assert_eq!(limiter.check(limit, "a", false).remaining, 2);
        assert_eq!(limiter.check(limit, "a", true).remaining, 1);
        assert_eq!(limiter.check(limit, "a", true).remaining, 0);
        assert!(limiter.check(limit, "a", true).refusal().is_some());
        assert!(limiter.check(limit, "a", false).refusal().is_none());
        assert!(limiter.check(limit, "b", true).refusal().is_none());
        limiter.reset();
        assert!(limiter.check(limit, "a", true).refusal().is_none());
    }

    #[test]
    fn a_window_that_is_over_counts_no_more() {
        let limiter = RateLimiter::default();
        let limit = RateLimit { window: Duration::ZERO, ..RateLimit::of(1) };
        for _ in 0..3 {
            assert!(limiter.check(limit, "a", true).refusal().is_none());
        }
    }
}
