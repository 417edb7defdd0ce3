//! The upstream is gone: what is cached is served all the same, whatever became of the mirror in between.

use larder_testkit::{Digest, Fault, Listener};

use crate::support::{End, Larder, NAME, TAG, blob, fetched, hub_with, image, index, manifest, pull};

/// Issue 2, "Shown by"; promise P3.
#[tokio::test]
async fn what_is_cached_is_pulled_by_tag_and_by_digest_while_the_upstream_is_gone() {
    let index = index(1);
    let hub = hub_with(&index).await;
    let mut larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    let digest = pull(&larder, NAME, TAG).await;
    hub.stop_listening().await;

    let by_tag = larder.get(manifest(TAG)).await;
    assert_eq!(by_tag.cache_status(), "larder; fwd=stale; detail=stale-unreachable");
    assert_eq!(pull(&larder, NAME, TAG).await, digest);
    assert_eq!(pull(&larder, NAME, &digest).await, digest);

    larder.restart().await;
    assert_eq!(pull(&larder, NAME, TAG).await, digest);
    assert_eq!(pull(&larder, NAME, &digest).await, digest);
    larder.kill9_and_restart().await;
    assert_eq!(pull(&larder, NAME, TAG).await, digest);
    assert_eq!(pull(&larder, NAME, &digest).await, digest);
}

/// Issue 2, "Shown by"; promise P2.
#[tokio::test]
async fn a_kill_in_the_middle_of_a_fill_leaves_no_short_blob() {
    let image = image(11, &[4 << 20]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(layer).once().hold_at(2 << 20));
    let mut larder = Larder::of(&hub).await;
    let mut client = larder.connect().await;
    client.request("GET", &blob(layer), &[]).await;
    client.until_received(1 << 20).await;
    gate.until_held(1).await;

    larder.kill9_and_restart().await;
    assert!(!larder.has(layer), "{:?}", larder.cache_files());
    let download = larder.download(blob(layer)).await;
    assert_eq!((download.head.status, download.end, &download.digest), (200, End::Complete, layer));
    assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
    assert_eq!(fetched(&hub, layer).count(), 2);
}

/// The catalog is an index of what lies in the folder: losing it costs nothing that can be seen.
#[tokio::test]
async fn a_lost_catalog_costs_neither_tags_nor_content() {
    let index = index(2);
    let hub = hub_with(&index).await;
    let mut larder = Larder::of(&hub).await;
    let digest = pull(&larder, NAME, TAG).await;
    hub.stop_listening().await;
    larder.kill9();
    for file in std::fs::read_dir(larder.cache()).unwrap().map(|entry| entry.unwrap().path()) {
        if file.file_name().is_some_and(|name| name.to_str().unwrap().starts_with("catalog.sqlite")) {
            std::fs::remove_file(file).unwrap();
        }
    }
    larder.start_again().await;
    assert_eq!(pull(&larder, NAME, TAG).await, digest);
    assert_eq!(pull(&larder, NAME, &digest).await, digest);
}

/// Promise P3: nothing that is not there yet is needed to start.
#[tokio::test]
async fn it_starts_and_is_ready_while_everything_upstream_is_down() {
    let hub = hub_with(&image(12, &[1_000])).await;
    hub.stop_listening().await;
    let larder = Larder::of(&hub).await;
    assert_eq!(larder.admin_get("/readyz").await.status(), 200);
    assert_eq!(larder.admin_get("/livez").await.status(), 200);
    assert_eq!(larder.get("/v2/").await.status(), 200);
    assert_eq!(larder.get(manifest(TAG)).await.error(), (502, "UNAVAILABLE".to_owned()));
    assert_eq!(larder.get(blob(&Digest::sha256(b"x"))).await.error(), (502, "UNAVAILABLE".to_owned()));
}

