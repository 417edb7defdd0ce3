//! Every step on the disk fails once, at each place where it is taken. What must hold then holds.

use std::sync::atomic::Ordering;

use super::super::*;
use super::support::*;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Stores two contents with the n-th operation failing, for each n until there are no more, and then again with all well.
async fn fail_each(for_good: bool, after_the_fact: bool, errno: i32) {
    for fails in 0.. {
        let home = Home::new();
        home.prepare().await;
        let fs = FaultFs { for_good, after_the_fact, errno, ..FaultFs::one(fails) };
        let count = Arc::clone(&fs.count);
        let store = home.open_faulty(fs).await;
        let contents = [bytes(1, 3000), bytes(2, 5000)];
        let results = [put(&store, &contents[0]).await, put(&store, &contents[1]).await];
        let steps = count.load(Ordering::SeqCst);

        // A part that could not be written is removed in the background.
        eventually("what was reserved is given back", || store.stats().reserved == 0).await;
        let (counted, at_rest) = (store.stats().bytes, home.verified_bytes());
        if !for_good {
            assert_eq!(counted, at_rest, "step {fails}: what is there is what is counted");
            assert_eq!(home.in_flight(), 0, "step {fails}: no part is left");
            assert!(results.iter().filter(|result| result.is_err()).count() <= 1, "step {fails}: the other content is stored");
        }
        for (result, content) in results.iter().zip(&contents) {
            match result {
                Ok(_) => assert_eq!(&std::fs::read(home.blob(&Digest::sha256(content))).unwrap(), content, "step {fails}"),
                Err(StoreError::NoSpace) => assert_eq!(errno, ENOSPC, "step {fails}"),
                Err(StoreError::Io { .. }) => assert_eq!(errno, EIO, "step {fails}"),
                Err(error) => panic!("step {fails}: {error}"),
            }
        }
        drop((results, store));
        closed(&home).await;

        let store = home.open().await;
        for content in &contents {
            put(&store, content).await.unwrap();
            assert_eq!(&read(&store.get(&Digest::sha256(content)).await.unwrap()), content);
        }
        assert_eq!((store.stats().bytes, home.verified_bytes(), home.in_flight()), (8000, 8000, 0), "step {fails}: it heals");
        if fails >= steps {
            assert!(fails > 10, "only {fails} steps were seen");
            return;
        }
    }
}

#[tokio::test]
async fn one_step_fails() {
    fail_each(false, false, EIO).await;
}

#[tokio::test]
async fn one_step_is_done_but_said_to_have_failed() {
    fail_each(false, true, EIO).await;
}

#[tokio::test]
async fn the_disk_is_full_for_one_step() {
    fail_each(false, false, ENOSPC).await;
}

#[tokio::test]
async fn the_disk_fails_for_good() {
    fail_each(true, false, EIO).await;
}

#[tokio::test]
async fn a_read_that_fails_is_a_miss_and_removes_nothing() {
    let home = Home::new();
    let content = bytes(3, 3000);
    let digest = Digest::sha256(&content);
    drop(put(&home.open().await, &content).await.unwrap());
    closed(&home).await;
    for fails in 0..2 {
        let store = home.open_faulty(FaultFs::one(fails)).await;
        assert!(store.get(&digest).await.is_none(), "step {fails} of opening");
        let errors = store.stats().disk_errors.into_iter().find(|(name, _)| *name == "open blob");
        assert_eq!(errors, Some(("open blob", 1)));
        assert_eq!(store.get(&digest).await.unwrap().size, 3000);
        assert_eq!(store.stats().bytes, 3000);
        drop(store);
        closed(&home).await;
    }
}

#[tokio::test]
async fn what_is_wrong_and_cannot_be_removed_is_not_opened_until_it_is_stored_again() {
    let home = Home::new();
    let content = bytes(5, 3000);
    let digest = Digest::sha256(&content);
    drop(put(&home.open().await, &content).await.unwrap());
    closed(&home).await;
    let store = home.open_faulty(FaultFs::one(0)).await;
    store.remove(&digest).await;
    assert!(home.blob(&digest).exists(), "the disk has refused to remove it");
    assert!(store.get(&digest).await.is_none());
    drop(put(&store, &content).await.unwrap());
    assert_eq!(read(&store.get(&digest).await.unwrap()), content);
    assert_eq!((store.stats().bytes, home.verified_bytes()), (3000, 3000));
}

