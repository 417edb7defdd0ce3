//! Files that are kept open: they spare work, and are never in the way of what becomes of the content.

use std::sync::Weak;

use super::super::*;
use super::support::*;

/// Content whose file is kept open, and a way to see whether it still is.
async fn opened(store: &Store, content: &[u8]) -> Weak<dyn StoredFile> {
    drop(put(store, content).await.unwrap());
    let file = Arc::downgrade(&store.get(&Digest::sha256(content)).await.unwrap().file);
    assert!(file.upgrade().is_some(), "it is not kept open");
    file
}

#[tokio::test]
async fn content_that_is_used_again_is_not_opened_again() {
    let home = Home::new();
    let store = home.open().await;
    let content = bytes(1, 4000);
    let file = opened(&store, &content).await;
    let again = store.get(&Digest::sha256(&content)).await.unwrap();
    assert!(Arc::ptr_eq(&again.file, &file.upgrade().unwrap()));
    assert_eq!(read(&again), content);
}

#[tokio::test]
async fn what_is_evicted_or_removed_is_closed_at_once() {
    let home = Home::new();
    let store = home.open_on(10_000, Arc::new(OsFileSystem)).await;
    let contents = [bytes(1, 6000), bytes(2, 4000)];
    let evicted = opened(&store, &contents[0]).await;
    home.advance(60);
    let removed = opened(&store, &contents[1]).await;
    drop(put(&store, &bytes(3, 5000)).await.unwrap());
    assert!(!home.blob(&Digest::sha256(&contents[0])).exists() && evicted.upgrade().is_none(), "its room is not free");

    store.remove(&Digest::sha256(&contents[1])).await;
    assert!(removed.upgrade().is_none());
    for content in &contents {
        assert!(store.get(&Digest::sha256(content)).await.is_none());
    }
}

#[tokio::test]
async fn what_somebody_else_removes_is_a_miss_and_is_closed() {
    let home = Home::new();
    let store = home.open().await;
    let contents = [bytes(1, 4000), bytes(2, 3000)];
    for content in &contents {
        let (digest, file) = (Digest::sha256(content), opened(&store, content).await);
        std::fs::remove_file(home.blob(&digest)).unwrap();
        // Asked for or not.
        if content == &contents[0] {
            assert!(store.get(&digest).await.is_none());
            assert!(file.upgrade().is_none());
        } else {
            eventually("it is closed", || file.upgrade().is_none()).await;
        }
    }
}

#[tokio::test]
async fn what_somebody_has_cut_or_replaced_is_not_given_as_it_was() {
    let home = Home::new();
    let store = home.open().await;
    let (cut, replaced) = (bytes(1, 4000), bytes(2, 3000));
    let files = [opened(&store, &cut).await, opened(&store, &replaced).await];
    let path = home.blob(&Digest::sha256(&cut));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &cut[..100]).unwrap();
    assert!(store.get(&Digest::sha256(&cut)).await.is_none());

    let path = home.blob(&Digest::sha256(&replaced));
    let other = home.path("other");
    std::fs::write(&other, &replaced).unwrap();
    std::fs::rename(&other, &path).unwrap();
    let again = store.get(&Digest::sha256(&replaced)).await.unwrap();
    assert_eq!(read(&again), replaced);
    assert!(files.iter().all(|file| file.upgrade().is_none()));
}

#[tokio::test]
async fn nothing_is_kept_open_in_a_folder_that_is_gone() {
    let home = Home::new();
    let store = home.open().await;
    let content = bytes(1, 4000);
    let file = opened(&store, &content).await;
    let (dir, elsewhere) = (home.dir.path(), home.dir.path().with_extension("elsewhere"));
    std::fs::rename(dir, &elsewhere).unwrap();
    eventually("it is closed", || file.upgrade().is_none()).await;
    assert!(store.get(&Digest::sha256(&content)).await.is_none());
    std::fs::rename(&elsewhere, dir).unwrap();
    eventually("the folder is noticed", || store.trouble().is_none()).await;
    assert_eq!(read(&store.get(&Digest::sha256(&content)).await.unwrap()), content);
}

#[tokio::test]
async fn there_are_only_so_many() {
    let home = Home::new();
    let store = home.open().await;
    let mut files = Vec::new();
    for number in 0..4 * OPEN_FILES_MAX {
        let content = [bytes(1, 100), number.to_le_bytes().to_vec()].concat();
        files.push((opened(&store, &content).await, content));
    }
    let kept = files.iter().filter(|(file, _)| file.upgrade().is_some()).count();
    assert!(kept > OPEN_FILES_MAX / 2 && kept <= OPEN_FILES_MAX, "{kept}");
    let (last, content) = files.last().unwrap();
    assert!(last.upgrade().is_some() && store.get(&Digest::sha256(content)).await.is_some());
}

#[tokio::test]
async fn a_use_of_what_is_open_is_a_use() {
    let home = Home::new();
    let store = home.open_on(10_000, Arc::new(OsFileSystem)).await;
    let contents = [bytes(1, 4000), bytes(2, 4000)];
    for content in &contents {
        opened(&store, content).await;
        home.advance(60);
    }
    // The older one is used again, and again, without being opened.
    for _ in 0..3 {
        drop(store.get(&Digest::sha256(&contents[0])).await.unwrap());
        home.advance(60);
    }
    drop(put(&store, &bytes(3, 4000)).await.unwrap());
    assert!(store.get(&Digest::sha256(&contents[0])).await.is_some());
    assert!(store.get(&Digest::sha256(&contents[1])).await.is_none());
}
