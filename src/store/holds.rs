//! Which content is open at the moment, so that eviction passes it by. It never keeps content from being replaced or removed
//! when it is wrong.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use crate::oci::Digest;
use crate::util::Hashing;

/// The digests that are in use, or going.
#[derive(Clone, Default)]
pub(super) struct Holds(Arc<Mutex<HashMap<Digest, State, Hashing>>>);

#[derive(Clone, Copy)]
enum State {
    Open(usize),
    Leaving,
}

/// Keeps a digest from eviction until it is dropped.
pub(super) struct Hold {
    holds: Holds,
    digest: Digest,
}

/// Keeps a digest from being opened until it is dropped: its file is about to go.
pub(super) struct Leave {
    holds: Holds,
    digest: Digest,
}

impl Holds {
    /// `None` if the content is being evicted.
    pub(super) fn hold(&self, digest: &Digest) -> Option<Hold> {
        match self.states().entry(*digest).or_insert(State::Open(0)) {
            State::Open(count) => *count += 1,
            State::Leaving => return None,
        }
        Some(Hold { holds: self.clone(), digest: *digest })
    }

    /// `None` if the content is open, or leaving already.
    pub(super) fn leave(&self, digest: &Digest) -> Option<Leave> {
        match self.states().entry(*digest) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                vacant.insert(State::Leaving);
                Some(Leave { holds: self.clone(), digest: *digest })
            }
        }
    }

    /// Whether the content is open, or leaving.
    pub(super) fn is_held(&self, digest: &Digest) -> bool {
        self.states().contains_key(digest)
    }

    fn states(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, State, Hashing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Entry::Occupied(mut state) = self.holds.states().entry(self.digest) {
            match state.get_mut() {
                State::Open(count) if *count > 1 => *count -= 1,
                _ => drop(state.remove()),
            }
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.holds.states().remove(&self.digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_does_not_leave_and_what_leaves_is_not_opened() {
        let (holds, digest) = (Holds::default(), Digest::sha256(b"x"));
        let (first, second) = (holds.hold(&digest), holds.hold(&digest));
        assert!(first.is_some() && second.is_some() && holds.leave(&digest).is_none());
        drop(first);
        assert!(holds.leave(&digest).is_none(), "still open once");
        drop(second);
        let leave = holds.leave(&digest);
        assert!(leave.is_some() && holds.hold(&digest).is_none() && holds.leave(&digest).is_none());
        drop(leave);
        assert!(holds.hold(&digest).is_some());
        assert!(holds.states().is_empty());
    }
}
