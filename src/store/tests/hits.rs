//! Hits while the store is busy with something else, or cannot do it: none of them waits for that.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, OnceLock, Weak};

use rusqlite::ffi;

use super::super::*;
use super::support::*;

/// A place in which threads stop until a test lets them go on.
#[derive(Default)]
struct Place {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopped: usize,
    is_open: bool,
}

/// Keeps a place closed. Opens it when it is dropped, so that a test that fails ends.
struct Barrier(Arc<Place>);

impl Place {
    fn stop(&self) {
        let mut state = self.state.lock().unwrap();
        state.stopped += 1;
        drop(self.changed.wait_while(state, |state| !state.is_open).unwrap());
    }
}

impl Barrier {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn place(&self) -> Arc<Place> {
        Arc::clone(&self.0)
    }

    /// Waits until somebody has stopped there.
    async fn until_somebody_waits(&self) {
        eventually("somebody stops", || self.0.state.lock().unwrap().stopped > 0).await;
    }
}

impl Drop for Barrier {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().is_open = true;
        self.0.changed.notify_all();
    }
}

/// Asks for all of the contents again and again.
async fn all_are_hits(store: &Store, contents: &[Vec<u8>], when: &str) {
    for _ in 0..10 {
        for content in contents {
            let found = tokio::time::timeout(PATIENCE, store.get(&Digest::sha256(content))).await;
            let found = found.unwrap_or_else(|_| panic!("{when}: a hit waits"));
            assert_eq!(found.map(|found| read(&found)).as_ref(), Some(content), "{when}");
        }
    }
}

#[tokio::test]
async fn a_hit_waits_for_no_eviction() {
    let home = Home::new();
    home.prepare().await;
    let (removal, write) = (Barrier::new(), Barrier::new());
    let late: Arc<OnceLock<Weak<Blobs>>> = Arc::default();
    let instead = {
        let (removal, write, late) = (removal.place(), write.place(), Arc::clone(&late));
        move || {
            removal.stop();
            // What the eviction writes into the catalog comes after this.
            let (blobs, write) = (late.get().unwrap().upgrade().unwrap(), Arc::clone(&write));
            let wait = move |_: &_| {
                write.stop();
                Ok(())
            };
            blobs.catalog.database.submit(wait, |_| {});
        }
    };
    // The first operation is the removal of what goes.
    let fs = FaultFs { instead: Some(Arc::new(instead)), ..FaultFs::one(0) };
    let (count, names) = (Arc::clone(&fs.count), Arc::clone(&fs.names));
    let store = home.open_on(10_000, Arc::new(fs)).await;
    late.set(Arc::downgrade(&store.blobs)).unwrap();
    let contents = [bytes(1, 4000), bytes(2, 3000), bytes(3, 2000)];
    for content in &contents {
        drop(put(&store, content).await.unwrap());
        home.advance(60);
    }
    let (going, staying) = (Digest::sha256(&contents[0]), &contents[1..]);
    let open = store.get(&Digest::sha256(&contents[1])).await.unwrap();

    count.store(0, Ordering::SeqCst);
    // One makes room, the others wait for that. There is enough for all of them beside what is open.
    let coming: Vec<_> = (4..7)
        .map(|seed| {
            let store = store.clone();
            tokio::spawn(async move { put(&store, &bytes(seed, 1500)).await.map(drop) })
        })
        .collect();
    removal.until_somebody_waits().await;
    assert_eq!(names.lock().unwrap().first(), Some(&"remove"));
    assert!(home.blob(&going).exists());
    for _ in 0..3 {
        all_are_hits(&store, staying, "while a file is removed").await;
        // Next time it is another use.
        home.advance(15);
    }
    // What goes is fetched again, by who wants it.
    assert!(tokio::time::timeout(PATIENCE, store.get(&going)).await.unwrap().is_none());

    drop(removal);
    write.until_somebody_waits().await;
    eventually("the file is gone", || !home.blob(&going).exists()).await;
    all_are_hits(&store, staying, "while that is written into the catalog").await;
    assert!(tokio::time::timeout(PATIENCE, store.get(&going)).await.unwrap().is_none());
    assert_eq!(store.stats().evictions, 0, "it is not over");
    drop((write, open));
    for coming in coming {
        coming.await.unwrap().unwrap();
    }
    assert!(store.stats().evictions > 0);
    assert_eq!(store.stats().bytes, home.verified_bytes());
}

