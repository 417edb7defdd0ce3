//! What the C library does with memory that is free again.

use std::hint::black_box;

/// In bytes. Twice as much is more than what the connections of one blob have read and not written yet. There is a heap for each thread that
/// serves.
const LARGE: usize = 4 << 20;

/// Has memory that is free again stay with the process, up to twice [`LARGE`] at the end of each heap, since it is about to be used again. Left
/// to itself glibc hands it back whenever the buffers of a batch are free, and the system clears it anew, page by page, for the next
/// ones: 25,000 page faults for each GB that is fetched.
///
/// glibc learns how large is large from what was mapped for itself and is freed: mallopt(3), "dynamic mmap threshold". To show it that is all
/// that this does; another C library is asked for a piece of memory, and given it back.
pub(super) fn keep() {
    drop(black_box(vec![0_u8; LARGE]));
}
