//! What goes when room is needed: the policy as the store carries it out, and what must hold while it does.

#[path = "../../../benches/eviction/model.rs"]
mod model;

use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use self::model::Model;
use super::super::*;
use super::support::*;
use crate::store::eviction::policy;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

async fn open(home: &Home, max_bytes: u64) -> Store {
    home.open_on(max_bytes, Arc::new(OsFileSystem)).await
}

fn digest(key: u32) -> Digest {
    Digest::sha256(&key.to_be_bytes())
}

/// Stores a file of `size` bytes under the digest of `key`: all holes, since nothing here looks at the bytes.
async fn add(store: &Store, key: u32, size: u64) -> Result<(), StoreError> {
    let mut ingest = store.begin(digest(key), None).await?;
    ingest.reserve(size).await?;
    ingest.file().truncate(size).unwrap();
    ingest.commit(size).await.map(drop)
}

/// Pulls `key`: reads it if it is there, and stores it if it is not. Tells whether it was. A quarter of an hour passes.
async fn pull(home: &Home, store: &Store, key: u32, size: u64) -> bool {
    let hit = store.get(&digest(key)).await.is_some();
    if !hit {
        add(store, key, size).await.unwrap();
    }
    home.advance(15);
    hit
}

fn is_there(home: &Home, key: u32) -> bool {
    home.blob(&digest(key)).exists()
}

#[tokio::test]
async fn a_scan_leaves_what_is_in_use_and_what_is_forgotten_makes_room_again() {
    let home = Home::new();
    let store = open(&home, 100 * MIB).await;
    let hot = 0..40;
    for _ in 0..2 {
        for key in hot.clone() {
            pull(&home, &store, key, 2 * MIB).await;
        }
    }
    for key in 1000..1500 {
        pull(&home, &store, key, 2 * MIB).await;
    }
    assert!(hot.clone().all(|key| is_there(&home, key)), "ten times the capacity went by");
    let other_hot = 100..140;
    for _ in 0..8 {
        for key in other_hot.clone() {
            pull(&home, &store, key, 2 * MIB).await;
        }
    }
    assert!(other_hot.clone().all(|key| is_there(&home, key)), "what is in use now has replaced what was");
}

#[tokio::test]
async fn a_scan_of_small_content_leaves_small_and_large_content_that_is_in_use() {
    let home = Home::new();
    let store = open(&home, 100 * MIB).await;
    for _ in 0..2 {
        for key in 0..30 {
            pull(&home, &store, key, 3 * MIB).await;
        }
        for key in 100..140 {
            pull(&home, &store, key, 100 * KIB).await;
        }
    }
    for key in 1000..1600 {
        pull(&home, &store, key, 100 * KIB).await;
    }
    assert!((0..30).all(|key| is_there(&home, key)), "small content beyond its share pushes out small content only");
    assert!((100..140).all(|key| is_there(&home, key)), "and of that what is not used");
}

#[tokio::test]
async fn large_content_does_not_push_out_small_content_or_manifests() {
    let home = Home::new();
    let store = open(&home, 40 * MIB).await;
    let (hub, app) = (upstream("hub"), repository("app"));
    pull(&home, &store, 0, MIB - 1).await;
    pull(&home, &store, 1, MIB).await;
    let index = media_type("application/vnd.oci.image.index.v1+json");
    store.catalog().add_manifest(&hub, &app, &digest(1), &index, MIB, &Default::default()).await;
    for key in 100..200 {
        pull(&home, &store, key, 5 * MIB).await;
    }
    assert!(is_there(&home, 0) && is_there(&home, 1));
    add(&store, 2, 40 * MIB).await.unwrap();
    assert!(!is_there(&home, 0) && !is_there(&home, 1) && is_there(&home, 2), "they go when nothing else is left");
}

#[tokio::test]
async fn what_comes_back_soon_stays() {
    let home = Home::new();
    let store = open(&home, 20 * MIB).await;
    for key in 0..11 {
        pull(&home, &store, key, 2 * MIB).await;
    }
    assert!(!is_there(&home, 0));
    pull(&home, &store, 0, 2 * MIB).await;
    for key in 100..120 {
        pull(&home, &store, key, 2 * MIB).await;
    }
    assert!(is_there(&home, 0), "it was asked for again while it was remembered");
    assert!((1..11).all(|key| !is_there(&home, key)));
}

