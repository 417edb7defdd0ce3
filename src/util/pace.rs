//! A pace at which something is done. What comes faster waits in line, first come, first served; nobody is sent away who can go
//! within the time that one may wait.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How much of a debt a turn pays off at the most.
const INSTALMENT: u32 = 8;

/// A limit on turns per second.
pub struct Pace {
    limiter: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Duration>>,
    /// Held by the head of the line. Tokio's mutex is fair, which makes it one.
    line: Mutex<()>,
    patience: Duration,
    /// Turns that are to be paid for besides those taken.
    debt: AtomicU32,
}

/// There would have been no turn in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl Pace {
    /// At most `per_second` turns, and `burst` at once after a pause. Nobody waits for longer than `patience`.
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32, patience: Duration) -> Self {
        let quota = Quota::per_second(per_second).allow_burst(burst.max(per_second));
        let limiter = RateLimiter::direct_with_clock(quota, TokioClock::new(Instant::now()));
        Self { limiter, line: Mutex::new(()), patience, debt: AtomicU32::new(0) }
    }

    /// Waits until the next one may go.
    ///
    /// # Errors
    /// If that is not within the time one may wait.
    pub async fn turn(&self) -> Result<(), TooLong> {
        let turn = async {
            let _head = self.line.lock().await;
            let debt = self.debt.load(Ordering::Relaxed).min(INSTALMENT);
            let price = NonZeroU32::MIN.saturating_add(debt);
            // What is more than there can ever be at once is let off.
            while let Ok(Err(early)) = self.limiter.check_n(price) {
                tokio::time::sleep(early.wait_time_from(self.limiter.clock().now())).await;
            }
            self.debt.fetch_sub(debt, Ordering::Relaxed);
        };
        tokio::time::timeout(self.patience, turn).await.map_err(|_| TooLong)
    }

    /// Has later turns pay for `turns` more.
    pub fn charge(&self, turns: u32) {
        self.debt.fetch_add(turns, Ordering::Relaxed);
    }
}

/// The clock of the runtime, for `governor`, so that tests can turn it.
#[derive(Clone, Debug)]
pub struct TokioClock(Instant);

impl TokioClock {
    /// One whose time begins at `start`.
    pub fn new(start: Instant) -> Self {
        Self(start)
    }
}

impl Clock for TokioClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pace(per_second: u32, patience: u64) -> Pace {
        let burst = NonZeroU32::new(2 * per_second).unwrap();
        Pace::new(NonZeroU32::new(per_second).unwrap(), burst, Duration::from_secs(patience))
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_burst_requests_go_at_the_pace() {
        let (pace, start) = (pace(10, 60), Instant::now());
        for _ in 0..20 {
            pace.turn().await.unwrap();
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..30 {
            pace.turn().await.unwrap();
        }
        let took = start.elapsed().as_secs_f64();
        assert!((2.9..3.2).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_charged_is_paid_for_later() {
        let (pace, start) = (pace(10, 60), Instant::now());
        pace.turn().await.unwrap();
        pace.charge(29);
        for _ in 0..4 {
            pace.turn().await.unwrap();
        }
        // 34 in all, of which 20 were there to begin with.
        let took = start.elapsed().as_secs_f64();
        assert!((1.3..1.6).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_first_goes_first() {
        let (pace, order) = (Arc::new(pace(10, 60)), Arc::new(std::sync::Mutex::new(Vec::new())));
        for _ in 0..20 {
            pace.turn().await.unwrap();
        }
        // The second one comes at the very moment at which the first one may go, and its timer is the older one.
        let turns = [("second", 100), ("first", 0)].map(|(name, comes_after)| {
            let (pace, order) = (Arc::clone(&pace), Arc::clone(&order));
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(comes_after)).await;
                pace.turn().await.unwrap();
                order.lock().unwrap().push(name);
            })
        });
        futures::future::join_all(turns).await;
        assert_eq!(*order.lock().unwrap(), ["first", "second"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_would_wait_too_long_is_told() {
        let pace = Arc::new(pace(1, 5));
        let turns = (0..20).map(|_| {
            let pace = Arc::clone(&pace);
            tokio::spawn(async move { pace.turn().await })
        });
        let turns = futures::future::join_all(turns).await;
        let late = turns.iter().filter(|turn| matches!(turn, Ok(Err(TooLong)))).count();
        // Two at once, one in each of the five seconds (the last of them may fall on either side), the others in vain.
        assert!((13..=14).contains(&late), "{late}");
    }
}
