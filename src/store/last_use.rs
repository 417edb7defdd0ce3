//! When something in memory was last noted as used, so that what is used all the time is noted once in a while.

use std::sync::atomic::{AtomicI64, Ordering};

use super::eviction::policy::is_use;

/// A time, in milliseconds since 1970; at first it is long ago.
#[derive(Debug, Default)]
pub struct LastUse(AtomicI64);

impl LastUse {
    pub(super) fn at(millis: i64) -> Self {
        Self(millis.into())
    }

    /// Whether a read at `now` is another use. If it is, it is the last one from now on.
    pub(super) fn renew(&self, now: i64) -> bool {
        let is_use = is_use(self.0.load(Ordering::Relaxed), now);
        // Written seldom, so that all processors have a copy. That two who come at once may both see a use does no harm.
        if is_use {
            self.0.store(now, Ordering::Relaxed);
        }
        is_use
    }
}
