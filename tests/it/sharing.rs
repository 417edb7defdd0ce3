//! One fetch for many, and fills that belong to nobody's request.

use futures::future::join_all;
use larder_testkit::{Fault, Listener};

use crate::support::{End, Larder, TAG, blob, counted, fetched, hub_with, image, manifest, pull};

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
