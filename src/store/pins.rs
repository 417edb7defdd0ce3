//! Which content is open at the moment, so that eviction passes it by. It never keeps content from being replaced or removed
//! when it is wrong.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use crate::oci::Digest;

/// The digests that are in use, or going.
#[derive(Clone, Default)]
pub(super) struct Pins(Arc<Mutex<HashMap<Digest, State>>>);

#[derive(Clone, Copy)]
enum State {
    Open(usize),
    Leaving,
}

/// Keeps a digest from eviction until it is dropped.
pub(super) struct Pin {
    pins: Pins,
    digest: Digest,
}

/// Keeps a digest from being opened until it is dropped: its file is about to go.
pub(super) struct Leave {
    pins: Pins,
    digest: Digest,
}

impl Pins {
    /// `None` if the content is being evicted.
    pub(super) fn pin(&self, digest: &Digest) -> Option<Pin> {
        match self.states().entry(*digest).or_insert(State::Open(0)) {
            State::Open(count) => *count += 1,
            State::Leaving => return None,
        }
        Some(Pin { pins: self.clone(), digest: *digest })
    }

    /// `None` if the content is open, or leaving already.
    pub(super) fn leave(&self, digest: &Digest) -> Option<Leave> {
        match self.states().entry(*digest) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                vacant.insert(State::Leaving);
                Some(Leave { pins: self.clone(), digest: *digest })
            }
        }
    }

    fn states(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Entry::Occupied(mut state) = self.pins.states().entry(self.digest) {
            match state.get_mut() {
                State::Open(count) if *count > 1 => *count -= 1,
                _ => drop(state.remove()),
            }
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.pins.states().remove(&self.digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_does_not_leave_and_what_leaves_is_not_opened() {
        let (pins, digest) = (Pins::default(), Digest::sha256(b"x"));
        let (first, second) = (pins.pin(&digest), pins.pin(&digest));
        assert!(first.is_some() && second.is_some() && pins.leave(&digest).is_none());
        drop(first);
        assert!(pins.leave(&digest).is_none(), "still open once");
        drop(second);
        let leave = pins.leave(&digest);
        assert!(leave.is_some() && pins.pin(&digest).is_none() && pins.leave(&digest).is_none());
        drop(leave);
        assert!(pins.pin(&digest).is_some());
        assert!(pins.states().is_empty());
    }
}
