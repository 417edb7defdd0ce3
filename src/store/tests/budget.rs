//! The budget is never exceeded, and what is counted is what is there.

use proptest::prelude::*;

use super::super::*;
use super::support::*;

const MIB: usize = 1 << 20;

async fn open(home: &Home, max_bytes: usize) -> Store {
    home.open_on(max_bytes as u64, Arc::new(OsFileSystem)).await
}

/// Stores content of `size` bytes that nothing holds, and lets an hour pass.
async fn add(home: &Home, store: &Store, seed: u8, size: usize) -> Digest {
    let content = bytes(seed, size);
    drop(put(store, &content).await.unwrap());
    home.advance(60);
    Digest::sha256(&content)
}

fn there(home: &Home, digests: &[Digest]) -> Vec<bool> {
    digests.iter().map(|digest| home.blob(digest).exists()).collect()
}

#[tokio::test]
async fn what_is_used_goes_after_what_is_not() {
    let home = Home::new();
    let store = open(&home, 4 * MIB).await;
    let mut digests = Vec::new();
    for seed in 0..4 {
        digests.push(add(&home, &store, seed, MIB).await);
    }
    assert!(store.get(&digests[0]).await.is_some());
    digests.push(add(&home, &store, 4, MIB).await);
    assert_eq!(there(&home, &digests), [true, false, true, true, true]);
    digests.push(add(&home, &store, 5, 2 * MIB).await);
    assert_eq!(there(&home, &digests), [true, false, false, false, true, true]);
    let stats = store.stats();
    assert_eq!((stats.evictions, stats.evicted_bytes, stats.bytes), (3, 3 * MIB as u64, 4 * MIB as u64));
    assert!(store.get(&digests[1]).await.is_none());
}

#[tokio::test]
async fn uses_outlive_the_process() {
    let home = Home::new();
    let store = open(&home, 2 * MIB).await;
    let mut digests = vec![add(&home, &store, 0, MIB).await, add(&home, &store, 1, MIB).await];
    assert!(store.get(&digests[0]).await.is_some());
    drop(store);
    closed(&home).await;
    let store = open(&home, 2 * MIB).await;
    digests.push(add(&home, &store, 2, MIB).await);
    assert_eq!(there(&home, &digests), [true, false, true]);
}

#[tokio::test]
async fn what_is_open_stays_and_what_cannot_fit_evicts_nothing() {
    let home = Home::new();
    let store = open(&home, 3 * MIB).await;
    let digests = [add(&home, &store, 0, MIB).await, add(&home, &store, 1, MIB).await, add(&home, &store, 2, MIB).await];
    let refused = |size: usize| {
        let store = store.clone();
        async move { matches!(store.begin(Digest::sha256(b"new"), Some(size as u64)).await, Err(StoreError::NoSpace)) }
    };
    assert!(refused(3 * MIB + 1).await, "more than the whole budget");
    assert_eq!(there(&home, &digests), [true; 3]);
    let open = store.get(&digests[0]).await.unwrap();
    let second = open.clone();
    drop(open);
    let part = store.begin(Digest::sha256(b"part"), Some(2 * MIB as u64)).await.unwrap();
    assert_eq!(there(&home, &digests), [true, false, false]);
    assert!(refused(1).await, "all is open or in flight");
    drop(second);
    assert!(!refused(1).await, "now the first may go");
    assert!(!home.blob(&digests[0]).exists());
    drop(part);
    eventually("the parts are gone", || store.stats().reserved == 0).await;
}

#[tokio::test]
async fn a_budget_that_was_lowered_is_kept_from_the_start_on() {
    let home = Home::new();
    let store = open(&home, 4 * MIB).await;
    for seed in 0..4 {
        add(&home, &store, seed, MIB).await;
    }
    drop(store);
    closed(&home).await;
    let store = open(&home, 2 * MIB).await;
    assert!(home.verified_bytes() <= 2 * MIB as u64);
    assert_eq!(store.stats().bytes, home.verified_bytes());
}

