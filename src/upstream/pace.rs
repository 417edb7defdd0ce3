//! The pace at which one upstream is asked. Requests that come faster wait in line, first come, first served; it never
//! drops one that can go within the time it may wait.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::{Phase, UpstreamError};

/// A limit on requests begun per second.
pub(super) struct Pace {
    limiter: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Duration>>,
    /// Held by the head of the line. Tokio's mutex is fair, which makes it one.
    line: Mutex<()>,
    patience: Duration,
}

impl Pace {
    /// At most `per_second` requests, with bursts of twice that. Nobody waits for longer than `patience`.
    pub(super) fn new(per_second: NonZeroU32, patience: Duration) -> Self {
        let burst = per_second.saturating_mul(NonZeroU32::MIN.saturating_add(1));
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self { limiter: RateLimiter::direct_with_clock(quota, TokioClock(Instant::now())), line: Mutex::new(()), patience }
    }

    /// Waits until the next request may begin.
    ///
    /// # Errors
    /// [`Phase::Queue`] if that is not within the time one may wait.
    pub(super) async fn turn(&self) -> Result<(), UpstreamError> {
        let turn = async {
            let _head = self.line.lock().await;
            while let Err(early) = self.limiter.check() {
                tokio::time::sleep(early.wait_time_from(self.limiter.clock().now())).await;
            }
        };
        tokio::time::timeout(self.patience, turn).await.map_err(|_| UpstreamError::Timeout { phase: Phase::Queue })
    }
}

/// The clock of the runtime, so that tests can turn it.
#[derive(Clone, Debug)]
struct TokioClock(Instant);

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
        Pace::new(NonZeroU32::new(per_second).unwrap(), Duration::from_secs(patience))
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
        let late = turns.iter().filter(|turn| matches!(turn, Ok(Err(UpstreamError::Timeout { phase: Phase::Queue })))).count();
        // Two at once, one in each of the five seconds (the last of them may fall on either side), the others in vain.
        assert!((13..=14).contains(&late), "{late}");
    }
}
