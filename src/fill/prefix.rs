//! The hash that runs behind what has arrived. As long as bytes come in order it is fed from memory, and from the file where they
//! came out of order.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};

use crate::oci::{Algorithm, Digest, Hasher};
use crate::store::StoredFile;

/// How much is read back at a time.
const CHUNK: usize = 256 << 10;

/// How much is read back in one go, so that the rest of the process gets its turns on a busy machine.
const GO: u64 = 16 << 20;

/// A content's bytes, hashed from the first one on.
pub(super) struct Prefix {
    state: Mutex<State>,
    /// As in the state, for who cannot wait for it.
    position: AtomicU64,
}

struct State {
    hasher: Hasher,
    position: u64,
}

impl Prefix {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        Self { state: Mutex::new(State { hasher: Hasher::new(algorithm), position: 0 }), position: AtomicU64::new(0) }
    }

    /// Up to where it is hashed.
    pub(super) fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// Hashes `bytes`, which have been written at `at`, if it is their turn and nobody else is at it.
    pub(super) fn feed(&self, at: u64, bytes: &[u8]) {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if state.position == at {
            state.hasher.update(bytes);
            state.position += bytes.len() as u64;
            self.position.store(state.position, Ordering::Release);
        }
    }

    /// Hashes what is in `file` before `end`, or as much of it as is good in one go. Blocks.
    pub(super) fn catch_up(&self, file: &dyn StoredFile, end: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let end = end.min(state.position + GO);
        let mut buffer = vec![0; CHUNK];
        while state.position < end {
            let wanted = usize::try_from(end - state.position).map_or(CHUNK, |left| left.min(CHUNK));
            match file.read_at(&mut buffer[..wanted], state.position)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => {
                    state.hasher.update(&buffer[..count]);
                    state.position += count as u64;
                    self.position.store(state.position, Ordering::Release);
                }
            }
        }
        Ok(())
    }

    /// The digest of all that was hashed.
    pub(super) fn digest(&self) -> Digest {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).hasher.clone().finish()
    }
}
