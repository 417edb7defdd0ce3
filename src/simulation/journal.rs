//! What happened in a schedule, in order, and what of it must never happen. It judges nothing by itself.

use std::fmt::Display;
use std::hash::Hasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::clock::SimulatedClock;

/// The events of one schedule. Cheap to clone.
#[derive(Clone)]
pub(super) struct Journal {
    clock: Arc<SimulatedClock>,
    pages: Arc<Mutex<Pages>>,
}

#[derive(Default)]
struct Pages {
    /// Kept only when a schedule is replayed: most are never read.
    lines: Option<Vec<String>>,
    /// Of all events: two runs of a seed must agree in it.
    hash: std::hash::DefaultHasher,
    violations: Vec<String>,
    /// Set from when the machine has no power until it is torn down, which happens in no order.
    closed: bool,
}

impl Journal {
    pub(super) fn new(clock: Arc<SimulatedClock>, keeps_lines: bool) -> Self {
        let pages = Pages { lines: keeps_lines.then(Vec::new), ..Pages::default() };
        Self { clock, pages: Arc::new(Mutex::new(pages)) }
    }

    pub(super) fn note(&self, event: impl Display) {
        let at = self.clock.elapsed();
        let mut pages = self.lock();
        if pages.closed {
            return;
        }
        let line = format!("{:>10.3} s  {event}", at.as_secs_f64());
        pages.hash.write(line.as_bytes());
        if let Some(lines) = &mut pages.lines {
            lines.push(line);
        }
    }

    /// Notes that a promise was broken.
    pub(super) fn violation(&self, what: impl Display) {
        self.note(format_args!("VIOLATION  {what}"));
        let mut pages = self.lock();
        if !pages.closed {
            pages.violations.push(what.to_string());
        }
    }

    /// Nothing is noted while it is closed.
    pub(super) fn close(&self, closed: bool) {
        self.lock().closed = closed;
    }

    /// Whether what happens is of no effect any more.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    pub(super) fn hash(&self) -> u64 {
        self.lock().hash.finish()
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lock().lines.clone().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
