//! Pseudo-random content of any size that is never held in memory: every byte follows from a seed and an offset.
//! Computes digests of such content, once each; it stores nothing else.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::digest::{Algorithm, Digest, Hasher};

/// The odd constant of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// How much is generated at a time while a digest is computed, in bytes.
const HASH_STEP: u64 = 256 * 1024;

/// `size` pseudo-random bytes that `seed` determines. Not compressible; cheap to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Synthetic {
    seed: u64,
    size: u64,
}

static DIGESTS: LazyLock<Mutex<HashMap<(Synthetic, Algorithm), Digest>>> = LazyLock::new(Mutex::default);

impl Synthetic {
    /// Content of `size` bytes. The bytes of a shorter one are a prefix of those of a longer one of the same seed.
    pub const fn new(seed: u64, size: u64) -> Synthetic {
        Synthetic { seed, size }
    }

    /// The size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The bytes from `offset`, at most `len` of them and never past the end.
    pub fn read(&self, offset: u64, len: usize) -> Bytes {
        let left = self.size.saturating_sub(offset);
        let len = usize::try_from(left).map_or(len, |left| left.min(len));
        let mut buffer = BytesMut::zeroed(len);
        self.fill(offset, &mut buffer);
        buffer.freeze()
    }

    /// The digest of the whole. Computed at the first call of a process, remembered from then on.
    pub fn digest(&self, algorithm: Algorithm) -> Digest {
        let key = (*self, algorithm);
        let known = |digests: &HashMap<_, Digest>| digests.get(&key).cloned();
        if let Some(digest) = known(&DIGESTS.lock().unwrap_or_else(PoisonError::into_inner)) {
            return digest;
        }
        let mut hasher = Hasher::new(algorithm);
        let mut offset = 0;
        while offset < self.size {
            let piece = self.read(offset, HASH_STEP as usize);
            hasher.update(&piece);
            offset += piece.len() as u64;
        }
        let digest = hasher.finish();
        DIGESTS.lock().unwrap_or_else(PoisonError::into_inner).insert(key, digest.clone());
        digest
    }

    fn fill(&self, offset: u64, buffer: &mut [u8]) {
        let misaligned = (offset % 8) as usize;
        let (head, words) = match misaligned {
            0 => buffer.split_at_mut(0),
            _ => buffer.split_at_mut((8 - misaligned).min(buffer.len())),
        };
        let mut index = offset / 8;
        if !head.is_empty() {
            let word = self.word(index);
            head.copy_from_slice(&word[misaligned..misaligned + head.len()]);
            index += 1;
        }
        for chunk in words.chunks_mut(8) {
            let word = self.word(index);
            chunk.copy_from_slice(&word[..chunk.len()]);
            index += 1;
        }
    }

    fn word(&self, index: u64) -> [u8; 8] {
        let seed = self.seed.wrapping_mul(0xd129_42b0_96cb_5a1d);
        mix(seed, index).to_le_bytes()
    }
}

/// The `index`th number of the SplitMix64 sequence of `seed`.
pub(crate) fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(GOLDEN_GAMMA));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_equals_the_same_part_of_the_whole() {
        let content = Synthetic::new(7, 1000);
        let whole = content.read(0, 1000);
        assert_eq!(whole.len(), 1000);
        for (offset, len) in [(0, 1), (1, 7), (3, 20), (8, 8), (995, 5), (5, 990)] {
            let end = offset + len;
            assert_eq!(content.read(offset as u64, len), whole.slice(offset..end));
        }
        assert_eq!(content.read(998, 100).len(), 2);
        assert!(content.read(1000, 1).is_empty());
    }

    #[test]
    fn the_digest_is_that_of_the_bytes_and_differs_by_seed() {
        let content = Synthetic::new(1, 600_001);
        let whole = content.read(0, 600_001);
        assert_eq!(content.digest(Algorithm::Sha256), Digest::of(Algorithm::Sha256, &whole));
        assert_ne!(content.digest(Algorithm::Sha256), Synthetic::new(2, 600_001).digest(Algorithm::Sha256));
    }
}
