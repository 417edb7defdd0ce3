//! The state of one fill, as its driver writes it and its readers see it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::error::FillError;
use super::extents::Extents;
use super::{Source, WITHHELD_TAIL};
use crate::oci::Digest;
use crate::store::StoredFile;

/// One content in flight. Its driver is the only writer; readers wait for the bytes that they need.
pub struct Fill {
    digest: Digest,
    source: Source,
    state: Mutex<State>,
    /// Wakes all that wait, whenever the state has changed.
    changed: Notify,
}

struct State {
    phase: Phase,
    /// The part that content arrives in, from [`Phase::Arriving`] on.
    file: Option<Arc<dyn StoredFile>>,
    arrived: Extents,
}

enum Phase {
    /// The upstream has been asked and has not answered.
    Opening,
    /// The body arrives. Its size is unknown where the upstream sends none and no manifest names it.
    Arriving {
        size: Option<u64>,
    },
    /// All of it is there and hashes to the digest.
    Verified {
        size: u64,
    },
    Failed {
        error: FillError,
        begun: bool,
    },
}

/// What a reader may do next.
pub(super) enum Progress {
    /// The bytes from the asked position up to here can be read.
    Readable(u64),
    /// The asked position is the end of the content.
    End,
}

impl Fill {
    pub(super) fn new(digest: Digest, source: Source) -> Self {
        let state = State { phase: Phase::Opening, file: None, arrived: Extents::default() };
        Self { digest, source, state: Mutex::new(state), changed: Notify::new() }
    }

    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Where it is read from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Waits until the upstream has answered. Gives the size in bytes, if it is known.
    ///
    /// # Errors
    /// Why the upstream has nothing to read, or why the fill has broken since.
    pub async fn opened(&self) -> Result<Option<u64>, FillError> {
        self.wait(|state| match &state.phase {
            Phase::Opening => None,
            Phase::Arriving { size } => Some(Ok(*size)),
            Phase::Verified { size } => Some(Ok(Some(*size))),
            Phase::Failed { error, .. } => Some(Err(error.clone())),
        })
        .await
    }

    /// Waits until the size is known, which may be only at the end of the body.
    ///
    /// # Errors
    /// As [`Fill::opened`].
    pub async fn size(&self) -> Result<u64, FillError> {
        self.wait(|state| match &state.phase {
            Phase::Opening | Phase::Arriving { size: None } => None,
            Phase::Arriving { size: Some(size) } | Phase::Verified { size } => Some(Ok(*size)),
            Phase::Failed { error, .. } => Some(Err(error.clone())),
        })
        .await
    }

    /// Waits until it is verified or has failed.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn verified(&self) -> Result<u64, FillError> {
        self.wait(|state| match &state.phase {
            Phase::Opening | Phase::Arriving { .. } => None,
            Phase::Verified { size } => Some(Ok(*size)),
            Phase::Failed { error, .. } => Some(Err(error.clone())),
        })
        .await
    }

    /// Whether the upstream answered with a body, so that clients may have been sent some of it.
    pub(super) fn has_begun(&self) -> bool {
        match &self.lock().phase {
            Phase::Opening => false,
            Phase::Arriving { .. } | Phase::Verified { .. } => true,
            Phase::Failed { begun, .. } => *begun,
        }
    }

    /// The file that content arrives in, once the upstream has answered.
    pub(super) fn file(&self) -> Option<Arc<dyn StoredFile>> {
        self.lock().file.clone()
    }

    /// Waits until bytes can be read at `position`, which is not past the end as far as that is known.
    pub(super) async fn readable(&self, position: u64) -> Result<Progress, FillError> {
        self.wait(|state| {
            let (limit, size) = match &state.phase {
                Phase::Opening => return None,
                // Nothing of the tail goes out before the whole is verified, wherever the tail turns out to be.
                Phase::Arriving { size: Some(size) } => (size.saturating_sub(WITHHELD_TAIL), None),
                Phase::Arriving { size: None } => (state.arrived.end_of_run(0).saturating_sub(WITHHELD_TAIL), None),
                Phase::Verified { size } => (*size, Some(*size)),
                Phase::Failed { error, .. } => return Some(Err(error.clone())),
            };
            if size.is_some_and(|size| position >= size) {
                return Some(Ok(Progress::End));
            }
            let end = state.arrived.end_of_run(position).min(limit);
            (end > position).then_some(Ok(Progress::Readable(end)))
        })
        .await
    }

    // --- for the driver ---

    pub(super) fn begin(&self, size: Option<u64>, file: Arc<dyn StoredFile>) {
        self.change(|state| {
            state.file = Some(file);
            state.phase = Phase::Arriving { size };
        });
    }

    pub(super) fn arrived(&self, from: u64, to: u64) {
        self.change(|state| state.arrived.insert(from..to));
    }

    pub(super) fn verify(&self, size: u64) {
        self.change(|state| state.phase = Phase::Verified { size });
    }

    /// Ends the fill with `error`, unless it is verified: then readers have all that they need, and only the cache has not.
    pub(super) fn fail(&self, error: FillError) {
        self.change(|state| match state.phase {
            Phase::Verified { .. } | Phase::Failed { .. } => {}
            Phase::Opening => state.phase = Phase::Failed { error, begun: false },
            Phase::Arriving { .. } => state.phase = Phase::Failed { error, begun: true },
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_waiters();
    }

    async fn wait<T>(&self, look: impl Fn(&State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change falls between the two.
            changed.as_mut().enable();
            if let Some(found) = look(&self.lock()) {
                return found;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
