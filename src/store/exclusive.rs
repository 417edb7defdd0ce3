//! Locks by key: whoever changes a file together with its row in the catalog holds the key meanwhile, so that the two never
//! disagree. Nothing in here reads or writes either of them.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Gives each key to one holder at a time.
pub(super) struct Exclusive<K: Eq + Hash>(Arc<Keys<K>>);

struct Keys<K> {
    held: Mutex<HashSet<K>>,
    freed: Condvar,
}

/// Holds a key until it is dropped, on whatever thread that happens.
pub(super) struct Claim<K: Eq + Hash> {
    keys: Arc<Keys<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Exclusive<K> {
    pub(super) fn new() -> Self {
        Self(Arc::new(Keys { held: Mutex::default(), freed: Condvar::new() }))
    }

    /// Waits for the key. Blocks; a holder must never wait for a second key of the same kind in this way.
    pub(super) fn claim(&self, key: &K) -> Claim<K> {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        while held.contains(key) {
            held = self.0.freed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        held.insert(key.clone());
        Claim { keys: Arc::clone(&self.0), key: key.clone() }
    }

    /// The key, unless somebody has it.
    pub(super) fn try_claim(&self, key: &K) -> Option<Claim<K>> {
        let free = self.0.held.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        free.then(|| Claim { keys: Arc::clone(&self.0), key: key.clone() })
    }
}

impl<K: Eq + Hash> Drop for Claim<K> {
    fn drop(&mut self) {
        self.keys.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        self.keys.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let keys = Exclusive::new();
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _claim = keys.claim(&"key");
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        let first = keys.try_claim(&"key");
        assert!(first.is_some() && keys.try_claim(&"key").is_none() && keys.try_claim(&"other").is_some());
        drop(first);
        assert!(keys.try_claim(&"key").is_some());
    }
}
