//! Parts that are kept for the next fill: whatever ends the first one, and however the disk behaves.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::super::*;
use super::support::*;

const SIZE: u64 = 100_000;

fn map(extents: impl IntoIterator<Item = Range<u64>>) -> PartMap {
    PartMap { size: SIZE, extents: extents.into_iter().collect() }
}

/// Files are as old as they say, and the clock of a test stands in 2001.
fn today() -> i64 {
    crate::util::SystemClock.unix_millis()
}

/// Writes the beginning of `content` and leaves it.
async fn leave(store: &Store, content: &[u8], written: usize) {
    let ingest = store.begin(Digest::sha256(content), Some(content.len() as u64)).await.unwrap();
    ingest.writer().write_all_at(&content[..written], 0).unwrap();
    ingest.note(PartMap { size: content.len() as u64, extents: Some(0..written as u64).into_iter().collect() }).await;
}

async fn settled_at(store: &Store, reserved: u64) {
    eventually("the part is kept", || store.stats().reserved == reserved).await;
}

#[tokio::test]
async fn a_part_is_gone_on_with_in_the_same_run_and_in_the_next_one() {
    let home = Home::new();
    home.clock.0.store(today(), Ordering::SeqCst);
    let store = home.open().await;
    let content = bytes(1, SIZE as usize);
    let digest = Digest::sha256(&content);
    leave(&store, &content, 40_000).await;
    settled_at(&store, 40_000).await;

    let (ingest, found) = store.resume(digest, Some(SIZE)).await.expect("it was kept");
    assert_eq!((found, store.stats().reserved), (map(Some(0..40_000)), SIZE));
    // Out of order, as several connections bring it.
    ingest.writer().write_all_at(&content[80_000..], 80_000).unwrap();
    ingest.note(map([0..40_000, 80_000..SIZE])).await;
    drop(ingest);
    settled_at(&store, SIZE).await;
    drop(store);
    closed(&home).await;

    let store = home.open().await;
    assert_eq!(store.stats().reserved, SIZE, "what is kept is in the budget");
    let (ingest, found) = store.resume(digest, None).await.expect("it outlives the process");
    assert_eq!(found, map([0..40_000, 80_000..SIZE]));
    assert!(store.resume(digest, None).await.is_none(), "one takes it up");
    ingest.writer().write_all_at(&content[40_000..80_000], 40_000).unwrap();
    ingest.commit(SIZE).await.unwrap();
    assert_eq!(read(&store.get(&digest).await.unwrap()), content);
    assert_eq!((home.in_flight(), store.stats().reserved), (0, 0));
}

#[tokio::test]
async fn what_is_not_noted_or_not_wanted_is_not_kept() {
    let home = Home::new();
    let store = home.open().await;
    let content = bytes(2, SIZE as usize);
    let digest = Digest::sha256(&content);
    let begin = async || store.begin(digest, Some(SIZE)).await.unwrap();
    let nothing_is_left = async || {
        eventually("nothing is left", || store.stats().reserved == 0 && home.in_flight() == 0).await;
        assert!(store.resume(digest, None).await.is_none());
    };
    let ingest = begin().await;
    write(&ingest, &content[..5]).unwrap();
    drop(ingest);
    nothing_is_left().await;
    let ingest = begin().await;
    write(&ingest, &content).unwrap();
    ingest.note(map(Some(0..SIZE))).await;
    ingest.discard().await;
    nothing_is_left().await;
    // More was noted than there is.
    let ingest = begin().await;
    ingest.note(map(Some(0..SIZE))).await;
    drop(ingest);
    nothing_is_left().await;
    // The content is of another size, as a manifest says.
    leave(&store, &content, 10).await;
    settled_at(&store, 10).await;
    assert!(store.resume(digest, Some(SIZE + 1)).await.is_none());
    nothing_is_left().await;
}

#[tokio::test]
async fn a_part_that_may_still_be_written_to_is_not_taken_up() {
    let home = Home::new();
    let store = home.open().await;
    let content = bytes(3, SIZE as usize);
    let ingest = store.begin(Digest::sha256(&content), Some(SIZE)).await.unwrap();
    let straggler = ingest.writer();
    straggler.write_all_at(&content[..1000], 0).unwrap();
    ingest.note(map(Some(0..1000))).await;
    drop(ingest);
    settled_at(&store, 1000).await;
    assert!(store.resume(Digest::sha256(&content), None).await.is_none());
    assert_eq!((home.in_flight(), store.stats().reserved), (0, 0));
    straggler.write_all_at(&content, 0).unwrap();
}

