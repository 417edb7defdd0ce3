//! The wall clock of the simulated machine: it goes with tokio's paused clock while the machine runs, and jumps while it is off.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::util::Clock;

/// The first moment of every schedule, in milliseconds since 1970-01-01 UTC.
const EPOCH: i64 = 1_700_000_000_000;

/// Threads other than the simulation's see the moment that the simulation saw last.
pub(super) struct SimulatedClock {
    last: AtomicI64,
    /// When the machine was started, by tokio's clock and by this one.
    started: Mutex<Option<(Instant, i64)>>,
}

impl SimulatedClock {
    pub(super) fn new() -> Self {
        Self { last: AtomicI64::new(EPOCH), started: Mutex::new(None) }
    }

    /// The machine starts. Must be called in its runtime.
    pub(super) fn start(&self) {
        *self.started.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), self.last.load(Ordering::SeqCst)));
    }

    /// The machine stops, and is off for so long.
    pub(super) fn stop(&self, off: Duration) {
        *self.started.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.last.fetch_add(i64::try_from(off.as_millis()).expect("not an age"), Ordering::SeqCst);
    }

    /// How long ago the schedule began.
    pub(super) fn elapsed(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.unix_millis() - EPOCH).expect("this clock is never set back"))
    }
}

impl Clock for SimulatedClock {
    fn unix_millis(&self) -> i64 {
        // Only the simulation's thread is in a runtime, and has its clock.
        if tokio::runtime::Handle::try_current().is_ok()
            && let Some((instant, at)) = *self.started.lock().unwrap_or_else(PoisonError::into_inner)
        {
            let now = at + i64::try_from(instant.elapsed().as_millis()).expect("not an age");
            self.last.store(now, Ordering::SeqCst);
        }
        self.last.load(Ordering::SeqCst)
    }
}