/// Hundreds of tasks on several threads want more than fits, all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_keep_to_the_budget() {
    const MAX: u64 = 8000;
    let home = Home::new();
    let store = open(&home, MAX as usize).await;
    let tasks = (0..200u32).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            for turn in 0..20u32 {
                let content = content_of(((task * 7 + turn * 5) % 20) as u8);
                let digest = Digest::sha256(&content);
                if let Some(found) = store.get(&digest).await {
                    assert_eq!(read(&found), content);
                }
                match (turn % 6, put(&store, &content).await) {
                    (0, _) => store.remove(&digest).await,
                    (_, Ok(stored)) => assert_eq!(read(&stored), content),
                    (_, Err(error)) => assert!(matches!(error, StoreError::NoSpace), "{error}"),
                }
                let stats = store.stats();
                assert!(stats.bytes + stats.reserved <= MAX, "{stats:?}");
            }
        })
    });
    for task in futures::future::join_all(tasks).await {
        task.unwrap();
    }
    eventually("all is given back", || store.stats().reserved == 0 && home.in_flight() == 0).await;
    let stats = store.stats();
    assert_eq!(stats.bytes, home.verified_bytes());
    assert!(stats.evictions > 0 && stats.bytes > 0, "{stats:?}");
    assert_eq!(stats.catalog_errors, 0);
}

#[derive(Clone, Debug)]
enum Step {
    Begin { seed: u8, known: bool },
    Commit { which: prop::sample::Index },
    Abort { which: prop::sample::Index },
    Get { seed: u8 },
    Close { which: prop::sample::Index },
    Remove { seed: u8 },
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let seed = 0..12u8;
    let which = any::<prop::sample::Index>;
    let step = prop_oneof![
        4 => (seed.clone(), any::<bool>()).prop_map(|(seed, known)| Step::Begin { seed, known }),
        4 => which().prop_map(|which| Step::Commit { which }),
        1 => which().prop_map(|which| Step::Abort { which }),
        3 => seed.clone().prop_map(|seed| Step::Get { seed }),
        2 => which().prop_map(|which| Step::Close { which }),
        1 => seed.prop_map(|seed| Step::Remove { seed }),
        1 => Just(Step::Wait),
    ];
    prop::collection::vec(step, 1..60)
}

fn content_of(seed: u8) -> Vec<u8> {
    bytes(seed, 100 + 137 * usize::from(seed))
}

/// What a run holds.
#[derive(Default)]
struct Held {
    parts: Vec<(u8, Ingest)>,
    open: Vec<(u8, Content)>,
    /// Contents that were removed while they were open: on the disk until they are closed, but no longer counted.
    removed: Vec<u8>,
}

impl Held {
    async fn take(&mut self, store: &Store, home: &Home, step: Step) {
        match step {
            Step::Begin { seed, known } => {
                let content = content_of(seed);
                match store.begin(Digest::sha256(&content), known.then_some(content.len() as u64)).await {
                    Ok(mut ingest) => {
                        if ingest.reserve(content.len() as u64).await.is_ok() {
                            write(&ingest, &content).unwrap();
                            self.parts.push((seed, ingest));
                        }
                    }
                    Err(error) => assert!(matches!(error, StoreError::NoSpace), "{error}"),
                }
            }
            Step::Commit { which } if !self.parts.is_empty() => {
                let (seed, ingest) = self.parts.remove(which.index(self.parts.len()));
                self.open.push((seed, ingest.commit(content_of(seed).len() as u64).await.unwrap()));
                self.removed.retain(|removed| *removed != seed);
            }
            Step::Abort { which } if !self.parts.is_empty() => {
                drop(self.parts.remove(which.index(self.parts.len())));
            }
            Step::Get { seed } => {
                if let Some(content) = store.get(&Digest::sha256(&content_of(seed))).await {
                    self.open.push((seed, content));
                }
            }
            Step::Close { which } if !self.open.is_empty() => {
                drop(self.open.remove(which.index(self.open.len())));
            }
            Step::Remove { seed } => {
                store.remove(&Digest::sha256(&content_of(seed))).await;
                self.removed.push(seed);
            }
            Step::Wait => home.advance(11),
            Step::Commit { .. } | Step::Abort { .. } | Step::Close { .. } => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_the_budget_holds_and_the_counts_are_right(steps in steps()) {
        const MAX: u64 = 4000;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let home = Home::new();
            let store = open(&home, MAX as usize).await;
            let mut held = Held::default();
            for step in steps {
                held.take(&store, &home, step).await;
                // An aborted part is removed in the background.
                eventually("aborted parts are gone", || home.in_flight() == held.parts.len()).await;
                let stats = store.stats();
                assert!(stats.bytes + stats.reserved <= MAX, "{stats:?}");
                assert_eq!(stats.bytes, home.verified_bytes());
                for (seed, content) in &held.open {
                    assert_eq!(read(content), content_of(*seed));
                    assert!(home.blob(&Digest::sha256(&content_of(*seed))).exists() || held.removed.contains(seed));
                }
            }
            held.parts.clear();
            eventually("all is given back", || store.stats().reserved == 0).await;
            assert_eq!(store.stats().catalog_errors, 0);
        });
    }
}

