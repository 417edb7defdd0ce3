//! The cache's folder turns read-only, or goes: its file system is unmounted, or it is deleted, emptied, renamed.

use std::fs;
use std::time::Duration;

use larder_testkit::{Fault, Hub, Listener};

use crate::support::{Disk, End, Larder, NAME, TAG, blob, fetched, hub_with, image, pull};

/// Case 31, and what an operator does about it: the file system finds itself broken, is unmounted, mended and mounted again, while
/// pulls go on. Nobody restarts anything.
#[tokio::test]
async fn a_file_system_that_breaks_is_mended_under_a_running_mirror() {
    let disk = Disk::ext4(64);
    let image = image(2100, &[3_000_000, 1000]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, &disk.config()).await;
    let digest = pull(&larder, NAME, TAG).await;

    disk.become_read_only();
    assert_eq!(pull(&larder, NAME, TAG).await, digest);
    assert_eq!(fetched(&hub, layer).count(), 1, "what is there is read");
    pull_new(&larder, &hub, 2101).await;
    larder.until_readiness_says("ready, but nothing can be stored").await;
    assert_eq!(larder.metrics().await.get("cache_degraded"), 1.0);

    disk.unmount();
    larder.until_readiness_says("not on the file system that it was on").await;
    pull_new(&larder, &hub, 2102).await;
    assert_eq!(pull(&larder, NAME, TAG).await, digest, "it passes through");
    assert_eq!(fs::read_dir(disk.mount_point()).unwrap().count(), 0, "something was written to the bare mount point");

    disk.mend().await;
    disk.mount();
    larder.until_readiness_says("ready\n").await;
    hub.reset_records();
    assert!(larder.has(layer));
    let download = larder.download(blob(layer)).await;
    assert_eq!((download.end, &download.digest), (End::Complete, layer));
    assert_eq!(fetched(&hub, layer).count(), 0, "it was there all the time");
    is_kept(&larder, &hub, 2103).await;
    accounts_are_right(&larder).await;
}

/// A restart does not need a disk that is well: what is on it is served, by tag and without the upstream, and the rest passes through.
#[tokio::test]
async fn a_start_on_a_file_system_that_can_only_be_read_serves_what_is_there() {
    for was_killed in [true, false] {
        let disk = Disk::ext4(64);
        let image = image(2170, &[3_000_000, 1000]);
        let layer = image.layers()[0].digest();
        let hub = hub_with(&image).await;
        let mut larder = Larder::with(&hub, &disk.config()).await;
        let digest = pull(&larder, NAME, TAG).await;
        if was_killed {
            larder.kill9();
        } else {
            larder.stop(rustix::process::Signal::TERM);
        }
        disk.remount("ro");
        larder.start_again().await;
        assert_eq!(pull(&larder, NAME, TAG).await, digest);
        assert_eq!(fetched(&hub, layer).count(), 1, "what is there is read");
        pull_new(&larder, &hub, 2171).await;
        larder.until_readiness_says("ready, but nothing can be stored").await;
        assert_eq!(larder.metrics().await.get("cache_degraded"), 1.0);

        disk.remount("rw");
        larder.until_readiness_says("ready\n").await;
        is_kept(&larder, &hub, 2172).await;
        accounts_are_right(&larder).await;
        assert_eq!(pull(&larder, NAME, TAG).await, digest);
        assert_eq!(fetched(&hub, layer).count(), 1);
    }
}

/// There is not even room for the marker and the catalog.
#[tokio::test]
async fn a_start_on_a_full_file_system_passes_through_until_there_is_room() {
    let disk = Disk::tmpfs("size=24m");
    let image = image(2180, &[300_000]);
    let hub = hub_with(&image).await;
    disk.fill_up();
    // In a folder of its own, which cannot be made what it should be.
    let config = disk.config().replace("/mnt\"", "/mnt/cache\"");
    let larder = Larder::with(&hub, &config).await;
    assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
    larder.until_readiness_says("ready, but nothing can be stored").await;
    disk.make_room();
    larder.until_readiness_says("ready\n").await;
    let layer = pull_new(&larder, &hub, 2181).await;
    assert!(
        disk.mount_point().join("cache").join("blobs").exists() && larder.metrics().await.get("cache_used_bytes") > 300_000.0
    );
    assert_eq!(fetched(&hub, &layer).count(), 1);
}

