//! Limits that are shares of a file system: of the one that the folder is on, whenever it comes to be there.

use std::sync::atomic::Ordering;

use super::super::*;
use super::support::*;
use crate::config::MaxSize;

const HALF: Limits = Limits { max_size: MaxSize::Share(50), min_free: MaxSize::Share(10) };

#[tokio::test]
async fn a_share_is_one_of_the_file_system_that_the_folder_comes_to_be_on() {
    let home = Home::new();
    home.prepare().await;
    let fs = FaultFs::one(u64::MAX);
    let capacity = Arc::clone(&fs.capacity);
    capacity.store(100_000, Ordering::SeqCst);
    let store = home.open_on(ROOMY, Arc::new(fs)).await;
    assert!(store.limit(HALF));
    assert_eq!(store.stats().max_bytes, 50_000);
    drop(put(&store, &bytes(1, 3000)).await.unwrap());

    // It comes back on a smaller one, and on a larger one.
    let (path, away) = (home.dir.path().to_owned(), home.dir.path().with_extension("away"));
    for size in [10_000, 1_000_000] {
        std::fs::rename(&path, &away).unwrap();
        let is_let_go = || store.trouble().is_some_and(|trouble| trouble.contains("find it"));
        eventually("the folder is let go of", is_let_go).await;
        capacity.store(size, Ordering::SeqCst);
        std::fs::rename(&away, &path).unwrap();
        eventually("the folder is back", || store.trouble().is_none()).await;
        settled(&store).await;
        assert_eq!(store.stats().max_bytes, size / 2);
        assert_eq!(store.blobs.min_free.load(Ordering::Relaxed), size / 10);
        assert!(matches!(store.begin(Digest::sha256(b"large"), Some(size / 2 + 1)).await, Err(StoreError::NoSpace)), "{size}");
    }
    drop(put(&store, &bytes(2, 400_000)).await.unwrap());
    assert_eq!(store.stats().blobs, 2);
}

/// What is a share of nothing that anybody has seen is no number, and is one as soon as the folder can be had.
#[tokio::test]
async fn a_folder_that_is_out_of_reach_has_no_limits_in_bytes_until_it_is_there() {
    let home = Home::new();
    let parent = home.path("parent");
    // No folder can be made in a file.
    std::fs::write(&parent, "").unwrap();
    let fs = FaultFs::one(u64::MAX);
    let capacity = Arc::clone(&fs.capacity);
    capacity.store(10_000, Ordering::SeqCst);
    let config = StoreConfig { dir: parent.join("cache"), max_bytes: u64::MAX };
    let store = Store::open(config, Arc::new(fs), Arc::clone(&home.clock) as Arc<dyn Clock>).unwrap();
    assert!(!store.limit(HALF));
    assert_eq!(store.stats().max_bytes, 0);
    let bytes_alone = Limits { max_size: MaxSize::Bytes(7000), min_free: MaxSize::Bytes(1) };
    assert!(store.limit(bytes_alone));
    assert_eq!(store.stats().max_bytes, 7000);
    assert!(!store.limit(HALF));
    assert!(put(&store, &bytes(1, 1000)).await.is_err());

    std::fs::remove_file(&parent).unwrap();
    eventually("the folder is there", || store.trouble().is_none()).await;
    settled(&store).await;
    assert_eq!(store.stats().max_bytes, 5000);
    for seed in 1..4 {
        drop(put(&store, &bytes(seed, 2000)).await.unwrap());
    }
    assert_eq!((store.stats().blobs, store.stats().evictions), (2, 1));
}
