//! What is at rest is read again: a bit that has flipped anywhere is found, and what is wrong is gone.

use std::time::Duration;

use super::super::*;
use super::support::*;

/// Flips a bit in the file of a content, as a disk might.
fn flip(home: &Home, digest: &Digest, at: usize) {
    let path = home.blob(digest);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
}

#[tokio::test]
async fn a_flipped_bit_is_found_wherever_it_is() {
    let home = Home::new();
    let store = home.open().await;
    let size = 2_500_000;
    for (seed, at) in [(1, 0), (2, 1_234_567), (3, size - 1)] {
        let content = bytes(seed, size);
        let digest = Digest::sha256(&content);
        drop(put(&store, &content).await.unwrap());
        assert_eq!(store.verify(&digest).await.unwrap(), Verdict::Right);
        flip(&home, &digest, at);
        assert_eq!(store.verify(&digest).await.unwrap(), Verdict::Removed, "bit {at}");
        assert_eq!(store.verify(&digest).await.unwrap(), Verdict::Absent);
        assert!(store.get(&digest).await.is_none());
        // It is stored again as if it had never been there.
        drop(put(&store, &content).await.unwrap());
        assert_eq!(store.verify(&digest).await.unwrap(), Verdict::Right);
    }
    assert_eq!((store.stats().damaged, store.stats().bytes), (3, 3 * size as u64));
    assert_eq!(home.verified_bytes(), 3 * size as u64);
}

#[tokio::test]
async fn all_content_is_looked_at_in_its_time_and_what_is_wrong_is_removed() {
    let home = Home::new();
    let store = home.open().await;
    let contents: Vec<_> = (0..30).map(|seed| bytes(seed, 3000)).collect();
    for content in &contents {
        drop(put(&store, content).await.unwrap());
    }
    flip(&home, &Digest::sha256(&contents[7]), 1000);
    // Shorter than it was, and not there at all.
    std::fs::remove_file(home.blob(&Digest::sha256(&contents[8]))).unwrap();
    std::fs::write(home.blob(&Digest::sha256(&contents[8])), &contents[8][..100]).unwrap();
    std::fs::remove_file(home.blob(&Digest::sha256(&contents[9]))).unwrap();
    store.scrub(Duration::from_millis(500)).unwrap();
    eventually("two passes", || store.stats().scrubs >= 2).await;
    let stats = store.stats();
    assert_eq!((stats.damaged, stats.blobs, stats.bytes), (2, 27, 27 * 3000));
    assert!(stats.verified_bytes >= 2 * 27 * 3000);
    assert_eq!(home.verified_bytes(), 27 * 3000);
    for (at, content) in contents.iter().enumerate() {
        assert_eq!(store.get(&Digest::sha256(content)).await.is_some(), !(7..10).contains(&at), "{at}");
    }
    drop(store);
    closed(&home).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_removed_and_counted() {
    for (fails, for_good) in [(0, false), (1, false), (2, false), (1, true), (2, true)] {
        let home = Home::new();
        let content = bytes(3, 3000);
        drop(put(&home.open().await, &content).await.unwrap());
        closed(&home).await;
        let store = home.open_faulty(FaultFs { for_good, ..FaultFs::one(fails) }).await;
        // It cannot be opened; its beginning, and what comes after that, cannot be read, which is tried twice.
        let expected = match (fails, for_good) {
            (0, _) => Verdict::Absent,
            (_, false) => Verdict::Right,
            (_, true) => Verdict::Removed,
        };
        assert_eq!(store.verify(&Digest::sha256(&content)).await.unwrap(), expected, "step {fails}, for good: {for_good}");
        assert_eq!(store.stats().damaged, u64::from(for_good));
        drop(store);
        closed(&home).await;
    }
}

/// A process that never lives for as long as a pass takes verifies everything all the same.
#[tokio::test]
async fn what_was_verified_before_a_restart_is_not_verified_again_before_the_rest() {
    let home = Home::new();
    let store = home.open().await;
    for seed in 0..4 {
        drop(put(&store, &bytes(seed, 3000)).await.unwrap());
    }
    drop(store);
    let digests = home.digests();
    // After each of them it would sleep for a quarter of the time.
    for round in 0..6 {
        closed(&home).await;
        let store = home.open().await;
        store.scrub(Duration::from_secs(3600)).unwrap();
        eventually("one is verified", || store.stats().verified_bytes == 3000).await;
        let last = digests[round % 4].to_string();
        eventually("that is noted", || std::fs::read_to_string(home.path("verified")).is_ok_and(|noted| noted == last)).await;
        // While it sleeps it keeps nothing from going.
        assert!(!store.blobs.holds.is_held(&digests[round % 4]));
    }
}

/// Where the cache has no room for more than what is verified at the moment, that goes like any other content.
#[tokio::test]
async fn what_is_being_verified_makes_room() {
    const MIB: usize = 1 << 20;
    let home = Home::new();
    let store = home.open_on(50 << 20, Arc::new(OsFileSystem)).await;
    let large = bytes(1, 40 * MIB);
    let file = home.blob(&Digest::sha256(&large));
    drop(put(&store, &large).await.unwrap());
    let is_open = || {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        open.filter_map(|open| std::fs::read_link(open.path()).ok())
            .any(|open| open.to_string_lossy().trim_end_matches(" (deleted)") == file.to_string_lossy())
    };
    store.scrub(Duration::from_secs(2)).unwrap();
    let name = Digest::sha256(&large).to_string();
    eventually("it is read", || std::fs::read_to_string(home.path("verified")).is_ok_and(|begun| begun == name)).await;
    // A file that is open keeps its room on the disk when it is removed.
    let mut times_open = 0;
    for _ in 0..20 {
        times_open += usize::from(is_open());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(times_open < 10, "it is open all the time");
    assert_eq!(store.stats().verified_bytes, 0, "it is verified already");
    drop(put(&store, &bytes(2, 20 * MIB)).await.unwrap());
    assert!(!file.exists());
    eventually("its room on the disk is free", || !is_open()).await;
    assert_eq!((store.stats().damaged, store.stats().bytes), (0, 20 << 20));
}
