//! What any store does when nothing goes wrong, or only the folder's content has been tampered with.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::super::*;
use super::support::*;
use crate::oci::Algorithm;

#[tokio::test]
async fn what_is_committed_is_read_back() {
    let home = Home::new();
    let store = home.open().await;
    for (content, known) in [(bytes(1, 70_000), true), (bytes(2, 3), false), (Vec::new(), true), (b"{}".to_vec(), false)] {
        let digest = Digest::sha256(&content);
        let size = content.len() as u64;
        assert!(store.get(&digest).await.is_none());
        let ingest = store.begin(digest, known.then_some(size)).await.unwrap();
        write(&ingest, &content).unwrap();
        let committed = ingest.commit(size).await.unwrap();
        assert_eq!(read(&committed), content);
        assert_eq!(read(&store.get(&digest).await.unwrap()), content);
        let metadata = fs::metadata(home.blob(&digest)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o444);
    }
    let stats = store.stats();
    assert_eq!((stats.bytes, stats.blobs, stats.reserved), (home.verified_bytes(), 4, 0));
    assert_eq!(home.in_flight(), 0);
}

#[tokio::test]
async fn both_algorithms_have_their_place() {
    let home = Home::new();
    let store = home.open().await;
    let content = bytes(3, 100);
    for algorithm in Algorithm::ALL {
        let digest = Digest::of(algorithm, &content);
        let ingest = store.begin(digest, Some(100)).await.unwrap();
        write(&ingest, &content).unwrap();
        ingest.commit(100).await.unwrap();
        assert_eq!(read(&store.get(&digest).await.unwrap()), content);
        assert!(home.path("blobs").join(algorithm.name()).is_dir());
    }
    assert_eq!(store.stats().blobs, 2);
}

#[tokio::test]
async fn a_part_is_read_while_it_is_written_and_is_nothing_before_it_is_committed() {
    let home = Home::new();
    let store = home.open().await;
    let content = bytes(4, 1000);
    let digest = Digest::sha256(&content);
    let ingest = store.begin(digest, Some(1000)).await.unwrap();
    let reader = ingest.file();
    ingest.file().write_all_at(&content[..500], 0).unwrap();
    let mut buffer = [0; 600];
    assert_eq!(reader.read_at(&mut buffer, 0).unwrap(), 500);
    assert_eq!(buffer[..500], content[..500]);
    assert!(store.get(&digest).await.is_none());
    assert_eq!(store.stats().reserved, 1000);
    ingest.file().write_all_at(&content[500..], 500).unwrap();
    ingest.commit(1000).await.unwrap();
    assert_eq!(reader.read_at(&mut buffer, 500).unwrap(), 500, "the reader goes on with the same file");
}

#[tokio::test]
async fn an_aborted_part_leaves_nothing() {
    let home = Home::new();
    let store = home.open().await;
    let content = bytes(5, 1000);
    let ingest = store.begin(Digest::sha256(&content), Some(1000)).await.unwrap();
    write(&ingest, &content).unwrap();
    assert_eq!((home.in_flight(), store.stats().reserved), (1, 1000));
    drop(ingest);
    eventually("the part is gone", || home.in_flight() == 0 && store.stats().reserved == 0).await;
    assert!(store.get(&Digest::sha256(&content)).await.is_none());
}

#[tokio::test]
async fn a_part_of_another_size_is_not_committed() {
    let home = Home::new();
    let store = home.open().await;
    let content = bytes(6, 1000);
    let ingest = store.begin(Digest::sha256(&content), Some(1000)).await.unwrap();
    write(&ingest, &content[..999]).unwrap();
    let error = ingest.commit(1000).await.err().unwrap();
    assert!(matches!(error, StoreError::Io { op: "stat part", .. }), "{error}");
    assert_eq!((home.in_flight(), home.verified_bytes(), store.stats().reserved), (0, 0, 0));
}

#[tokio::test]
async fn committing_what_is_there_changes_nothing_that_counts() {
    let home = Home::new();
    let store = home.open().await;
    let content = bytes(7, 5000);
    let first = put(&store, &content).await.unwrap();
    let second = put(&store, &content).await.unwrap();
    assert_eq!((read(&first), read(&second)), (content.clone(), content));
    let stats = store.stats();
    assert_eq!((stats.bytes, stats.blobs, stats.reserved), (5000, 1, 0));
}

#[tokio::test]
async fn many_commit_and_read_the_same_at_once() {
    let home = Home::new();
    let store = home.open_walking(ROOMY, Arc::new(OsFileSystem));
    let tasks = (0..60u8).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let content = bytes(number % 6, 4000);
            put(&store, &content).await.unwrap();
            assert_eq!(read(&store.get(&Digest::sha256(&content)).await.unwrap()), content);
        })
    });
    for task in futures::future::join_all(tasks).await {
        task.unwrap();
    }
    settled(&store).await;
    let stats = store.stats();
    assert_eq!((stats.bytes, stats.blobs, stats.reserved), (24_000, 6, 0));
    assert_eq!(home.verified_bytes(), 24_000);
}

