//! The buffers that content is read into on its way to clients. Big ones come from a pool and go back to it when the last
//! handle on their bytes is dropped, since fresh memory for each would cost a page fault per 4 KiB served; where many are out at
//! once, as they are while clients are slow, new ones are smaller. Nobody waits for a buffer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// The largest buffer, in bytes: how much of a body is read, and handed to the connection, at a time.
pub(super) const CHUNK: usize = 128 << 10;

/// What a buffer has where very many are out, in bytes: little, and still more than a system call costs.
const LEAST: usize = 8 << 10;

/// How much all buffers together have, in bytes, before they are no larger than [`LEAST`]. A buffer is one of [`SHARES`] shares
/// of what the others have left of it: 64 readers have [`CHUNK`] each, a thousand have 21 MiB together, and each beyond these
/// 8 KiB more.
const PLENTY: usize = 16 << 20;
const SHARES: usize = 64;

/// How many idle buffers are kept: 8 MiB at most.
const KEPT: usize = 64;

static POOL: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// The memory of all buffers that are out, in bytes.
static OUT: AtomicUsize = AtomicUsize::new(0);

/// A buffer to read into, at most [`CHUNK`] bytes long.
pub(super) struct Buffer {
    memory: Box<[u8]>,
    len: usize,
}

impl Buffer {
    /// A buffer for as many of `wanted` bytes as there is memory for: at least [`LEAST`], or all of them.
    pub(super) fn take(wanted: u64) -> Self {
        // Only an estimate if others take one at this moment, which is near enough.
        let most = size_beside(OUT.load(Ordering::Relaxed));
        let len = usize::try_from(wanted).map_or(most, |wanted| wanted.min(most));
        let memory = if most == CHUNK && len > CHUNK / 8 { large() } else { vec![0; len].into_boxed_slice() };
        OUT.fetch_add(memory.len(), Ordering::Relaxed);
        Self { memory, len }
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

/// [`CHUNK`] bytes, from the pool if it has them.
fn large() -> Box<[u8]> {
    let pooled = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
    pooled.unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice())
}

/// The size of the next buffer while the others have `out` bytes: a power of two.
fn size_beside(out: usize) -> usize {
    let share = (PLENTY.saturating_sub(out) / SHARES).clamp(LEAST, CHUNK);
    1 << share.ilog2()
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        OUT.fetch_sub(self.memory.len(), Ordering::Relaxed);
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
    fn many_readers_get_small_buffers_and_few_get_large_ones() {
        let sizes = |readers: usize| {
            let mut out = 0;
            let mut sizes = Vec::new();
            for _ in 0..readers {
                sizes.push(size_beside(out));
                out += size_beside(out);
            }
            sizes
        };
        assert_eq!(sizes(64), [CHUNK; 64]);
        assert!(sizes(1000).is_sorted_by(|size, next| size >= next));
        assert!(sizes(1000).iter().sum::<usize>() < 22 << 20);
        assert_eq!(sizes(1000)[999], LEAST);
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
