//! What a hit costs the disk, and what it finds wrong on it.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder_testkit::Digest;
use rusqlite::Connection;
use rustix::process::Signal;

use crate::support::{Larder, NAME, TAG, blob, counted, hub_with, image, manifest, pull};

/// How long the catalog's notes of hits wait in memory at most.
const FLUSH_INTERVAL: Duration = Duration::from_secs(30);

const HOUR: i64 = 3_600_000;

/// Issue 4: a hit costs no write. That content was used is noted in memory, and of all of it in one transaction later.
#[tokio::test]
async fn hits_write_nothing_and_are_noted_together() {
    let image = image(2400, &[1000; 100]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::with(&hub, "freshness.tags = '1h'").await;
    let digest = pull(&larder, NAME, TAG).await;
    larder.stop(Signal::TERM);
    // As if all that had been an hour ago: that somebody uses it is worth a note again.
    let catalog = larder.cache().join("catalog.sqlite");
    let changed = Connection::open(&catalog).unwrap().execute("UPDATE blob SET accessed_at = accessed_at - ?", [HOUR]).unwrap();
    assert_eq!(changed, 102);
    let begun = Instant::now();
    larder.start_again().await;
    // It waits until the folder has been walked through.
    assert_eq!(larder.tool(&["gc", "--dry-run", "--free", "1B"]).status.code(), Some(0));
    assert_eq!(unnoted(&catalog), 102);

    let hits = larder.changes().await;
    for _ in 0..3 {
        for content in image.blobs() {
            assert_eq!(larder.get(blob(content.digest())).await.status(), 200);
        }
        for target in [manifest(TAG), manifest(&digest)] {
            assert_eq!((larder.get(&target).await.status(), larder.head(&target).await.status()), (200, 200));
        }
    }
    let hits = hits.end();
    // None where this did not take long.
    let due = begun.elapsed().as_secs() / FLUSH_INTERVAL.as_secs();
    let written = transactions(&hits);
    assert!(written as u64 <= due && (due > 0 || hits.is_empty()), "{written} transactions of {due}: {hits:#?}");
    assert!(hits.iter().all(|call| call.contains("/catalog.sqlite")), "{hits:#?}");

    let flush = larder.changes().await;
    assert_eq!(larder.tool(&["gc", "--dry-run", "--free", "1B"]).status.code(), Some(0));
    let flush = flush.end();
    assert_eq!(unnoted(&catalog), 0);
    let due = begun.elapsed().as_secs() / FLUSH_INTERVAL.as_secs() + 1;
    let written = written + transactions(&flush);
    assert!((1..=due).contains(&(written as u64)), "{written} transactions of {due}: {flush:#?}");
    let metrics = larder.metrics().await;
    assert_eq!((metrics.requests("blob", "hit"), metrics.requests("blob", "miss")), (303.0, 0.0));
    assert_eq!(counted(&hub).count(), 1);
}

/// Before a blob is sent from its file it is looked whether that is in memory, so that nobody waits for a disk with whoever asked for it. What
/// was found there is not looked for again within the second.
#[tokio::test]
async fn hits_look_once_a_second_whether_a_blob_is_in_memory() {
    const HITS: usize = 60;
    /// At the first byte, and at the end of each MiB.
    const LOOKS: usize = 4;
    let image = image(2402, &[3 << 20]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    pull(&larder, NAME, TAG).await;
    let layer = &image.layers()[0];
    let looks = larder.calls("preadv2").await;
    let begun = Instant::now();
    for _ in 0..HITS {
        let answer = larder.get(blob(layer.digest())).await;
        assert_eq!((answer.status(), answer.body.len()), (200, 3 << 20));
    }
    // The first and the last one are not whole.
    let seconds = begun.elapsed().as_secs() as usize + 2;
    let looks = looks.end();
    assert!((1..=LOOKS * seconds).contains(&looks), "{looks} looks in {seconds} s");
}

/// How many contents are noted to have been used last half an hour ago or more.
fn unnoted(catalog: &Path) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let connection = Connection::open_with_flags(catalog, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let count = connection.query_row("SELECT count(*) FROM blob WHERE accessed_at < ?", [now - HOUR / 2], |row| row.get(0));
    count.unwrap()
}

/// How many transactions of the catalog these calls have committed: in its log, the head of the last page of each says how many
/// pages there are then, and of the other pages 0 (https://www.sqlite.org/fileformat2.html#the_write_ahead_log).
fn transactions(calls: &[String]) -> usize {
    let heads = calls.iter().filter_map(|call| {
        let (file, rest) = call.split_once("pwrite64(")?.1.split_once(">, \"")?;
        let (bytes, rest) = rest.split_once('"')?;
        (file.ends_with("/catalog.sqlite-wal") && rest.starts_with(", 24, ")).then_some(bytes)
    });
    heads.filter(|head| head.split("\\x").skip(1 + 4).take(4).any(|byte| byte != "00")).count()
}

/// A manifest that has rotted is found by who asks for it, who notices nothing of it; an operator does.
#[tokio::test]
async fn a_rotten_manifest_is_counted_and_healed_by_who_asks_for_it() {
    let image = image(2401, &[1000]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::with(&hub, "freshness.tags = '1h'").await;
    pull(&larder, NAME, TAG).await;
    let (digest, bytes) = (&image.manifest().digest, &image.manifest().bytes);
    let mut rotten = bytes.to_vec();
    rotten[bytes.len() / 2] ^= 1;
    for (times, target) in (1..).zip([manifest(TAG), manifest(digest)]) {
        // What is in memory does not rot.
        larder.stop(Signal::TERM);
        larder.spoil(digest, &rotten);
        larder.start_again().await;
        let answer = larder.get(&target).await;
        assert_eq!((answer.status(), &answer.body[..]), (200, &bytes[..]), "{target}");
        assert_eq!(larder.metrics().await.get("cache_damaged_total"), 1.0, "{target}");
        assert_eq!(Digest::sha256(&std::fs::read(larder.blob_file(digest)).unwrap()), *digest, "{target}");
        assert_eq!(counted(&hub).count(), 1 + times, "{target}");
        assert_eq!(larder.get(&target).await.status(), 200);
        assert_eq!(counted(&hub).count(), 1 + times, "{target}");
    }

    // Who wants no bytes has none fetched; what is wrong goes all the same.
    larder.stop(Signal::TERM);
    larder.spoil(digest, &rotten);
    larder.start_again().await;
    assert_eq!(larder.head(manifest(digest)).await.status(), 200);
    assert_eq!(larder.metrics().await.get("cache_damaged_total"), 1.0);
    assert!(!larder.has(digest));
}
