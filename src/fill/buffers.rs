//! The buffers that content is read into on its way to clients. Big ones come from a pool and go back to it when the last
//! handle on their bytes is dropped: fresh memory for each would cost a page fault per 4 KiB served.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// The size of a pooled buffer, in bytes: how much of a body is read, and handed to the connection, at a time.
pub(super) const CHUNK: usize = 128 << 10;

/// How many idle buffers are kept: 8 MiB at most.
const KEPT: usize = 64;

static POOL: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// A buffer to read into, at most [`CHUNK`] bytes long.
pub(super) struct Buffer {
    memory: Box<[u8]>,
    len: usize,
}

impl Buffer {
    /// A buffer for up to `wanted` bytes.
    pub(super) fn take(wanted: u64) -> Self {
        let len = usize::try_from(wanted).map_or(CHUNK, |wanted| wanted.min(CHUNK));
        if len <= CHUNK / 8 {
            return Self { memory: vec![0; len].into_boxed_slice(), len };
        }
        let pooled = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self { memory: pooled.unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice()), len }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }

    /// The first `len` bytes, which have been read.
    pub(super) fn freeze(mut self, len: usize) -> Bytes {
        self.len = self.len.min(len);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.memory.len() == CHUNK {
            let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            if pool.len() < KEPT {
                pool.push(std::mem::take(&mut self.memory));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_holds_what_was_read_and_no_more() {
        let mut buffer = Buffer::take(1 << 40);
        assert_eq!(buffer.as_mut_slice().len(), CHUNK);
        buffer.as_mut_slice()[..5].copy_from_slice(b"bytes");
        let bytes = buffer.freeze(5);
        assert_eq!(bytes, b"bytes"[..]);
        assert_eq!(Buffer::take(3).as_mut_slice().len(), 3);
        assert_eq!(Buffer::take(0).freeze(0), Bytes::new());
    }

    #[test]
    fn bytes_in_use_are_not_handed_out_again() {
        let mut first = Buffer::take(CHUNK as u64);
        first.as_mut_slice().fill(1);
        let held = first.freeze(CHUNK);
        for _ in 0..3 {
            Buffer::take(CHUNK as u64).as_mut_slice().fill(2);
        }
        assert!(held.iter().all(|byte| *byte == 1));
    }
}
