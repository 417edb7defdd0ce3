//! What must not depend on how much is cached: what a start has in memory at a time, what one eviction costs, and that hits and
//! commits do not wait for a catalog that is being made anew. How long it all takes is measured by `benches/scale`.

use std::fs;

use super::super::*;
use super::gate::Gate;
use super::support::*;
use crate::store::eviction::policy::PATIENCE;

const KIB: u64 = 1 << 10;

/// The walk stops before each folder of contents.
fn walk_gate() -> Arc<Gate> {
    Gate::closed(|folder| folder.parent().is_some_and(|parent| parent.ends_with("blobs/sha256")))
}

fn content(number: u32) -> Vec<u8> {
    format!("content {number}").into_bytes()
}

/// Puts contents into the folder, of which no catalog knows.
fn fill(home: &Home, numbers: impl Iterator<Item = u32>) {
    for number in numbers {
        let path = home.blob(&Digest::sha256(&content(number)));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content(number)).unwrap();
    }
}

/// How many contents have uses that have not been spent.
fn used(store: &Store) -> u32 {
    let count = |connection: &rusqlite::Connection| {
        connection.query_row("SELECT count(*) FROM blob WHERE uses > 0", [], |row| row.get::<_, u32>(0))
    };
    store.blobs.catalog.read("count", count).unwrap()
}

#[tokio::test]
async fn hits_and_commits_go_on_while_twenty_thousand_contents_are_entered_a_folder_at_a_time() {
    const CONTENTS: u32 = 20_000;
    let home = Home::new();
    home.prepare().await;
    fill(&home, 0..CONTENTS);
    fs::remove_file(home.path("catalog.sqlite")).unwrap();
    let gate = walk_gate();
    let store = home.open_walking(ROOMY, gate.fs());
    // First it is seen how much there is.
    gate.allow(256);
    let bytes = home.verified_bytes();
    eventually("it is known how much is there", || store.stats().bytes == bytes).await;
    // The walk stands still before the first folder, then somewhere in the middle.
    for folders in [0, 100] {
        gate.allow(folders);
        eventually("the walk stands still", || gate.is_spent()).await;
        for number in (0..CONTENTS).step_by(371) {
            let hit = store.get(&Digest::sha256(&content(number))).await.unwrap();
            assert_eq!(read(&hit), content(number));
        }
        let new = content(CONTENTS + folders as u32);
        drop(put(&store, &new).await.unwrap());
        assert_eq!(read(&store.get(&Digest::sha256(&new)).await.unwrap()), new);
        assert!(store.stats().walking);
    }
    gate.open();
    settled(&store).await;
    let stats = store.stats();
    assert_eq!((stats.blobs, stats.bytes), (u64::from(CONTENTS) + 2, home.verified_bytes()));
    assert_eq!((stats.catalog_errors, stats.evictions), (0, 0));
    // On average it is one 256th of them.
    let longest = gate.longest();
    assert!(longest < CONTENTS as usize / 128, "{longest} contents at a time");
}

#[tokio::test]
async fn one_eviction_is_a_bounded_number_of_decisions_although_everything_was_used() {
    const CONTENTS: u32 = 1000;
    let home = Home::new();
    let store = home.open_on(u64::from(CONTENTS) * KIB, Arc::new(OsFileSystem)).await;
    let padded = |number: u32| {
        let mut bytes = content(number);
        bytes.resize(KIB as usize, 0);
        bytes
    };
    for number in 0..CONTENTS {
        put(&store, &padded(number)).await.unwrap();
    }
    home.advance(15);
    (0..CONTENTS).for_each(|number| store.note_use(&Digest::sha256(&padded(number)), &LastUse::default()));
    for evictions in 1..=3 {
        put(&store, &padded(CONTENTS + evictions)).await.unwrap();
        assert_eq!(store.stats().evictions, u64::from(evictions));
        assert!(used(&store) >= CONTENTS - evictions * (PATIENCE + 1), "{} are left", used(&store));
    }
    assert_eq!(store.stats().catalog_errors, 0);
}

