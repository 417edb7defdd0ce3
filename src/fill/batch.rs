//! What a lane has taken and not written yet, and where to cut it so that the kernel keeps it in large pieces.

use std::io::IoSlice;
use std::ops::Range;

use bytes::Bytes;

/// Where writes end if they can, in bytes. The kernel keeps what is written in pieces of memory ("folios") that are aligned to their own size
/// and no larger than the write; to send a blob that was written as it came off the connection costs it a fifth more than one that was
/// written in pieces of this size and more.
pub(super) const GRAIN: u64 = 128 << 10;

/// Bytes that follow each other, in the pieces in which they came.
pub(super) struct Batch {
    chunks: Vec<Bytes>,
    /// Where in the content they are.
    range: Range<u64>,
}

impl Batch {
    /// An empty one, for what comes at `position`.
    pub(super) fn at(position: u64) -> Self {
        Self { chunks: Vec::new(), range: position..position }
    }

    pub(super) fn push(&mut self, chunk: Bytes) {
        self.range.end += chunk.len() as u64;
        self.chunks.push(chunk);
    }

    /// In bytes.
    pub(super) fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    pub(super) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    pub(super) fn first(&self) -> Option<&Bytes> {
        self.chunks.first()
    }

    /// For one call that writes all of it.
    pub(super) fn slices(&self) -> Vec<IoSlice<'_>> {
        self.chunks.iter().map(|chunk| IoSlice::new(chunk)).collect()
    }

    pub(super) fn chunks(&self) -> impl Iterator<Item = &Bytes> {
        self.chunks.iter()
    }

    /// The last place in it where a write should end, if there is one.
    pub(super) fn last_cut(&self) -> Option<u64> {
        let cut = self.range.end / GRAIN * GRAIN;
        (cut > self.range.start).then_some(cut)
    }

    /// Takes what is before `position` from its beginning. A position past its end takes all.
    pub(super) fn split_to(&mut self, position: u64) -> Self {
        let position = position.clamp(self.range.start, self.range.end);
        let mut taken = Self::at(self.range.start);
        let mut whole = 0;
        for chunk in &mut self.chunks {
            match usize::try_from(position - taken.range.end) {
                Ok(0) => break,
                Ok(left) if left < chunk.len() => {
                    taken.push(chunk.split_to(left));
                    break;
                }
                _ => {
                    taken.push(std::mem::take(chunk));
                    whole += 1;
                }
            }
        }
        self.chunks.drain(..whole);
        self.range.start = taken.range.end;
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joined(batch: &Batch) -> Vec<u8> {
        batch.chunks().flatten().copied().collect()
    }

    proptest! {
        #[test]
        fn a_cut_loses_and_moves_nothing(
            begin in 0..(3 * GRAIN),
            lengths in proptest::collection::vec(0..(GRAIN as usize), 0..8),
            cut in 0..(8 * GRAIN),
        ) {
            let mut batch = Batch::at(begin);
            for (index, length) in lengths.iter().enumerate() {
                batch.push(Bytes::from(vec![index as u8; *length]));
            }
            let (whole, range) = (joined(&batch), batch.range());
            prop_assert_eq!(batch.len() as usize, whole.len());
            let taken = batch.split_to(cut);
            prop_assert_eq!(taken.range(), range.start..cut.clamp(range.start, range.end));
            prop_assert_eq!(batch.range(), taken.range().end..range.end);
            prop_assert_eq!(taken.len() as usize, joined(&taken).len());
            prop_assert_eq!([joined(&taken), joined(&batch)].concat(), whole);
        }
    }

    #[test]
    fn writes_end_at_whole_grains_where_there_is_one() {
        let mut batch = Batch::at(GRAIN - 10);
        assert_eq!(batch.last_cut(), None);
        batch.push(Bytes::from_static(&[1; 9]));
        assert_eq!(batch.last_cut(), None);
        batch.push(Bytes::from_static(&[2; 9]));
        assert_eq!(batch.last_cut(), Some(GRAIN));
        let first = batch.split_to(GRAIN);
        assert_eq!((first.len(), batch.len()), (10, 8));
        assert_eq!(batch.last_cut(), None, "nothing is to be written there twice");
        batch.push(Bytes::from(vec![3; 3 * GRAIN as usize]));
        assert_eq!(batch.last_cut(), Some(4 * GRAIN));
    }
}
