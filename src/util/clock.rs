//! The wall clock, behind a trait so that tests can set it. Durations within one run use tokio's clock, which tests can set already.

use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time of day, for what is kept across restarts.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970-01-01 UTC. May jump either way when the machine's clock is set: callers must bear it.
    fn unix_millis(&self) -> i64;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn unix_millis(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |millis| -millis),
        }
    }
}