#[tokio::test]
async fn maps_that_were_damaged_and_parts_that_are_old_go_at_the_next_start() {
    let home = Home::new();
    let contents: Vec<_> = (10..16).map(|seed| bytes(seed, SIZE as usize)).collect();
    let store = home.open().await;
    for content in &contents {
        leave(&store, content, 30_000).await;
    }
    settled_at(&store, 180_000).await;
    drop(store);
    closed(&home).await;
    let maps: Vec<_> = std::fs::read_dir(home.path("ingest")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let map_of = |content: &Vec<u8>| {
        let hex = Digest::sha256(content).hex();
        maps.iter().find(|path| path.extension().is_some_and(|e| e == "map") && path.to_str().unwrap().contains(&hex)).unwrap()
    };
    std::fs::write(map_of(&contents[0]), b"{\"size\": 1000").unwrap();
    let edit = |content, from: &str, to: &str| {
        let text = std::fs::read_to_string(map_of(content)).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(map_of(content), text.replace(from, to)).unwrap();
    };
    edit(&contents[1], "\"size\":100000", "\"size\":29999");
    std::fs::remove_file(map_of(&contents[2])).unwrap();
    std::fs::remove_file(map_of(&contents[3]).with_extension("part")).unwrap();
    // The machine was started anew: what it wrote before may not be on the disk.
    edit(&contents[5], &OsFileSystem.epoch().unwrap(), "earlier");
    let now = home.clock.0.load(Ordering::SeqCst);
    home.clock.0.store(today(), Ordering::SeqCst);
    let store = home.open().await;
    assert_eq!((store.stats().reserved, home.in_flight()), (30_000, 2));
    home.advance(23 * 60);
    leave(&store, &contents[0], 10).await;
    settled_at(&store, 30_010).await;
    home.advance(2 * 60);
    drop(put(&store, b"whatever is begun sweeps").await.unwrap());
    assert_eq!((store.stats().reserved, home.in_flight()), (10, 2));
    home.clock.0.store(now, Ordering::SeqCst);
    drop(put(&store, b"a clock that was set back").await.unwrap());
    assert_eq!((store.stats().reserved, home.in_flight()), (0, 0));
}

#[tokio::test]
async fn what_is_at_rest_needs_no_part() {
    let home = Home::new();
    home.clock.0.store(today(), Ordering::SeqCst);
    let store = home.open().await;
    let content = bytes(40, SIZE as usize);
    leave(&store, &content, 30_000).await;
    settled_at(&store, 30_000).await;
    let part = std::fs::read_dir(home.path("ingest")).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let kept: Vec<_> = part.iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    // By another way than going on with the part.
    drop(put(&store, &content).await.unwrap());
    assert_eq!((store.stats().reserved, home.in_flight()), (0, 0));
    drop(store);
    closed(&home).await;
    // It could not be removed then.
    for (path, bytes) in kept {
        std::fs::write(path, bytes).unwrap();
    }
    let store = home.open().await;
    assert_eq!((store.stats().reserved, home.in_flight(), store.stats().blobs), (0, 0, 1));
}

#[tokio::test]
async fn kept_parts_give_way_to_content() {
    let home = Home::new();
    home.prepare().await;
    let store = home.open_on(1_000_000, Arc::new(OsFileSystem)).await;
    let old = bytes(20, 400_000);
    drop(put(&store, &old).await.unwrap());
    leave(&store, &bytes(21, SIZE as usize), 90_000).await;
    settled_at(&store, 90_000).await;
    // No more than their share of the budget: the older one goes.
    home.advance(1);
    leave(&store, &bytes(22, SIZE as usize), 80_000).await;
    settled_at(&store, 80_000).await;
    drop(put(&store, &bytes(23, 590_000)).await.unwrap());
    assert_eq!((store.stats().reserved, store.stats().bytes, store.stats().evictions), (0, 990_000, 0));
    assert_eq!(home.in_flight(), 0);
    assert!(matches!(store.begin(Digest::sha256(b"x"), Some(1_000_001)).await, Err(StoreError::NoSpace)));
}

#[tokio::test]
async fn whichever_step_fails_what_is_resumed_is_what_was_written() {
    for fails in 0.. {
        let home = Home::new();
        home.clock.0.store(today(), Ordering::SeqCst);
        home.prepare().await;
        let fs = FaultFs::one(fails);
        let count = Arc::clone(&fs.count);
        let store = home.open_faulty(fs).await;
        let content = bytes(30, SIZE as usize);
        let digest = Digest::sha256(&content);
        if let Ok(ingest) = store.begin(digest, Some(SIZE)).await {
            let written = ingest.writer().write_all_at(&content[..50_000], 0);
            if written.is_ok() {
                ingest.note(map(Some(0..50_000))).await;
            }
        }
        eventually("the part is kept or gone", || matches!(store.stats().reserved, 0 | 50_000)).await;
        if let Some((ingest, found)) = store.resume(digest, Some(SIZE)).await {
            assert_eq!(found, map(Some(0..50_000)), "step {fails}");
            if ingest.writer().write_all_at(&content[50_000..], 50_000).is_ok() {
                let _ = ingest.commit(SIZE).await;
            }
        }
        let steps = count.load(Ordering::SeqCst);
        eventually("nothing is reserved", || matches!(store.stats().reserved, 0 | 50_000)).await;
        home.verified_bytes();
        drop(store);
        closed(&home).await;
        let store = home.open().await;
        if let Some((ingest, found)) = store.resume(digest, Some(SIZE)).await {
            assert_eq!(found, map(Some(0..50_000)), "step {fails}");
            ingest.discard().await;
        }
        eventually("nothing is left", || store.stats().reserved == 0 && home.in_flight() == 0).await;
        drop(put(&store, &content).await.unwrap());
        assert_eq!(home.verified_bytes(), SIZE);
        if fails >= steps {
            assert!(fails > 15, "only {fails} steps were seen");
            return;
        }
    }
}