#[tokio::test]
async fn after_a_catalog_is_lost_the_times_of_files_tell_what_goes_first() {
    let home = Home::new();
    let store = open(&home, 20 * MIB).await;
    for key in 0..10 {
        add(&store, key, 2 * MIB).await.unwrap();
    }
    drop(store);
    closed(&home).await;
    for key in 0..10 {
        // The last that was stored was used longest ago.
        let used_at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000 - u64::from(key));
        let file = std::fs::File::open(home.blob(&digest(key))).unwrap();
        file.set_times(std::fs::FileTimes::new().set_accessed(used_at).set_modified(used_at)).unwrap();
    }
    std::fs::remove_file(home.path("catalog.sqlite")).unwrap();
    let store = open(&home, 20 * MIB).await;
    add(&store, 100, 6 * MIB).await.unwrap();
    assert!((0..7).all(|key| is_there(&home, key)) && (7..10).all(|key| !is_there(&home, key)));
}

#[tokio::test]
async fn what_is_read_from_memory_is_in_use() {
    let home = Home::new();
    let store = open(&home, 20 * MIB).await;
    for key in 0..10 {
        pull(&home, &store, key, 2 * MIB).await;
    }
    store.note_use(&digest(3), &LastUse::default());
    store.note_use(&digest(77), &LastUse::default());
    pull(&home, &store, 100, 16 * MIB).await;
    assert_eq!((0..10).filter(|key| is_there(&home, *key)).collect::<Vec<_>>(), [3, 9]);
    assert!(!is_there(&home, 77));
}

#[tokio::test]
async fn reads_of_one_pull_are_one_use_and_the_pull_itself_is_none() {
    let home = Home::new();
    let store = open(&home, 20 * MIB).await;
    for key in 0..10 {
        add(&store, key, 2 * MIB).await.unwrap();
        assert!(store.get(&digest(key)).await.is_some(), "what a client reads that waited for it");
        home.advance(1);
    }
    home.advance(10);
    assert!(store.get(&digest(4)).await.is_some());
    pull(&home, &store, 100, 16 * MIB).await;
    assert_eq!((0..10).filter(|key| is_there(&home, *key)).collect::<Vec<_>>(), [4, 9]);
}

/// Nothing in a queue can go, although it is the one that should give: then another does.
#[tokio::test]
async fn what_is_open_keeps_nothing_else_from_going() {
    let home = Home::new();
    let store = open(&home, 40 * MIB).await;
    let mut open = Vec::new();
    for key in 0..10 {
        pull(&home, &store, key, 900 * KIB).await;
        open.push(store.get(&digest(key)).await.unwrap());
    }
    for key in 100..130 {
        pull(&home, &store, key, 3 * MIB).await;
    }
    assert!((0..10).all(|key| is_there(&home, key)), "more than the share of small content, and all of it open");
    assert!(is_there(&home, 129));
    drop(open);
    for key in 130..150 {
        pull(&home, &store, key, 3 * MIB).await;
    }
    assert!((0..10).filter(|key| is_there(&home, *key)).count() <= 3, "beyond its share it goes when it is closed");
    assert_eq!(store.stats().catalog_errors, 0);
}

#[tokio::test]
async fn a_disk_that_removes_nothing_is_not_asked_for_everything() {
    const EROFS: i32 = 30;
    let home = Home::new();
    home.prepare().await;
    let fs = FaultFs { for_good: true, errno: EROFS, ..FaultFs::one(0) };
    let count = Arc::clone(&fs.count);
    let store = home.open_on(200 * KIB, Arc::new(fs)).await;
    for key in 0..200 {
        add(&store, key, KIB).await.unwrap();
    }
    count.store(0, Ordering::SeqCst);
    assert!(matches!(add(&store, 1000, KIB).await, Err(StoreError::NoSpace)));
    let refused = store.stats().disk_errors.into_iter().find(|(name, _)| *name == "remove blob");
    assert!(refused.is_some_and(|(_, times)| (1..=100).contains(&times)), "{refused:?}");
    count.store(FaultFs::UNCOUNTED, Ordering::SeqCst);
    add(&store, 1000, KIB).await.unwrap();
    assert_eq!((store.stats().blobs, store.stats().catalog_errors), (200, 0), "it goes on when the disk does");
}

/// A layer that two repositories have is one content: whoever reads it keeps it, whichever of them it came from.
#[tokio::test]
async fn a_layer_that_two_repositories_share_stays_while_it_is_pulled_from_one() {
    let home = Home::new();
    let store = open(&home, 20 * MIB).await;
    let (hub, layer) = (upstream("hub"), bytes(1, 2 * MIB as usize));
    let layer_digest = Digest::sha256(&layer);
    drop(put(&store, &layer).await.unwrap());
    for name in ["app", "other"] {
        store.catalog().link(&hub, &repository(name), Kind::Blob, &layer_digest).await;
    }
    let pulling = store.get(&layer_digest).await.unwrap();
    for key in 0..50 {
        pull(&home, &store, key, 2 * MIB).await;
    }
    assert_eq!(read(&pulling), layer, "all else went, this was open");
    drop(pulling);
    for key in 100..150 {
        pull(&home, &store, key, 2 * MIB).await;
    }
    assert!(store.get(&layer_digest).await.is_none(), "its turn came");
    for name in ["app", "other"] {
        let link = store.catalog().linked(&hub, &repository(name), Kind::Blob, &layer_digest).await;
        assert_eq!(link, Link::None, "what nothing refers to is known as long as it is here");
    }
    assert_eq!(read(&put(&store, &layer).await.unwrap()), layer, "and it can come back");
}