/// Tools look through all of the catalog, in which a hit looks up one row: there are more of them here than connections for that.
#[tokio::test]
async fn a_hit_waits_for_no_tool() {
    let home = Home::new();
    let store = home.open().await;
    let contents = [bytes(1, 4000), bytes(2, 3000)];
    for content in &contents {
        drop(put(&store, content).await.unwrap());
    }
    let (reading, begun) = (Barrier::new(), Arc::new(AtomicUsize::new(0)));
    let tools: Vec<_> = (0..8)
        .map(|_| {
            let (blobs, reading, begun) = (Arc::clone(&store.blobs), reading.place(), Arc::clone(&begun));
            tokio::task::spawn_blocking(move || {
                begun.fetch_add(1, Ordering::SeqCst);
                blobs.catalog.database.examine(|connection| {
                    let mut statement = connection.prepare("SELECT digest FROM blob")?;
                    let mut rows = statement.query([])?;
                    assert!(rows.next()?.is_some());
                    reading.stop();
                    Ok(())
                })
            })
        })
        .collect();
    reading.until_somebody_waits().await;
    eventually("all tools ask", || begun.load(Ordering::SeqCst) == tools.len()).await;
    all_are_hits(&store, &contents, "while tools read").await;
    // Nor does who stores something.
    let new = bytes(3, 1000);
    drop(tokio::time::timeout(PATIENCE, put(&store, &new)).await.expect("a fill waits").unwrap());
    all_are_hits(&store, &[new], "while tools read").await;
    drop(reading);
    for tool in tools {
        tool.await.unwrap().unwrap();
    }
}

/// One failure more than the disk is forgiven, over more time: the catalog is begun elsewhere, and nobody who asks for content that
/// is here notices.
#[tokio::test]
async fn a_catalog_on_a_bad_place_of_the_disk_is_begun_elsewhere_and_hits_go_on() {
    /// After so many failures, and so long after the first of them, a catalog is set aside.
    const FAILURES: usize = 16;
    const FAILING_FOR: Duration = Duration::from_secs(10);

    let home = Home::new();
    let store = home.open().await;
    let contents = [bytes(1, 4000), bytes(2, 3000)];
    for content in &contents {
        drop(put(&store, content).await.unwrap());
    }
    let (hub, alpine, latest) = (upstream("docker.io"), repository("library/alpine"), tag("latest"));
    let media_type = media_type("application/vnd.oci.image.index.v1+json");
    let record = TagRecord { digest: Digest::sha256(&contents[0]), media_type, size: 4000, checked_at: 1 };
    store.catalog().set_tag(&hub, &alpine, &latest, record.clone()).await;
    let set_aside = || {
        let names = std::fs::read_dir(home.dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| name.starts_with("catalog.sqlite.corrupt-") && !name.ends_with("-wal") && !name.ends_with("-shm"))
            .count()
    };
    // Each of these is one failure of the disk, as long as the catalog is the old one.
    let fails = |store: &Store, mut times: usize| {
        let blobs = Arc::clone(&store.blobs);
        tokio::task::spawn_blocking(move || {
            blobs.catalog.database.write(move |_| {
                times = times.saturating_sub(1);
                let failure = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR), None);
                if times > 0 { Err(failure) } else { Ok(()) }
            })
        })
    };
    for _ in 1..FAILURES {
        assert!(fails(&store, usize::MAX).await.unwrap().is_err());
    }
    tokio::time::sleep(FAILING_FOR).await;
    // What is written shows that the disk is not that bad.
    store.catalog().set_tag(&hub, &alpine, &latest, record.clone()).await;
    for _ in 1..FAILURES {
        assert!(fails(&store, usize::MAX).await.unwrap().is_err());
        // That there is nothing to be written shows nothing.
        assert!(fails(&store, 0).await.unwrap().is_ok());
    }
    tokio::time::sleep(FAILING_FOR).await;
    assert_eq!(set_aside(), 0, "it is not enough");
    all_are_hits(&store, &contents, "while the disk fails").await;
    assert_eq!(store.catalog().tag(&hub, &alpine, &latest).await, Some(record.clone()));

    assert!(fails(&store, 2).await.unwrap().is_ok(), "it is done in the new one");
    assert_eq!(set_aside(), 1);
    all_are_hits(&store, &contents, "when the catalog is new").await;
    settled(&store).await;
    let known = TagRecord { checked_at: TagRecord::NEVER, ..record };
    assert_eq!(store.catalog().tag(&hub, &alpine, &latest).await, Some(known));
    let stats = store.stats();
    assert_eq!((stats.blobs, stats.bytes, stats.bytes), (2, 7000, home.verified_bytes()));
    all_are_hits(&store, &contents, "when all is known again").await;
}