#[tokio::test]
async fn what_cannot_be_evicted_stays_counted_and_the_next_goes_instead() {
    for fails in 0..4 {
        let home = Home::new();
        home.prepare().await;
        let fs = FaultFs::one(fails);
        let count = Arc::clone(&fs.count);
        let store = home.open_on(10_000, Arc::new(fs)).await;
        let old = [bytes(1, 4000), bytes(2, 4000)];
        for content in &old {
            drop(put(&store, content).await.unwrap());
            home.advance(60);
        }
        count.store(0, Ordering::SeqCst);
        let outcome = put(&store, &bytes(3, 4000)).await;
        eventually("what was reserved is given back", || store.stats().reserved == 0).await;
        let stats = store.stats();
        assert_eq!(stats.bytes, home.verified_bytes(), "step {fails}");
        assert!(stats.bytes <= 10_000);
        // The first thing to be done is to remove the oldest; if that cannot be done, the other goes.
        let there = old.each_ref().map(|content| home.blob(&Digest::sha256(content)).exists());
        assert_eq!(there, if fails == 0 { [true, false] } else { [false, true] }, "step {fails}");
        assert_eq!(outcome.is_ok(), fails == 0, "step {fails}");
    }
}

#[tokio::test]
async fn refs_are_whole_or_not_there_whichever_step_fails() {
    for fails in 0.. {
        let home = Home::new();
        let store = home.open().await;
        for content in [b"old".as_slice(), b"newer"] {
            drop(put(&store, content).await.unwrap());
        }
        drop(store);
        closed(&home).await;
        let fs = FaultFs::one(fails);
        let count = Arc::clone(&fs.count);
        let store = home.open_faulty(fs).await;
        let (hub, alpine, latest) = (upstream("docker.io"), repository("library/alpine"), tag("latest"));
        let record = |content: &[u8], checked_at| TagRecord {
            digest: Digest::sha256(content),
            media_type: media_type("application/vnd.oci.image.index.v1+json"),
            size: content.len() as u64,
            checked_at,
        };
        store.catalog().set_tag(&hub, &alpine, &latest, record(b"old", 1)).await;
        store.catalog().set_tag(&hub, &alpine, &latest, record(b"newer", 2)).await;
        let steps = count.load(Ordering::SeqCst);
        assert_eq!(store.catalog().tag(&hub, &alpine, &latest).await, Some(record(b"newer", 2)), "step {fails}");
        assert_eq!(home.in_flight(), 0, "step {fails}");
        drop(store);
        closed(&home).await;
        std::fs::remove_file(home.path("catalog.sqlite")).unwrap();
        let store = home.open().await;
        let found = store.catalog().tag(&hub, &alpine, &latest).await;
        let known = [record(b"old", TagRecord::NEVER), record(b"newer", TagRecord::NEVER)];
        assert!(found.is_none_or(|found| known.contains(&found)), "step {fails}");
        if fails >= steps {
            assert_eq!(store.catalog().tag(&hub, &alpine, &latest).await, Some(record(b"newer", TagRecord::NEVER)));
            return;
        }
    }
}

/// That content can be stored again is said when every step of storing could be taken, and not before.
#[tokio::test]
async fn whether_it_is_over_is_found_out_by_all_the_steps_that_storing_takes() {
    let home = Home::new();
    home.prepare().await;
    let fs = FaultFs::one(u64::MAX);
    let (count, names) = (Arc::clone(&fs.count), Arc::clone(&fs.names));
    let store = home.open_faulty(fs).await;
    drop(put(&store, &bytes(1, 3000)).await.unwrap());
    // What is looked at, and a folder that is made where there is none, are not asked for again.
    let steps = std::mem::take(&mut *names.lock().unwrap()).into_iter().filter(|step| !["len", "create_folder"].contains(step));
    store.blobs.probe();
    let probed = std::mem::take(&mut *names.lock().unwrap());
    for step in steps {
        assert!(probed.contains(&step), "{step} is not among {probed:?}");
    }
    drop(store);
    closed(&home).await;

    let steps = probed.len() as u64;
    assert!(steps > 6, "{probed:?}");
    for fails in 0..steps {
        let fs = FaultFs { count: Arc::clone(&count), ..FaultFs::one(fails) };
        count.store(FaultFs::UNCOUNTED, Ordering::SeqCst);
        let store = home.open_on(ROOMY, Arc::new(fs)).await;
        store.blobs.health.stored(&Err::<(), _>(StoreError::NoSpace));
        count.store(0, Ordering::SeqCst);
        store.blobs.probe();
        assert!(store.trouble().is_some(), "step {fails} has failed");
        store.blobs.probe();
        assert_eq!((store.trouble(), home.in_flight()), (None, 0), "after step {fails}");
        drop(store);
        closed(&home).await;
    }
}