/// 64 readers of content that comes and goes all the time: each body is right, to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_get_right_bodies_while_content_goes() {
    const READERS: u32 = 64;
    const ROUNDS: u32 = 40;
    const MAX: u64 = 64 * 64 * KIB;
    let home = Home::new();
    let store = open(&home, MAX).await;
    let content = |key: u32| bytes(key as u8, (16 + key as usize % 16) * KIB as usize);
    let is_over = Arc::new(AtomicBool::new(false));
    let watch = tokio::spawn({
        let (store, is_over) = (store.clone(), Arc::clone(&is_over));
        async move {
            while !is_over.load(Ordering::SeqCst) {
                let stats = store.stats();
                assert!(stats.bytes + stats.reserved <= MAX, "{stats:?}");
                tokio::task::yield_now().await;
            }
        }
    });
    let readers = (0..READERS).map(|reader| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut hits = 0;
            for round in 0..ROUNDS {
                let wanted = content((reader * 7 + round * round) % 250);
                match store.get(&Digest::sha256(&wanted)).await {
                    Some(found) => {
                        tokio::task::yield_now().await;
                        assert_eq!(read(&found), wanted);
                        hits += 1;
                    }
                    None => match put(&store, &wanted).await {
                        Ok(stored) => assert_eq!(read(&stored), wanted),
                        Err(error) => assert!(matches!(error, StoreError::NoSpace), "{error}"),
                    },
                }
            }
            hits
        })
    });
    let hits: Vec<u32> = futures::future::join_all(readers).await.into_iter().map(Result::unwrap).collect();
    is_over.store(true, Ordering::SeqCst);
    watch.await.unwrap();
    let stats = store.stats();
    assert!(hits.iter().sum::<u32>() > 0 && stats.evictions > 0, "{stats:?}");
    eventually("all is given back", || store.stats().reserved == 0).await;
    assert_eq!(store.stats().bytes, home.verified_bytes());
    assert_eq!(stats.catalog_errors, 0);
}

/// More was used than the policy has patience for: what goes then is the same, too.
#[tokio::test]
async fn the_store_keeps_what_the_model_keeps_when_everything_was_used() {
    const CONTENTS: u32 = 400;
    let home = Home::new();
    let max = u64::from(CONTENTS) * KIB;
    let store = open(&home, max).await;
    let mut model = Model::new(max);
    for key in 0..CONTENTS + 40 {
        if key == CONTENTS {
            home.advance(15);
            for used in 0..CONTENTS {
                store.note_use(&digest(used), &LastUse::default());
                assert!(model.read(&used, home.clock.unix_millis()));
            }
        }
        add(&store, key, KIB).await.unwrap();
        model.store(key, KIB, false, home.clock.unix_millis());
        if key >= CONTENTS {
            let differ = (0..=key).find(|key| is_there(&home, *key) != model.contains(key));
            assert_eq!(differ, None, "with {key}");
        }
    }
}

/// Small content and large, the first keys more often than the last.
fn pulls() -> impl Strategy<Value = Vec<(u32, i64)>> {
    let key = (0..60u32, 0..60u32).prop_map(|(one, other)| one.min(other));
    prop::collection::vec((key, 1..40i64), 100..300)
}

fn size_of(key: u32) -> u64 {
    let key = u64::from(key);
    if key.is_multiple_of(2) { (1 + key % 7) * MIB + key } else { (1 + key % 9) * 100 * KIB + key }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// The figures of the benchmark are the model's: so they are the store's.
    #[test]
    fn the_store_keeps_what_the_model_keeps(pulls in pulls(), max in 10 * MIB..80 * MIB) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let home = Home::new();
            let store = open(&home, max).await;
            let mut model = Model::new(max);
            for (key, minutes) in pulls {
                home.advance(minutes);
                let now = home.clock.unix_millis();
                let hit = store.get(&digest(key)).await.is_some();
                assert_eq!(hit, model.read(&key, now));
                if !hit {
                    add(&store, key, size_of(key)).await.unwrap();
                    model.store(key, size_of(key), false, now);
                }
                for key in 0..60 {
                    assert_eq!(is_there(&home, key), model.contains(&key), "{key}");
                }
            }
            assert_eq!(store.stats().catalog_errors, 0);
        });
    }
}
