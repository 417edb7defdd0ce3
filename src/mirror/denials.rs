//! Questions to which an upstream says no: that it has no such thing, or does not show it. The answer is remembered for a while, and who
//! asks many of them has fewer turns. Whether something is served in spite of it is not decided here.

use super::{Caller, ContentKey, Mirror, MirrorError, TagKey, listings};
use crate::upstream::{Party, UpstreamError};

/// What an upstream was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    Tag(TagKey),
    Content(ContentKey),
    Listing(listings::Key),
}

impl Mirror {
    /// Fails as the upstream did if it said no a moment ago.
    pub(super) fn not_denied(&self, asked: &Asked) -> Result<(), MirrorError> {
        self.shared.denials.get(asked).map_or(Ok(()), Err)
    }

    /// Remembers the upstream's `error` if that is a no.
    pub(super) fn note_denial(&self, asked: impl FnOnce() -> Asked, error: &MirrorError) {
        if is_denial(error) {
            self.shared.denials.insert(asked(), error.clone());
        }
    }

    pub(super) fn forget_denial(&self, asked: &Asked) {
        self.shared.denials.invalidate(asked);
    }

    /// Has `caller` pay for a question to which the upstream said no, and which nothing that is here has led to.
    pub(super) fn note_in_vain<T>(&self, caller: Caller, result: &Result<T, MirrorError>) {
        if result.as_ref().err().is_some_and(is_denial) {
            self.shared.callers.note_in_vain(caller);
        }
    }
}

/// Whether the registry itself has said no. Some, Docker Hub among them, deny what they do not have. A refusal of the place that
/// it redirects to is a matter of that moment.
fn is_denial(error: &MirrorError) -> bool {
    match error {
        MirrorError::Unknown(_) => true,
        MirrorError::Upstream(UpstreamError::Denied { by, .. }) => *by != Party::Storage,
        _ => false,
    }
}
