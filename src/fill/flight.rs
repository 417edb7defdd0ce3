//! The state of one fill, as its driver writes it and its readers see it.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::error::FillError;
use super::plan::{Allowance, LaneId, Opening, Plan};
use super::{Source, WITHHELD_TAIL};
use crate::oci::Digest;
use crate::store::{Content, PartMap, StoredFile};

/// One content in flight. Its driver is the only writer; readers wait for the bytes that they need.
pub struct Fill {
    digest: Digest,
    source: Source,
    state: Mutex<State>,
    /// Wakes all that wait, whenever the state has changed.
    changed: Notify,
    /// Wakes the driver, when there is something to decide.
    attention: Notify,
}

struct State {
    phase: Phase,
    /// The part that content arrives in, from [`Phase::Arriving`] on.
    file: Option<Arc<dyn StoredFile>>,
    /// The content once it is at rest: whoever reads it from here keeps it from being evicted.
    at_rest: Option<Content>,
    plan: Plan,
    /// What lanes have taken and are writing, of which readers need not wait until it is written.
    unwritten: Vec<(LaneId, Unwritten)>,
    /// The upstream has answered that it has the content.
    vouched_for: bool,
    /// It is not in flight any more: another fill of the same content can begin.
    landed: bool,
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
    /// The bytes from the asked position up to `end` can be read from `file`.
    Written { file: Arc<dyn StoredFile>, end: u64 },
    /// The bytes from the asked position on are these, and some more.
    Unwritten(Unwritten),
    /// The asked position is the end of the content.
    End,
}

/// Some bytes of a content that are not in its file yet.
#[derive(Clone)]
pub(super) struct Unwritten {
    pub(super) position: u64,
    pub(super) bytes: Bytes,
}