/// What the file system has is shared with others: some of it is left to them, whatever the budget says.
#[tokio::test]
async fn what_others_need_of_the_file_system_is_left_to_them() {
    let home = Home::new();
    home.prepare().await;
    let fs = FaultFs::one(u64::MAX);
    let (capacity, inodes) = (Arc::clone(&fs.capacity), Arc::clone(&fs.inodes));
    let store = home.open_on(ROOMY, Arc::new(fs)).await;
    capacity.store(10_000, Ordering::SeqCst);
    store.blobs.min_free.store(3000, Ordering::Relaxed);
    let old = [add(&home, &store, 1, 3000).await, add(&home, &store, 2, 3000).await];
    assert_eq!((there(&home, &old), store.trouble()), (vec![true, true], None));
    // 4000 are free, of which 1000 may be used.
    let new = add(&home, &store, 3, 2500).await;
    assert!(there(&home, &[new])[0] && there(&home, &old).iter().filter(|there| **there).count() == 1);

    // What would not have room if all of the cache went makes nothing go.
    let blobs = store.stats().blobs;
    assert!(matches!(store.begin(Digest::sha256(b"large"), Some(8000)).await, Err(StoreError::NoSpace)));
    assert_eq!(store.stats().blobs, blobs);

    // Others take it all: nothing is stored, and that shows.
    capacity.store(100, Ordering::SeqCst);
    assert!(matches!(put(&store, &bytes(4, 1000)).await, Err(StoreError::NoSpace)));
    assert!(store.trouble().is_some_and(|trouble| trouble.contains("no space")), "{:?}", store.trouble());
    assert_eq!((store.stats().reserved, store.stats().bytes), (0, home.verified_bytes()));
    // They give it back: content is stored again, without anybody doing anything.
    capacity.store(10_000, Ordering::SeqCst);
    add(&home, &store, 5, 1000).await;
    assert_eq!(store.trouble(), None);

    // Where inodes are short, a content goes for each that comes.
    inodes.store(10, Ordering::SeqCst);
    let blobs = store.stats().blobs;
    assert!(matches!(put(&store, &bytes(6, 10)).await, Err(StoreError::NoSpace)));
    assert!(store.stats().blobs < blobs);
    inodes.store(1000, Ordering::SeqCst);
    add(&home, &store, 7, 10).await;
    // What is larger than the whole cache is no trouble of the cache.
    store.blobs.budget.set_max(5000);
    assert!(matches!(store.begin(Digest::sha256(b"x"), Some(5001)).await, Err(StoreError::NoSpace)));
    assert_eq!(store.trouble(), None);
}

/// An upstream that does not say how much comes is no reason to leave less to others.
#[tokio::test]
async fn content_of_unknown_size_leaves_others_what_is_theirs() {
    let home = Home::new();
    home.prepare().await;
    let fs = FaultFs::one(u64::MAX);
    let (capacity, inodes) = (Arc::clone(&fs.capacity), Arc::clone(&fs.inodes));
    let store = home.open_on(ROOMY, Arc::new(fs)).await;
    capacity.store(10_000, Ordering::SeqCst);
    store.blobs.min_free.store(3000, Ordering::Relaxed);
    let old = add(&home, &store, 1, 6000).await;
    let digest = Digest::sha256(b"of unknown size");
    // 4000 are free, of which 1000 may be used; then the old one goes for it; then there is no more.
    let mut ingest = store.begin(digest, None).await.unwrap();
    ingest.reserve(1000).await.unwrap();
    assert!(home.blob(&old).exists());
    ingest.reserve(7000).await.unwrap();
    assert!(!home.blob(&old).exists());
    write(&ingest, &bytes(2, 7000)).unwrap();
    assert!(matches!(ingest.reserve(7001).await, Err(StoreError::NoSpace)));
    ingest.discard().await;

    capacity.store(2999, Ordering::SeqCst);
    assert!(matches!(store.begin(digest, None).await, Err(StoreError::NoSpace)));
    capacity.store(10_000, Ordering::SeqCst);
    inodes.store(10, Ordering::SeqCst);
    assert!(matches!(store.begin(digest, None).await, Err(StoreError::NoSpace)));
    assert_eq!(store.stats().reserved, 0);
}