/// A share of the file system is a limit on what the cache grows by, and no reason to drop what it has.
#[tokio::test]
async fn a_limit_on_growth_costs_no_content_whatever_others_take_and_give_back() {
    const SIZE: u64 = 100 * KIB;
    let home = Home::new();
    let store = home.open().await;
    for seed in 0..10 {
        put(&store, &bytes(seed, SIZE as usize)).await.unwrap();
    }
    drop(store);
    closed(&home).await;
    // The catalog does not matter: it is lost the second time.
    for round in 0..2 {
        let fs = FaultFs::one(u64::MAX);
        let capacity = Arc::clone(&fs.capacity);
        // Others have taken all that is free.
        capacity.store(10 * SIZE, Ordering::SeqCst);
        let store = home.open_walking(ROOMY, Arc::new(fs));
        store.blobs.margin.store(5 * SIZE, Ordering::Relaxed);
        settled(&store).await;
        let stats = store.stats();
        assert_eq!((stats.blobs, stats.evictions, stats.max_bytes), (10, 0, 10 * SIZE));
        // Content goes for content.
        put(&store, &bytes(100 + round, SIZE as usize)).await.unwrap();
        assert_eq!((store.stats().blobs, store.stats().evictions), (10, 1));
        // They give some of it back: the cache grows, as far as that goes.
        capacity.store(17 * SIZE, Ordering::SeqCst);
        assert_eq!(store.stats().max_bytes, 12 * SIZE);
        for seed in 110..113 {
            put(&store, &bytes(seed + 10 * round, SIZE as usize)).await.unwrap();
        }
        assert_eq!((store.stats().blobs, store.stats().evictions), (12, 2));
        drop(store);
        closed(&home).await;
        // As it was.
        let store = home.open().await;
        for (number, digest) in home.digests().into_iter().enumerate() {
            if number >= 10 {
                store.remove(&digest).await;
            }
        }
        drop(store);
        closed(&home).await;
        fs::remove_file(home.path("catalog.sqlite")).unwrap();
    }
}

/// Others have the whole disk when the cache is begun: it grows as soon as they give something back.
#[tokio::test]
async fn a_cache_that_began_on_a_full_disk_grows_when_there_is_room() {
    let home = Home::new();
    let fs = FaultFs::one(u64::MAX);
    let capacity = Arc::clone(&fs.capacity);
    capacity.store(1000, Ordering::SeqCst);
    let store = home.open_walking(ROOMY, Arc::new(fs));
    store.blobs.margin.store(50_000, Ordering::Relaxed);
    settled(&store).await;
    assert!(matches!(put(&store, &bytes(1, 5000)).await, Err(StoreError::NoSpace)));
    assert!(store.trouble().is_some_and(|trouble| trouble.contains("no space")), "{:?}", store.trouble());
    capacity.store(100_000, Ordering::SeqCst);
    put(&store, &bytes(1, 5000)).await.unwrap();
    assert_eq!(store.trouble(), None);
}

/// The budget holds while a lost catalog is made anew, too: what it does not know yet is there all the same.
#[tokio::test]
async fn a_catalog_that_was_lost_makes_no_room() {
    const SIZE: u64 = 10 * KIB;
    let home = Home::new();
    let store = home.open().await;
    for seed in 0..10 {
        put(&store, &bytes(seed, SIZE as usize)).await.unwrap();
    }
    drop(store);
    closed(&home).await;
    fs::remove_file(home.path("catalog.sqlite")).unwrap();
    let gate = walk_gate();
    let store = home.open_walking(11 * SIZE, gate.fs());
    let mut folders: Vec<_> = home.digests().iter().map(|digest| digest.as_bytes()[0]).collect();
    folders.dedup();
    for allowed in [0, folders.len(), 3, usize::MAX] {
        gate.allow(allowed);
        eventually("the walk stands still", || gate.is_spent() || !store.stats().walking).await;
        for seed in 10..30 {
            // There may be room for it or not; and there is room for one where nothing is known to go.
            let _ = put(&store, &bytes(seed, SIZE as usize)).await;
            assert!(home.verified_bytes() <= 11 * SIZE, "{} bytes", home.verified_bytes());
        }
    }
    settled(&store).await;
    let stats = store.stats();
    assert_eq!((stats.bytes, stats.blobs), (home.verified_bytes(), 11));
    assert!(stats.evictions > 0);
}
