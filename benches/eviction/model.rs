//! Larder's policy on queues in memory: the decisions are the store's own, from `policy.rs`, and a test of the store holds it
//! against this. It never reads a file.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use super::policy::{self, Class, MAX_USES, Occupancy, Queue, Stage, Verdict};

/// Which contents there are, by their keys.
pub(crate) struct Model<K> {
    budget: u64,
    used: u64,
    contents: HashMap<K, Content>,
    queues: [VecDeque<K>; Queue::ALL.len()],
    occupancy: Occupancy,
    small: Memory<K>,
    large: Memory<K>,
}

struct Content {
    size: u64,
    class: Class,
    uses: u8,
    /// Milliseconds.
    used_at: i64,
}

/// What went not long ago: the bytes that had gone up to then, with it.
struct Memory<K> {
    gone: u64,
    keys: HashMap<K, u64>,
    order: VecDeque<(K, u64)>,
}

impl<K: Copy + Eq + Hash> Model<K> {
    pub(crate) fn new(budget: u64) -> Self {
        Self {
            budget,
            used: 0,
            contents: HashMap::new(),
            queues: Default::default(),
            occupancy: Occupancy::default(),
            small: Memory::new(),
            large: Memory::new(),
        }
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.contents.contains_key(key)
    }

    /// Reads content at `now`, if it is there. Tells whether it is.
    pub(crate) fn read(&mut self, key: &K, now: i64) -> bool {
        let Some(content) = self.contents.get_mut(key) else { return false };
        if policy::is_use(content.used_at, now) {
            content.used_at = now;
            content.uses = MAX_USES.min(content.uses + 1);
        }
        true
    }

    /// Stores content, unless it is there or there can be no room for it.
    pub(crate) fn store(&mut self, key: K, size: u64, is_manifest: bool, now: i64) {
        if size > self.budget || self.contains(&key) {
            return;
        }
        let mut spared = 0;
        while self.used + size > self.budget {
            match self.decide(spared) {
                Verdict::Stay { .. } => spared += 1,
                Verdict::Go { .. } => spared = 0,
            }
        }
        let class = Class::of(size, is_manifest);
        let remembered = self.memory(class).forget(&key);
        self.contents.insert(key, Content { size, class, uses: 0, used_at: now });
        self.used += size;
        self.push(key, size, Queue::of_new(class, remembered));
    }

    fn memory(&mut self, class: Class) -> &mut Memory<K> {
        match class {
            Class::Small => &mut self.small,
            Class::Large => &mut self.large,
        }
    }

    fn push(&mut self, key: K, size: u64, queue: Queue) {
        self.queues[queue.index()].push_back(key);
        *self.occupancy.bytes(queue) += size;
    }

    fn decide(&mut self, spared: u32) -> Verdict {
        let queue = self.occupancy.next(self.budget).expect("what is used is in a queue");
        let key = self.queues[queue.index()].pop_front().expect("a queue with bytes has contents");
        let content = self.contents.get_mut(&key).expect("what is in a queue is there");
        let (size, class) = (content.size, content.class);
        *self.occupancy.bytes(queue) -= size;
        let verdict = queue.verdict(content.uses, spared);
        match verdict {
            Verdict::Stay { spent } => {
                content.uses -= spent;
                self.push(key, size, Queue::new(class, Stage::Main));
            }
            Verdict::Go { remember } => {
                self.contents.remove(&key);
                self.used -= size;
                if remember {
                    let window = class.memory(self.budget);
                    self.memory(class).remember(key, size, window);
                }
            }
        }
        verdict
    }
}

impl<K: Copy + Eq + Hash> Memory<K> {
    fn new() -> Self {
        Self { gone: 0, keys: HashMap::new(), order: VecDeque::new() }
    }

    fn remember(&mut self, key: K, size: u64, window: u64) {
        self.gone += size;
        self.keys.insert(key, self.gone);
        self.order.push_back((key, self.gone));
        while let Some((oldest, gone)) = self.order.front()
            && self.gone - gone > window
        {
            if self.keys.get(oldest) == Some(gone) {
                self.keys.remove(oldest);
            }
            self.order.pop_front();
        }
    }

    fn forget(&mut self, key: &K) -> bool {
        self.keys.remove(key).is_some()
    }
}