impl Fill {
    pub(super) fn new(digest: Digest, source: Source) -> Self {
        let state = State {
            phase: Phase::Opening,
            file: None,
            at_rest: None,
            plan: Plan::default(),
            unwritten: Vec::new(),
            vouched_for: false,
            landed: false,
        };
        Self { digest, source, state: Mutex::new(state), changed: Notify::new(), attention: Notify::new() }
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

    /// The size in bytes, as far as anybody has told it by now.
    pub(super) fn told_size(&self) -> Option<u64> {
        self.lock().plan.size()
    }

    /// Waits until all of it has arrived and hashes to the digest. It is at rest a moment later.
    ///
    /// # Errors
    /// As [`Fill::opened`].
    pub async fn verified(&self) -> Result<(), FillError> {
        self.wait(|state| match &state.phase {
            Phase::Opening | Phase::Arriving { .. } => None,
            Phase::Verified { .. } => Some(Ok(())),
            Phase::Failed { error, .. } => Some(Err(error.clone())),
        })
        .await
    }

    /// Whether all of it has arrived and hashes to the digest.
    pub(super) fn is_verified(&self) -> bool {
        matches!(self.lock().phase, Phase::Verified { .. })
    }

    /// Whether the upstream has been asked and has answered that the repository has the content. Content that was found at rest when
    /// the fill began is nobody's word.
    pub fn is_vouched_for(&self) -> bool {
        self.lock().vouched_for
    }

    /// Waits until another fill of the same content can begin.
    pub async fn landed(&self) {
        self.wait(|state| state.landed.then_some(())).await;
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

    /// Whether all of `range` is in the file.
    pub(super) fn has_written(&self, range: Range<u64>) -> bool {
        self.lock().plan.end_of_run(range.start) >= range.end
    }

    /// Waits until bytes can be read at `position`, which is not past the end as far as that is known, by a reader that began
    /// at `begin`. That somebody waits there has those bytes fetched first.
    pub(super) async fn readable(&self, position: u64, begin: u64) -> Result<Progress, FillError> {
        let found = self.lock().readable(position, begin);
        match found {
            Some(found) => found,
            None => {
                let _waiting = Waiting::begin(self, position);
                self.wait(|state| state.readable(position, begin)).await
            }
        }
    }

    // --- for the driver and its lanes ---

    /// An earlier fill has left this. Only before [`Fill::begin`].
    pub(super) fn restore(&self, map: &PartMap) {
        self.lock().plan.restore(map.size, map.extents.iter().cloned());
    }

    /// What has arrived, once the size is known.
    pub(super) fn map(&self) -> Option<PartMap> {
        let state = self.lock();
        Some(PartMap { size: state.plan.size()?, extents: state.plan.arrived().to_vec() })
    }

    pub(super) fn land(&self) {
        self.change(|state| state.landed = true);
    }

    pub(super) fn begin(&self, size: Option<u64>, file: Arc<dyn StoredFile>) {
        self.change(|state| {
            state.vouched_for = true;
            state.file = Some(file);
            state.phase = Phase::Arriving { size };
            if let Some(size) = size {
                state.plan.tell_size(size);
            }
        });
    }

    /// The content is at rest, now or already.
    pub(super) fn rest(&self, content: Content) {
        self.change(|state| {
            state.file = Some(Arc::clone(&content.file));
            state.phase = Phase::Verified { size: content.size };
            state.at_rest = Some(content);
        });
    }

    /// The body has ended where nobody had said that it would.
    pub(super) fn tell_size(&self, size: u64) {
        self.lock().plan.tell_size(size);
        self.attention.notify_one();
    }

    pub(super) fn next_lane(&self, allowance: Allowance) -> Option<Opening> {
        self.lock().plan.next(allowance)
    }

    pub(super) fn end_of_share(&self, lane: LaneId) -> u64 {
        self.lock().plan.end_of_share(lane)
    }

    pub(super) fn take(&self, lane: LaneId, position: u64) {
        self.lock().plan.take(lane, position);
    }

    /// The lane is about to write this: who waits for it need not wait for the disk.
    pub(super) fn lend(&self, lane: LaneId, unwritten: Unwritten) {
        self.change(|state| state.unwritten.push((lane, unwritten)));
    }

    pub(super) fn arrive(&self, lane: LaneId, range: Range<u64>) {
        self.change(|state| {
            state.plan.arrive(lane, range);
            state.take_back(lane);
        });
        self.attention.notify_one();
    }

    pub(super) fn close_lane(&self, lane: LaneId) {
        let mut state = self.lock();
        state.plan.close(lane);
        state.take_back(lane);
    }

    pub(super) fn curtail_lane(&self, lane: LaneId) {
        self.lock().plan.curtail(lane);
    }

    pub(super) fn end_of_run(&self, position: u64) -> u64 {
        self.lock().plan.end_of_run(position)
    }

    pub(super) fn arrived_bytes(&self) -> u64 {
        self.lock().plan.arrived_bytes()
    }

    /// The size, once all of it has arrived.
    pub(super) fn complete(&self) -> Option<u64> {
        let state = self.lock();
        state.plan.is_complete().then(|| state.plan.end_of_run(0))
    }

    /// Waits until there may be something to decide.
    pub(super) async fn attention(&self) {
        self.attention.notified().await;
    }

    pub(super) fn verify(&self, size: u64) {
        self.change(|state| state.phase = Phase::Verified { size });
    }

    /// Ends the fill with `error`, unless it is verified: then readers have all that they need, and only the cache has not.
    pub(super) fn fail(&self, error: FillError) {
        self.change(|state| {
            state.unwritten.clear();
            match state.phase {
                Phase::Verified { .. } | Phase::Failed { .. } => {}
                Phase::Opening => state.phase = Phase::Failed { error, begun: false },
                Phase::Arriving { .. } => state.phase = Phase::Failed { error, begun: true },
            }
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

impl State {
    /// What can be read at `position`; `None` if that has to be waited for.
    fn readable(&self, position: u64, begin: u64) -> Option<Result<Progress, FillError>> {
        let arrived = self.plan.end_of_run(position);
        let (arrived, most) = match &self.phase {
            Phase::Opening => return None,
            Phase::Failed { error, .. } => return Some(Err(error.clone())),
            Phase::Verified { size } if position >= *size => return Some(Ok(Progress::End)),
            Phase::Verified { size } => (*size, *size),
            // Nothing of the tail goes out before the whole is verified, wherever the tail turns out to be. But who asks for a
            // part of the tail alone (the footer of a layer that is pulled lazily) cannot mistake it for the whole, nor complete
            // one with it: nobody has been given what comes right before it.
            Phase::Arriving { size: Some(size) } => match size.saturating_sub(WITHHELD_TAIL) {
                tail if tail > 0 && begin > tail => (arrived, *size),
                tail => (arrived, tail),
            },
            Phase::Arriving { size: None } => (arrived, arrived.saturating_sub(WITHHELD_TAIL)),
        };
        let end = arrived.min(most);
        if end > position {
            return Some(Ok(Progress::Written { file: Arc::clone(self.file.as_ref()?), end }));
        }
        let unwritten = self.unwritten.iter().find_map(|(_, unwritten)| unwritten.between(position, most))?;
        Some(Ok(Progress::Unwritten(unwritten)))
    }

    fn take_back(&mut self, from: LaneId) {
        self.unwritten.retain(|(lane, _)| *lane != from);
    }
}

impl Unwritten {
    /// What of it is between the two positions, if it has the first of that.
    pub(super) fn between(&self, begin: u64, end: u64) -> Option<Self> {
        let first = usize::try_from(begin.checked_sub(self.position)?).ok()?;
        let end = usize::try_from(end.checked_sub(self.position)?).map_or(self.bytes.len(), |end| end.min(self.bytes.len()));
        (first < end).then(|| Self { position: begin, bytes: self.bytes.slice(first..end) })
    }

    /// Where in the content it is.
    pub(super) fn range(&self) -> Range<u64> {
        self.position..self.position + self.bytes.len() as u64
    }
}

/// A reader that waits at a position.
struct Waiting<'a> {
    fill: &'a Fill,
    position: u64,
}

impl<'a> Waiting<'a> {
    fn begin(fill: &'a Fill, position: u64) -> Self {
        if fill.lock().plan.want(position) {
            fill.attention.notify_one();
        }
        Self { fill, position }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.fill.lock().plan.unwant(self.position);
    }
}