/// The catalog's part of the disk fails: pulls go on, that shows, and it is over when the disk is well.
#[tokio::test]
async fn a_catalog_that_the_disk_does_not_take_keeps_nobody_from_pulling() {
    for (seed, fault) in (2190..).step_by(10).zip(["error=EIO", "error=ENOSPC"]) {
        let image = image(seed, &[300_000]);
        let hub = hub_with(&image).await;
        let larder = Larder::of(&hub).await;
        let digest = pull(&larder, NAME, TAG).await;
        let injection = larder.inject("pwrite64", fault, Some(&larder.cache().join("catalog.sqlite-wal"))).await;
        pull_new(&larder, &hub, seed + 1).await;
        // Once a second it finds out whether that is over.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert!(larder.readiness().await.1.starts_with("ready, but nothing can be stored"), "{fault}");
        assert_eq!(pull(&larder, NAME, TAG).await, digest, "{fault}");
        assert!(injection.end() > 0);
        is_kept(&larder, &hub, seed + 2).await;
        accounts_are_right(&larder).await;
    }
}

/// What is in flight when the file system goes is brought to its end for whoever reads it, and is not kept; nothing is written to where
/// the file system was.
#[tokio::test]
async fn a_blob_in_flight_survives_the_loss_of_its_file_system() {
    let disk = Disk::ext4(64);
    let image = image(2110, &[8 << 20]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(layer).once().hold_at(4 << 20));
    let larder = Larder::with(&hub, &disk.config()).await;
    let mut client = larder.connect().await;
    client.request("GET", &blob(layer), &[]).await;
    client.until_received(1 << 20).await;
    gate.until_held(1).await;
    disk.unmount();
    larder.until_readiness_says("not on the file system that it was on").await;
    gate.release();
    let download = client.download().await;
    assert_eq!((download.head.status, download.end, &download.digest), (200, End::Complete, layer));
    larder.until_idle().await;
    assert_eq!(fs::read_dir(disk.mount_point()).unwrap().count(), 0, "something was written to the bare mount point");

    disk.mend().await;
    disk.mount();
    larder.until_readiness_says("ready\n").await;
    // The part that was being written is of no use to anybody.
    assert_eq!(larder.cache_files(), Vec::<std::path::PathBuf>::new());
    is_kept(&larder, &hub, 2111).await;
    accounts_are_right(&larder).await;
}

