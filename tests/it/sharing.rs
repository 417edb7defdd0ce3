//! One fetch for many, and fills that belong to nobody's request.

use futures::future::join_all;
use larder_testkit::{Digest, Fault, Listener, Repository};

use crate::support::{Connection, End, Larder, TAG, blob, counted, fetched, hub_with, image, manifest, pull};

/// Issue 2, "Shown by".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_concurrent_cold_gets_of_a_blob_cost_one_upstream_get() {
    let image = image(1, &[8 << 20]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;

    let downloads = join_all((0..50).map(|_| larder.download(blob(layer)))).await;
    for download in &downloads {
        assert_eq!((download.head.status, download.end, &download.digest), (200, End::Complete, layer));
    }
    assert_eq!(fetched(&hub, layer).count(), 1);
    assert_eq!(hub.requests().on(Listener::Cdn).body_bytes(), 8 << 20);
}

/// Issue 2, "Shown by".
#[tokio::test]
async fn an_unchanged_tag_pulled_again_costs_no_counted_request() {
    let image = image(2, &[200_000, 3_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    let first = pull(&larder, "library/app", TAG).await;
    assert_eq!(counted(&hub).count(), 1);
    hub.reset_records();
    assert_eq!(pull(&larder, "library/app", TAG).await, first);
    assert_eq!(hub.requests().lines(), [format!("registry HEAD {} 200", manifest(TAG))]);
}

/// Issue 2, "Shown by"; case 14.
#[tokio::test]
async fn a_blob_is_cached_although_the_client_that_began_it_is_gone() {
    let image = image(3, &[4 << 20]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(layer).once().hold_at(1 << 20));
    let larder = Larder::of(&hub).await;

    let mut first = larder.connect().await;
    first.request("GET", &blob(layer), &[]).await;
    first.until_received(400_000).await;
    gate.until_held(1).await;
    drop(first);
    assert!(!larder.has(layer), "half a file is visible");
    gate.release();
    larder.until_idle().await;

    hub.stop_listening().await;
    let download = larder.download(blob(layer)).await;
    assert_eq!((download.end, &download.digest), (End::Complete, layer));
}

/// Case 13; fault matrix, 21 and 24: a hundred clients, of whom some take nothing, cost one fetch and little memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_clients_of_a_cold_blob_cost_one_fetch_and_bounded_memory() {
    const SIZE: u64 = 24 << 20;
    let image = image(4, &[SIZE]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(layer).once().hold_at(SIZE / 2));
    // On a busy machine the hold may last so long that another connection is tried.
    let larder = Larder::with(&hub, "limits.connections_per_blob = 1").await;
    larder.get(manifest(TAG)).await;
    let before = larder.peak_memory();

    let slow = join_all((0..20).map(|_| begun(&larder, layer))).await;
    let fast = join_all((0..80).map(|_| begun(&larder, layer))).await;
    gate.until_held(1).await;
    // All have their first bytes although the upstream has not sent the last one.
    let fast = join_all(fast.into_iter().map(|mut client| async {
        client.until_received(1 << 20).await;
        client
    }))
    .await;
    gate.release();
    for download in join_all(fast.into_iter().map(|mut client| async move { client.download().await })).await {
        assert_eq!((download.head.status, download.end, &download.digest), (200, End::Complete, layer));
    }
    let grown = larder.peak_memory().saturating_sub(before);
    assert!(grown < 160 << 20, "{} MiB more memory", grown >> 20);

    // Those that have taken nothing so far find all of it.
    for download in join_all(slow.into_iter().map(|mut client| async move { client.download().await })).await {
        assert_eq!((download.end, &download.digest), (End::Complete, layer));
    }
    assert_eq!(fetched(&hub, layer).count(), 1);
    assert!(larder.metrics().await.get("fill_joins_total") >= 99.0);
}

/// Promise P4: who comes late has its first byte at once, from what has arrived.
#[tokio::test]
async fn a_late_joiner_reads_what_has_arrived_without_waiting_for_the_rest() {
    let image = image(5, &[4 << 20]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(layer).once().hold_at(2 << 20));
    let larder = Larder::of(&hub).await;
    let mut first = begun(&larder, layer).await;
    gate.until_held(1).await;
    let mut late = begun(&larder, layer).await;
    late.until_received(1 << 20).await;
    let start = larder.get_range(blob(layer), "bytes=1000-1999").await;
    assert_eq!((start.status(), &start.body[..]), (206, &image.layers()[0].bytes()[1000..2000]));
    gate.release();
    assert_eq!(&late.download().await.digest, layer);
    assert_eq!(&first.download().await.digest, layer);
    assert_eq!(fetched(&hub, layer).count(), 1);
}

/// Who asks for what is on its way for the same repository waits for nothing but its bytes: nothing is looked up on the disk.
#[tokio::test]
async fn a_crowd_that_joins_asks_the_disk_for_nothing() {
    const SIZE: u64 = 4 << 20;
    let image = image(8, &[SIZE]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(layer).once().hold_at(SIZE / 2));
    let larder = Larder::with(&hub, "limits.connections_per_blob = 1").await;
    larder.get(manifest(TAG)).await;
    let mut first = larder.connect().await;
    first.request("GET", &blob(layer), &[]).await;
    first.until_received(1 << 20).await;
    gate.until_held(1).await;

    let injection = larder.inject("?open,openat", "error=EIO", Some(&larder.blob_file(layer))).await;
    let mut crowd = Vec::new();
    for _ in 0..20 {
        let mut client = larder.connect().await;
        client.request("GET", &blob(layer), &[]).await;
        client.until_received(1 << 20).await;
        crowd.push(client);
    }
    assert_eq!(injection.end(), 0, "it was looked for on the disk");
    gate.release();
    for mut client in crowd.into_iter().chain([first]) {
        let download = client.download().await;
        assert_eq!((download.end, &download.digest), (End::Complete, layer));
    }
    assert_eq!(larder.metrics().await.requests("blob", "joined"), 20.0);
    assert_eq!(fetched(&hub, layer).count(), 1);
}

/// Promise P5; fault matrix, 22 and 23.
#[tokio::test]
async fn clients_that_leave_take_nobody_with_them() {
    let image = image(6, &[4 << 20]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(layer).once().hold_at(1 << 20));
    let larder = Larder::of(&hub).await;
    let leader = begun(&larder, layer).await;
    gate.until_held(1).await;
    let mut stayer = begun(&larder, layer).await;
    let leavers = join_all((0..20).map(|_| begun(&larder, layer))).await;
    stayer.until_received(500_000).await;
    drop((leader, leavers));
    gate.release();
    let download = stayer.download().await;
    assert_eq!((download.end, &download.digest), (End::Complete, layer));
    assert_eq!(fetched(&hub, layer).count(), 1);
    larder.until(|metrics| metrics.get("connections") <= 1.0 && metrics.get("cache_reserved_bytes") == 0.0).await;
}

/// Promise P4: also of manifests by digest.
#[tokio::test]
async fn fifty_concurrent_gets_of_a_cold_manifest_cost_one() {
    let image = image(7, &[1_000]);
    let digest = &image.manifest().digest;
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    let answers = join_all((0..50).map(|_| larder.get(manifest(digest)))).await;
    assert!(answers.iter().all(|answer| answer.body == image.manifest().bytes));
    assert_eq!(counted(&hub).count(), 1);
}

/// A blob that two repositories of public upstreams share is fetched once.
#[tokio::test]
async fn a_layer_that_two_images_share_is_fetched_once() {
    let image = image(8, &[300_000]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    hub.put(Repository::new("library/other").tag(TAG, &image));
    let larder = Larder::of(&hub).await;
    pull(&larder, "library/app", TAG).await;
    pull(&larder, "library/other", TAG).await;
    assert_eq!(fetched(&hub, layer).count(), 1);
}

/// A client that has asked for a blob.
async fn begun(larder: &Larder, digest: &Digest) -> Connection {
    let mut connection = larder.connect().await;
    connection.request("GET", &blob(digest), &[]).await;
    connection
}

/// Promise P8: SOCI waits three seconds for the headers of a blob, containerd thirty.
#[tokio::test]
async fn headers_go_out_when_the_upstream_has_answered_and_before_it_has_sent_anything() {
    let image = image(9, &[4 << 20]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(layer).once().hold_at(0));
    let larder = Larder::of(&hub).await;
    for (range, status) in [(None, 200), (Some("bytes=4000000-4000999"), 206), (Some("bytes=-100"), 206)] {
        let mut client = larder.connect().await;
        let headers: Vec<_> = range.iter().map(|range| ("Range", *range)).collect();
        client.request("GET", &blob(layer), &headers).await;
        assert_eq!(client.head().await.status, status);
    }
    gate.until_held(1).await;
    gate.release();
    larder.until_idle().await;
    // What somebody waits for is asked for apart; no byte is asked for twice.
    assert!(fetched(&hub, layer).count() <= 3);
    assert!(fetched(&hub, layer).body_bytes() <= (4 << 20) + (1 << 20));
}
