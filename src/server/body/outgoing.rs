//! Knows whether what a body gave last is still held by the connection, and wakes the body when it no longer is. Without it the
//! connection would gather as much as it may for a client that takes nothing; it never holds anything itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::task::AtomicWaker;

use super::Watched;

/// The part of a body that is on its way out. There is one at a time.
#[derive(Debug, Default)]
pub(super) struct Outgoing(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_held: AtomicBool,
    /// Who waits for the end of that.
    waiting: AtomicWaker,
}

/// Bytes whose last handle tells when it is dropped.
struct Held {
    bytes: Bytes,
    state: Arc<State>,
    /// Whose body ends with them.
    _watched: Option<Watched>,
}

impl Outgoing {
    /// The same bytes, which are held until the last handle on them is dropped; as long as that a body is `watched` that ends with them.
    pub(super) fn hand_over(&self, bytes: Bytes, watched: Option<Watched>) -> Bytes {
        self.0.is_held.store(true, Ordering::Release);
        Bytes::from_owner(Held { bytes, state: Arc::clone(&self.0), _watched: watched })
    }

    /// Ready when nobody holds what was handed over.
    pub(super) fn poll_written(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.0.is_held.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.0.waiting.register(cx.waker());
        // It may have been let go of in between.
        if self.0.is_held.load(Ordering::Acquire) { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.state.is_held.store(false, Ordering::Release);
        self.state.waiting.wake();
    }
}