/// Verifying a large content takes a while: the file system that it is on is let go of all the same.
#[tokio::test]
async fn what_is_being_verified_does_not_keep_a_file_system() {
    let disk = Disk::ext4(192);
    let image = image(2160, &[100_000_000]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let mut larder = Larder::with(&hub, &disk.config()).await;
    pull(&larder, NAME, TAG).await;
    // On a busy machine further connections are tried.
    let before = fetched(&hub, layer).count();
    // Whichever content it begins with, the layer is soon next: nothing else is as large, and the rest of it takes a second. The file is open
    // for a moment only, every now and then.
    larder.restart_with("cache.verify_within = '10s'").await;
    larder.until_it_has_read(20_000_000).await;
    disk.unmount();
    disk.mend().await;
    disk.mount();
    larder.until_readiness_says("ready\n").await;
    pull(&larder, NAME, TAG).await;
    assert_eq!(fetched(&hub, layer).count(), before);
    assert_eq!(larder.metrics().await.get("cache_damaged_total"), 0.0);
}

/// A file system that is not the cache's is not taken for it because it is empty.
#[tokio::test]
async fn another_file_system_in_its_place_is_not_taken() {
    let disk = Disk::tmpfs("size=20m");
    let image = image(2120, &[100_000]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::with(&hub, &disk.config()).await;
    pull(&larder, NAME, TAG).await;
    disk.unmount();
    disk.mount();
    larder.until_readiness_says("not on the file system that it was on").await;
    pull(&larder, NAME, TAG).await;
    assert_eq!(fs::read_dir(disk.mount_point()).unwrap().count(), 0);
    // As it says: whoever means it restarts.
    larder.restart().await;
    is_kept(&larder, &hub, 2121).await;
}

#[tokio::test]
async fn a_folder_that_was_renamed_away_is_used_again_when_it_is_back() {
    let image = image(2130, &[500_000, 1000]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    let digest = pull(&larder, NAME, TAG).await;
    let (cache, away) = (larder.cache(), larder.cache().with_file_name("away"));
    fs::rename(&cache, &away).unwrap();
    larder.until_readiness_says("find it").await;
    assert_eq!(pull(&larder, NAME, TAG).await, digest);
    pull_new(&larder, &hub, 2131).await;
    assert!(!cache.exists());
    fs::rename(&away, &cache).unwrap();
    larder.until_readiness_says("ready\n").await;
    hub.stop_listening().await;
    assert_eq!(pull(&larder, NAME, TAG).await, digest);
    accounts_are_right(&larder).await;
}

/// Operators empty caches, whatever runs there. Of one that is deleted Larder cannot tell whether it is meant to be there.
#[tokio::test]
async fn a_cache_that_was_emptied_is_begun_anew_and_one_that_was_deleted_when_there_is_a_folder() {
    let image = image(2140, &[500_000, 1000]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    let digest = pull(&larder, NAME, TAG).await;
    for entry in fs::read_dir(larder.cache()).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() { fs::remove_dir_all(entry) } else { fs::remove_file(entry) }.unwrap();
    }
    larder.until_logged("the cache's folder is back").await;
    larder.until(|metrics| metrics.get("cache_used_bytes") == 0.0).await;
    is_kept(&larder, &hub, 2141).await;
    accounts_are_right(&larder).await;

    fs::remove_dir_all(larder.cache()).unwrap();
    larder.until_readiness_says("find it").await;
    assert_eq!(pull(&larder, NAME, TAG).await, digest);
    assert!(!larder.cache().exists());
    fs::create_dir(larder.cache()).unwrap();
    larder.until_readiness_says("ready\n").await;
    is_kept(&larder, &hub, 2142).await;
    accounts_are_right(&larder).await;
}

/// Somebody removes a folder in the cache: it is made again.
#[tokio::test]
async fn the_folders_in_the_cache_are_made_again() {
    let image = image(2150, &[500_000, 1000]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    for (seed, folder) in (2151..).zip(["ingest", "blobs", "refs"]) {
        fs::remove_dir_all(larder.cache().join(folder)).unwrap();
        is_kept(&larder, &hub, seed).await;
    }
    assert_eq!(larder.metrics().await.get("disk_errors_total"), 0.0);
}

/// Pulls an image that was never pulled before. Gives the digest of its layer.
async fn pull_new(larder: &Larder, hub: &Hub, seed: u64) -> larder_testkit::Digest {
    let image = image(seed, &[300_000]);
    hub.edit(NAME, |repository| repository.set_tag(format!("{seed}"), &image));
    assert_eq!(pull(larder, NAME, seed).await, image.manifest().digest.as_str());
    image.layers()[0].digest().clone()
}

/// What is pulled now is kept.
async fn is_kept(larder: &Larder, hub: &Hub, seed: u64) {
    let layer = pull_new(larder, hub, seed).await;
    assert!(larder.has(&layer));
    assert_eq!(larder.readiness().await.1, "ready\n");
    assert_eq!(larder.metrics().await.get("cache_degraded"), 0.0);
}

/// What is counted is what is there, once the walk through the folder is over.
async fn accounts_are_right(larder: &Larder) {
    let on_disk: u64 = larder.cache_files().iter().map(|file| larder.cache().join(file).metadata().unwrap().len()).sum();
    larder.until(|metrics| metrics.get("cache_used_bytes") == on_disk as f64).await;
    assert_eq!(larder.metrics().await.get("cache_reserved_bytes"), 0.0);
}