#[tokio::test]
async fn a_file_that_cannot_be_right_is_a_miss_and_removed() {
    for wrong in [0, 1, 4999, 5001] {
        let home = Home::new();
        let store = home.open().await;
        let content = bytes(8, 5000);
        let digest = Digest::sha256(&content);
        drop(put(&store, &content).await.unwrap());
        fs::set_permissions(home.blob(&digest), fs::Permissions::from_mode(0o644)).unwrap();
        fs::OpenOptions::new().write(true).open(home.blob(&digest)).unwrap().set_len(wrong).unwrap();
        assert!(store.get(&digest).await.is_none(), "{wrong} bytes");
        assert!(!home.blob(&digest).exists());
        assert_eq!((store.stats().bytes, store.stats().blobs), (0, 0));
        put(&store, &content).await.unwrap();
        assert_eq!(read(&store.get(&digest).await.unwrap()), content);
    }
}

#[tokio::test]
async fn a_file_that_is_gone_is_a_miss_and_no_longer_counted() {
    let home = Home::new();
    let store = home.open().await;
    let content = bytes(9, 5000);
    let digest = Digest::sha256(&content);
    drop(put(&store, &content).await.unwrap());
    fs::remove_file(home.blob(&digest)).unwrap();
    assert!(store.get(&digest).await.is_none());
    assert_eq!((store.stats().bytes, store.stats().blobs), (0, 0));
}

#[tokio::test]
async fn what_is_removed_is_gone_but_for_who_reads_it() {
    let home = Home::new();
    let store = home.open().await;
    let content = bytes(10, 5000);
    let digest = Digest::sha256(&content);
    let open = put(&store, &content).await.unwrap();
    store.remove(&digest).await;
    assert!(store.get(&digest).await.is_none());
    assert_eq!(read(&open), content);
    assert_eq!((store.stats().bytes, home.verified_bytes()), (0, 0));
    store.remove(&digest).await;
    assert_eq!(store.stats().disk_errors.iter().map(|(_, count)| count).sum::<u64>(), 0);
}

#[tokio::test]
async fn a_symbolic_link_in_a_blobs_place_is_not_followed() {
    let home = Home::new();
    let store = home.open().await;
    let content = bytes(11, 5000);
    let digest = Digest::sha256(&content);
    let target = home.path("secret");
    fs::write(&target, &content).unwrap();
    fs::create_dir_all(home.blob(&digest).parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&target, home.blob(&digest)).unwrap();
    assert!(store.get(&digest).await.is_none());
    put(&store, &content).await.unwrap();
    assert!(fs::symlink_metadata(home.blob(&digest)).unwrap().is_file(), "content takes the link's place");
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o222, 0o200, "the target is as it was");
    assert_eq!(read(&store.get(&digest).await.unwrap()), content);
}

#[tokio::test]
async fn what_the_store_did_not_make_it_leaves_alone() {
    let home = Home::new();
    home.prepare().await;
    let strangers = ["blobs/notes.txt", "blobs/sha256/ab/README", "ingest/thesis.part", "refs/x/y/_tags/-bad", "stray"];
    for path in strangers {
        fs::create_dir_all(home.path(path).parent().unwrap()).unwrap();
        fs::write(home.path(path), "mine").unwrap();
    }
    let store = home.open().await;
    for path in strangers {
        assert_eq!(fs::read(home.path(path)).unwrap(), b"mine", "{path}");
    }
    assert_eq!(store.stats().blobs, 0);
}

#[tokio::test]
async fn one_store_per_folder() {
    let home = Home::new();
    let store = home.open().await;
    let error = home.try_open(ROOMY, Arc::new(OsFileSystem)).err().unwrap();
    assert!(matches!(error, OpenError::InUse { pid: Some(_), .. }), "{error}");
    put(&store, b"still works").await.unwrap();
    drop(store);
    closed(&home).await;
    home.open().await;
}

#[tokio::test]
async fn reserving_follows_the_content() {
    let home = Home::new();
    let store = home.open_on(40 << 20, Arc::new(OsFileSystem)).await;
    let mut ingest = store.begin(Digest::sha256(b"x"), None).await.unwrap();
    assert_eq!(store.stats().reserved, 16 << 20);
    ingest.reserve(16 << 20).await.unwrap();
    assert_eq!(store.stats().reserved, 16 << 20);
    ingest.reserve((16 << 20) + 1).await.unwrap();
    assert_eq!(store.stats().reserved, 32 << 20);
    ingest.reserve(33 << 20).await.unwrap();
    assert_eq!(store.stats().reserved, 33 << 20, "no room for a whole step");
    assert!(matches!(ingest.reserve(41 << 20).await, Err(StoreError::NoSpace)));
    assert!(matches!(ingest.reserve(u64::MAX).await, Err(StoreError::NoSpace)));
    assert_eq!(store.stats().reserved, 33 << 20);
    write(&ingest, b"x").unwrap();
    ingest.commit(1).await.unwrap();
    assert_eq!((store.stats().reserved, store.stats().bytes), (0, 1));
}

#[tokio::test]
async fn the_committed_file_is_the_one_that_was_written() {
    let home = Home::new();
    let store = home.open().await;
    let ingest = store.begin(Digest::sha256(b"same"), Some(4)).await.unwrap();
    write(&ingest, b"same").unwrap();
    let part = fs::read_dir(home.path("ingest")).unwrap().next().unwrap().unwrap().metadata().unwrap().ino();
    let content = ingest.commit(4).await.unwrap();
    assert_eq!(fs::metadata(home.blob(&Digest::sha256(b"same"))).unwrap().ino(), part);
    assert_eq!(read(&content), b"same");
}