/// A file that is shorter than it should be, or gone, is a miss, and healed by the request that finds it so.
#[tokio::test]
async fn a_blob_that_was_cut_or_deleted_on_the_disk_is_fetched_again_for_the_same_request() {
    let image = image(13, &[300_000]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    pull(&larder, NAME, TAG).await;
    let path = larder.blob_file(layer);
    let whole = std::fs::read(&path).unwrap();
    for damage in ["cut", "empty", "gone"] {
        match damage {
            "cut" => larder.spoil(layer, &whole[..150_000]),
            "empty" => larder.spoil(layer, b""),
            _ => std::fs::remove_file(&path).unwrap(),
        }
        let download = larder.download(blob(layer)).await;
        assert_eq!((download.head.status, download.end, &download.digest), (200, End::Complete, layer), "{damage}");
        larder.until_idle().await;
    }
    assert_eq!(fetched(&hub, layer).count(), 4);
    assert_eq!(std::fs::read(&path).unwrap(), whole);
}

/// Manifests are small, and everything hangs on them: they are verified whenever they are read from the disk.
#[tokio::test]
async fn a_manifest_that_was_altered_on_the_disk_is_never_served() {
    let image = image(14, &[3_000]);
    let digest = &image.manifest().digest;
    let hub = hub_with(&image).await;
    let mut larder = Larder::of(&hub).await;
    pull(&larder, NAME, TAG).await;
    let mut altered = image.manifest().bytes.to_vec();
    altered[20] ^= 1;
    larder.spoil(digest, &altered);
    larder.restart().await;
    assert_eq!(pull(&larder, NAME, TAG).await, digest.as_str());
    assert_eq!(std::fs::read(larder.blob_file(digest)).unwrap(), image.manifest().bytes);
}

/// A catalog that is not one is set aside, and made anew from the folder.
#[tokio::test]
async fn a_ruined_catalog_costs_neither_tags_nor_content() {
    let index = index(3);
    let hub = hub_with(&index).await;
    let mut larder = Larder::of(&hub).await;
    let digest = pull(&larder, NAME, TAG).await;
    hub.stop_listening().await;
    larder.kill9();
    std::fs::write(larder.cache().join("catalog.sqlite"), [0x5a; 100_000]).unwrap();
    larder.start_again().await;
    assert_eq!(pull(&larder, NAME, TAG).await, digest);
}

/// Promise P2: whatever is at rest is what its name says, whenever the process was killed.
#[tokio::test]
async fn a_kill_at_any_instant_leaves_only_right_content() {
    let image = image(15, &[3 << 20, 200_000, 1_000]);
    let hub = hub_with(&image).await;
    hub.configure(|config| config.network.cdn.connection_rate = Some(100 << 20));
    let mut larder = Larder::of(&hub).await;
    let targets = || image.blobs().iter().map(|layer| blob(layer.digest())).chain([manifest(TAG)]);
    for instant in 0..20 {
        let mut clients = Vec::new();
        for target in targets() {
            let mut client = larder.connect().await;
            client.request("GET", &target, &[]).await;
            clients.push(client);
        }
        // A sample of instants, from before the first byte to after the last commit.
        tokio::time::sleep(std::time::Duration::from_millis(4 * instant)).await;
        larder.kill9();
        for file in larder.cache_files().into_iter().filter(|file| file.starts_with("blobs")) {
            let content = std::fs::read(larder.cache().join(&file)).unwrap();
            let hex = file.file_name().unwrap().to_str().unwrap();
            assert_eq!(Digest::sha256(&content).as_str(), format!("sha256:{hex}"));
        }
        if instant % 5 == 4 {
            std::fs::remove_dir_all(larder.cache()).unwrap();
        }
        larder.start_again().await;
    }
    assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
}

/// Issue 4: a bit that flips on the disk is found without anybody asking for the content, and the next pull heals it.
#[tokio::test]
async fn what_rots_on_the_disk_is_found_and_fetched_again() {
    let image = image(15, &[3_000_000, 1000]);
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "cache.verify_within = \"1s\"").await;
    let digest = pull(&larder, NAME, TAG).await;
    let layer = &image.layers()[0];
    let mut rotten = layer.bytes().to_vec();
    rotten[1_500_000] ^= 1;
    larder.spoil(layer.digest(), &rotten);
    larder.until(|metrics| metrics.get("cache_damaged_total") == 1.0).await;
    assert!(!larder.has(layer.digest()));
    assert_eq!(pull(&larder, NAME, TAG).await, digest);
    assert_eq!(fetched(&hub, layer.digest()).count(), 2);
    larder.until(|metrics| metrics.get("cache_verified_bytes_total") > 3_001_000.0).await;
    assert_eq!(larder.metrics().await.get("cache_damaged_total"), 1.0);
}
