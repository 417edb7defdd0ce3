//! Facts that hold for a short while, in memory, by tokio's clock, which tests can set.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What is forgotten some time after it was noted, or earlier when there is too much of it.
pub struct Remembered<K, V> {
    facts: Mutex<HashMap<K, (Instant, V)>>,
    lifetime: Duration,
    most: usize,
}

impl<K: Eq + Hash + Clone, V: Clone> Remembered<K, V> {
    /// Remembers each fact for `lifetime`, and `most` of them at a time; at least one.
    pub fn new(lifetime: Duration, most: usize) -> Self {
        Self { facts: Mutex::default(), lifetime, most }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        let mut facts = self.lock();
        match facts.get(key) {
            Some((noted, fact)) if noted.elapsed() < self.lifetime => Some(fact.clone()),
            Some(_) => {
                facts.remove(key);
                None
            }
            None => None,
        }
    }

    pub fn remove(&self, key: &K) {
        self.lock().remove(key);
    }

    pub fn insert(&self, key: K, fact: V) {
        let mut facts = self.lock();
        if facts.len() >= self.most && !facts.contains_key(&key) {
            facts.retain(|_, (noted, _)| noted.elapsed() < self.lifetime);
        }
        if facts.len() >= self.most
            && !facts.contains_key(&key)
            && let Some(oldest) = facts.iter().min_by_key(|(_, (noted, _))| *noted).map(|(oldest, _)| oldest.clone())
        {
            facts.remove(&oldest);
        }
        facts.insert(key, (Instant::now(), fact));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<K, (Instant, V)>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fact_is_forgotten_in_time() {
        let facts = Remembered::new(Duration::from_secs(5), 10);
        facts.insert("a", 1);
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(facts.get(&"a"), Some(1));
        facts.insert("a", 2);
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(facts.get(&"a"), Some(2), "noted again");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(facts.get(&"a"), None);
        assert!(facts.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_goes_when_there_are_too_many() {
        let facts = Remembered::new(Duration::from_secs(5), 2);
        for key in [1, 2, 3] {
            facts.insert(key, ());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!([1, 2, 3].map(|key| facts.get(&key).is_some()), [false, true, true]);
    }
}
