//! Spreads bytes over time.
//! Says how long to wait; does not wait itself.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How far behind its schedule a sender may fall and still catch up: timers are late by about a millisecond.
const SLACK: Duration = Duration::from_millis(20);

/// A line of limited rate that senders share.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    /// When the line has sent all that was booked.
    free_at: Mutex<Option<Instant>>,
}

impl Pacer {
    /// Books `bytes` at `rate` bytes a second, and says how long to wait before sending them.
    pub(crate) fn book(&self, bytes: usize, rate: u64) -> Duration {
        let now = Instant::now();
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(SLACK).unwrap_or(now);
        let begins = free_at.map_or(now, |at| at.max(earliest));
        *free_at = Some(begins + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64));
        begins.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_queue_behind_one_another() {
        let pacer = Pacer::default();
        assert_eq!(pacer.book(1000, 10), Duration::ZERO);
        let wait = pacer.book(1000, 10);
        assert!(wait > Duration::from_secs(90) && wait <= Duration::from_secs(100));
    }
}
