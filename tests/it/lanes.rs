//! Contents that are fetched in several places at once: where readers wait, and where each connection is slow.

use larder_testkit::{Fault, Listener, Network, PerListener};

use crate::support::{End, Larder, blob, fetched, hub_with, image, manifest, pull};
use crate::support::{NAME, TAG};

const MIB: u64 = 1 << 20;

/// Design, section 3: a Range of a cold blob is served first, then the rest is filled.
#[tokio::test]
async fn a_part_that_somebody_waits_for_does_not_wait_for_what_comes_before_it() {
    let image = image(1100, &[16 << 20]);
    let layer = &image.layers()[0];
    let hub = hub_with(&image).await;
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(layer.digest()).once().hold_at(MIB));
    let larder = Larder::of(&hub).await;
    for (range, bytes) in [
        ("bytes=9000000-9000999", 9_000_000..9_001_000),
        // The footer of a layer: within the tail that is withheld from whoever could complete the whole with it.
        ("bytes=-51", (16 << 20) - 51..16 << 20),
        ("bytes=12000000-12000000", 12_000_000..12_000_001),
    ] {
        let part = larder.get_range(blob(layer.digest()), range).await;
        assert_eq!((part.status(), &part.body[..]), (206, &layer.bytes()[bytes]), "{range}");
    }
    gate.until_held(1).await;
    gate.release();
    let whole = larder.download(blob(layer.digest())).await;
    assert_eq!((whole.end, whole.digest.as_str()), (End::Complete, layer.digest().as_str()));
    larder.until_idle().await;
    assert!(larder.has(layer.digest()));
    // Each byte once, and what was on its way in the sockets when a connection gave way.
    assert!(fetched(&hub, layer.digest()).body_bytes() < 40 * MIB);
    assert!(fetched(&hub, layer.digest()).count() <= 6);
}

/// Design, section 4: over several connections where a single one is the bottleneck.
#[tokio::test]
async fn connections_that_are_limited_each_are_multiplied_if_the_operator_says_so() {
    let image = image(1101, &[24 << 20]);
    let layer = &image.layers()[0];
    let hub = hub_with(&image).await;
    hub.configure(|config| {
        config.network = PerListener::from_fn(|_| Network { connection_rate: Some(6 << 20), ..Network::default() });
    });
    let larder = Larder::with(&hub, "limits.connections_per_blob = 4").await;
    let whole = larder.download(blob(layer.digest())).await;
    assert_eq!((whole.end, whole.digest.as_str()), (End::Complete, layer.digest().as_str()));
    assert!(fetched(&hub, layer.digest()).count() > 1, "one connection was all there was");
    assert!(fetched(&hub, layer.digest()).body_bytes() < 60 * MIB);
    larder.until_idle().await;
    hub.stop_listening().await;
    assert_eq!(larder.download(blob(layer.digest())).await.digest.as_str(), layer.digest().as_str());
}

/// As above; P1 does not depend on the number of connections.
#[tokio::test]
async fn wrong_bytes_over_several_connections_are_neither_complete_nor_kept() {
    let image = image(1102, &[24 << 20]);
    let layer = &image.layers()[0];
    let hub = hub_with(&image).await;
    hub.configure(|config| {
        config.network = PerListener::from_fn(|_| Network { connection_rate: Some(6 << 20), ..Network::default() });
    });
    hub.fault(Fault::on(Listener::Cdn).path_contains(layer.digest()).corrupt(20 * MIB));
    let larder = Larder::with(&hub, "limits.connections_per_blob = 4").await;
    let whole = larder.download(blob(layer.digest())).await;
    assert!(whole.end == End::Fin || whole.head.status >= 500, "{whole:?}");
    larder.until_idle().await;
    assert!(!larder.has(layer.digest()));
    assert_eq!(larder.get(blob(layer.digest())).await.status(), 503);
}

/// An upstream that grants one connection only, or no ranges, is read over the one.
#[tokio::test]
async fn an_upstream_that_refuses_further_connections_is_read_over_one() {
    for (seed, refuse) in [(1103, true), (1104, false)] {
        let image = image(seed, &[16 << 20]);
        let layer = &image.layers()[0];
        let hub = hub_with(&image).await;
        hub.configure(|config| {
            config.ranges = refuse;
            config.network = PerListener::from_fn(|_| Network { connection_rate: Some(6 << 20), ..Network::default() });
        });
        if refuse {
            hub.fault(Fault::on(Listener::Cdn).with_header("range").status(403));
        }
        let larder = Larder::with(&hub, "limits.connections_per_blob = 4").await;
        pull(&larder, NAME, TAG).await;
        assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
        assert!(fetched(&hub, layer.digest()).body_bytes() < 60 * MIB);
    }
}
