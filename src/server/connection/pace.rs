//! How much of a file goes out in one call. Calls of 1 MiB cost up to 5 % more than longer ones; but whoever else
//! asks for something on the same thread waits for one call of each that is being sent a body. So they are short as long as anybody
//! gets small answers there, and long where files are all that a thread sends.

use std::cell::Cell;

/// In bytes, while others are about. The socket is locked for so long, and what the client acknowledges meanwhile waits, too.
const SHORT: u64 = 1 << 20;

/// In bytes, where nobody else is. A client that takes less than that ends a call earlier.
const LONG: u64 = 4 << 20;

/// After how many short calls nobody else is about: they take some 20 ms at the speed of memory, and a client that pulls asks
/// more often than that until it is at its layers.
const CALM: u32 = 256;

thread_local! {
    /// How many calls there were since the thread last sent anything but files; no more than [`CALM`].
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

/// How much is to be sent in the call that comes next on this thread, in bytes.
pub(super) fn next_call() -> u64 {
    let calls = CALLS.get();
    if calls == CALM {
        return LONG;
    }
    CALLS.set(calls + 1);
    SHORT
}

/// This thread sends somebody something that is not out of a file.
pub(super) fn others_are_about() {
    CALLS.set(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_long_where_files_are_all_that_goes_out() {
        for _ in 0..2 {
            others_are_about();
            let calls: Vec<u64> = (0..CALM + 3).map(|_| next_call()).collect();
            let (short, long) = calls.split_at(CALM as usize);
            assert!(short.iter().all(|call| *call == SHORT) && long == [LONG; 3], "{calls:?}");
        }
        std::thread::spawn(|| assert_eq!(next_call(), SHORT, "another thread has its own clients")).join().unwrap();
        assert_eq!(next_call(), LONG);
    }
}
