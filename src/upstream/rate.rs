//! How many requests a second an upstream is asked. A question has its turn before it begins, and all requests that it then takes
//! (tokens, redirects) go at once: later turns pay for them. So nothing that has begun ever waits for a limit of our own.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use crate::util::TokioClock;

/// How many times the rate may go at once after a pause.
const BURST: NonZeroU32 = NonZeroU32::new(2).expect("two is not zero");

/// How much of what is owed one turn pays at the most: a burst is not followed by silence, but by fewer turns.
const INSTALMENT: i64 = 8;

/// The rate of one upstream, over all of its endpoints.
pub struct Rate {
    limiter: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Duration>>,
    burst: NonZeroU32,
    /// Requests made, less those that turns have paid for: negative while questions that had their turn have asked nothing yet.
    owed: AtomicI64,
}

impl Rate {
    /// So many requests a second in the long run, and questions at once as many as twice that.
    pub fn new(per_second: NonZeroU32) -> Self {
        let burst = per_second.saturating_mul(BURST);
        let limiter =
            RateLimiter::direct_with_clock(Quota::per_second(per_second).allow_burst(burst), TokioClock::new(Instant::now()));
        Self { limiter, burst, owed: AtomicI64::new(0) }
    }

    /// A turn to ask a question.
    ///
    /// # Errors
    /// How long it is until there may be one.
    pub(super) fn turn(&self) -> Result<(), Duration> {
        loop {
            let debt = self.owed.load(Ordering::Relaxed).clamp(0, INSTALMENT);
            let price = NonZeroU32::MIN.saturating_add(u32::try_from(debt).unwrap_or(0));
            let paid = price.min(self.burst);
            if let Ok(Err(early)) = self.limiter.check_n(paid) {
                return Err(early.wait_time_from(self.limiter.clock().now()));
            }
            // What was paid for and never asked is not saved up for later.
            let pay = |owed: i64| Some((owed - i64::from(paid.get())).max(-i64::from(self.burst.get())));
            let _ = self.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
            if paid == price {
                return Ok(());
            }
        }
    }

    /// Notes that a request is made, whoever's it is.
    pub(super) fn note_request(&self) {
        self.owed.fetch_add(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rate").field("burst", &self.burst).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many turns there are in so many seconds, if each question takes so many requests.
    async fn turns(per_second: u32, requests: u32, seconds: u64) -> u32 {
        let rate = Rate::new(per_second.try_into().unwrap());
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut turns = 0;
        while Instant::now() < end {
            match rate.turn() {
                Ok(()) => {
                    turns += 1;
                    (0..requests).for_each(|_| rate.note_request());
                }
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
        turns
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_question_takes_is_paid_for_by_the_turns_after_it() {
        for (per_second, requests) in [(50, 1), (50, 2), (5, 3), (1, 3), (1, 1), (1000, 7)] {
            let made = turns(per_second, requests, 100).await * requests;
            // In the long run it is the rate, but for a burst.
            let (least, most) = (per_second * 97, per_second * (100 + 2 * requests) + requests);
            assert!((least..=most).contains(&made), "{made} at {per_second}/s, {requests} each");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_burst_there_is_no_silence() {
        let rate = Rate::new(50.try_into().unwrap());
        while rate.turn().is_ok() {
            (0..3).for_each(|_| rate.note_request());
        }
        for _ in 0..5 {
            let wait = rate.turn().unwrap_err();
            assert!(wait < Duration::from_millis(200), "{wait:?}");
            tokio::time::sleep(wait).await;
            assert!(rate.turn().is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_asked_is_not_saved_up() {
        let rate = Rate::new(10.try_into().unwrap());
        for _ in 0..1000 {
            if let Err(wait) = rate.turn() {
                tokio::time::sleep(wait).await;
            }
        }
        (0..60).for_each(|_| rate.note_request());
        tokio::time::sleep(Duration::from_secs(10)).await;
        let mut at_once = 0;
        while rate.turn().is_ok() {
            at_once += 1;
        }
        assert!(at_once <= 5, "{at_once}: forty are owed");
    }
}
