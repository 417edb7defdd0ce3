//! A file of the simulated disk: its bytes as a process sees them, and as they are on the platters.

use std::ops::Range;

use bytes::Bytes;

use crate::simulation::dice::Dice;

/// What is kept or lost as a whole when the power fails, in bytes.
const PAGE: usize = 4096;

#[derive(Default)]
pub(super) struct Inode {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Written and not yet synced, and when that was.
    dirty: Vec<(Range<usize>, i64)>,
    /// Milliseconds since 1970.
    pub(super) used_at: i64,
}

impl Inode {
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    pub(super) fn bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.seen)
    }

    /// Gives the number of bytes that were read.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let rest = self.seen.get(to_index(offset)..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        count
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64, now: i64) {
        let range = to_index(offset)..to_index(offset) + bytes.len();
        lengthen(&mut self.seen, range.end);
        self.seen[range.clone()].copy_from_slice(bytes);
        self.dirty.push((range, now));
        self.used_at = now;
    }

    pub(super) fn truncate(&mut self, size: u64) {
        lengthen(&mut self.seen, to_index(size));
        self.seen.truncate(to_index(size));
        self.dirty.retain_mut(|(range, _)| {
            range.end = range.end.min(self.seen.len());
            range.start < range.end
        });
    }

    pub(super) fn sync(&mut self) {
        lengthen(&mut self.durable, self.seen.len());
        self.durable.truncate(self.seen.len());
        self.write_back(i64::MAX);
    }

    /// Makes durable what was written before `before`, as the kernel does by itself.
    pub(super) fn write_back(&mut self, before: i64) {
        for (range, _) in self.dirty.extract_if(.., |(_, at)| *at < before) {
            lengthen(&mut self.durable, range.end);
            self.durable[range.clone()].copy_from_slice(&self.seen[range]);
        }
    }

    /// What a failed sync does: the kernel takes the pages for written, and never tries again.
    pub(super) fn fail_to_sync(&mut self) {
        self.dirty.clear();
    }

    pub(super) fn lose_what_was_not_durable(&mut self, dice: &mut Dice) {
        let (old, new) = (self.durable.len(), self.seen.len());
        let size = match dice.within(0..3) {
            0 => old,
            1 => new,
            _ => to_index(dice.within(old.min(new) as u64..old.max(new) as u64 + 1)),
        };
        lengthen(&mut self.durable, new.max(size));
        for (range, _) in self.dirty.drain(..) {
            for start in range.clone().step_by(PAGE) {
                let page = start..range.end.min(start + PAGE);
                match dice.within(0..4) {
                    0 => {}
                    1 => self.durable[page].fill(0),
                    _ => self.durable[page.clone()].copy_from_slice(&self.seen[page]),
                }
            }
        }
        self.durable.truncate(size);
        self.seen.clone_from(&self.durable);
    }
}

/// Makes `bytes` at least `size` bytes long.
fn lengthen(bytes: &mut Vec<u8>, size: usize) {
    // `resize` is slow where nothing is optimised.
    bytes.extend_from_slice(&vec![0; size.saturating_sub(bytes.len())]);
}

fn to_index(offset: u64) -> usize {
    usize::try_from(offset).expect("a file in memory is not larger than that")
}
