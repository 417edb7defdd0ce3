//! Contents that are fetched in several places at once: where readers wait, and where each connection is slow.

use std::time::Duration;

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
async fn connections_that_are_limited_each_are_multiplied() {
    let image = image(1101, &[24 << 20]);
    let layer = &image.layers()[0];
    let hub = hub_with(&image).await;
    hub.configure(|config| {
        config.network = PerListener::from_fn(|_| Network { connection_rate: Some(4 << 20), ..Network::default() });
    });
    let larder = Larder::of(&hub).await;
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
        config.network = PerListener::from_fn(|_| Network { connection_rate: Some(4 << 20), ..Network::default() });
    });
    hub.fault(Fault::on(Listener::Cdn).path_contains(layer.digest()).corrupt(20 * MIB));
    let larder = Larder::of(&hub).await;
    let whole = larder.download(blob(layer.digest())).await;
    assert!(whole.end == End::Fin || whole.head.status >= 500, "{whole:?}");
    larder.until_idle().await;
    assert!(!larder.has(layer.digest()));
    assert!(fetched(&hub, layer.digest()).count() > 1, "one connection was all there was");
    assert_eq!(larder.get(blob(layer.digest())).await.status(), 503);

    // The next try, when there is one, is over a single connection: what several bring in turns is harder to trust.
    hub.clear_faults();
    let before = fetched(&hub, layer.digest()).count();
    let healed = async {
        loop {
            let again = larder.download(blob(layer.digest())).await;
            if again.head.status == 200 {
                return again;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let again = tokio::time::timeout(Duration::from_secs(60), healed).await.expect("it is refused for some seconds only");
    assert_eq!((again.end, again.digest.as_str()), (End::Complete, layer.digest().as_str()));
    assert_eq!(fetched(&hub, layer.digest()).count(), before + 1);
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
            config.network = PerListener::from_fn(|_| Network { connection_rate: Some(4 << 20), ..Network::default() });
        });
        if refuse {
            hub.fault(Fault::on(Listener::Cdn).with_header("range").status(403));
        }
        let larder = Larder::of(&hub).await;
        pull(&larder, NAME, TAG).await;
        assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
        assert!(fetched(&hub, layer.digest()).body_bytes() < 60 * MIB);
    }
}

/// An operator who wants one request for each blob, whatever it takes, says so.
#[tokio::test]
async fn one_connection_is_all_there_is_if_the_operator_says_so() {
    let image = image(1105, &[24 << 20]);
    let layer = &image.layers()[0];
    let hub = hub_with(&image).await;
    hub.configure(|config| {
        config.network = PerListener::from_fn(|_| Network { connection_rate: Some(6 << 20), ..Network::default() });
    });
    let larder = Larder::with(&hub, "limits.connections_per_blob = 1").await;
    assert_eq!(larder.download(blob(layer.digest())).await.digest.as_str(), layer.digest().as_str());
    assert_eq!(fetched(&hub, layer.digest()).count(), 1);
}

/// Issue 3: where the link itself is the limit, there is no more than one connection for long, and nothing is read twice.
#[tokio::test]
async fn where_the_link_is_the_limit_more_connections_do_not_stay() {
    let image = image(1106, &[32 << 20]);
    let layer = &image.layers()[0];
    let hub = hub_with(&image).await;
    hub.configure(|config| {
        config.network = PerListener::from_fn(|_| Network { total_rate: Some(5 << 20), ..Network::default() });
    });
    let larder = Larder::of(&hub).await;
    assert_eq!(larder.download(blob(layer.digest())).await.digest.as_str(), layer.digest().as_str());
    // The first one, the one that was tried, and the one that brings what both have left over.
    assert!(fetched(&hub, layer.digest()).count() <= 4, "{}", fetched(&hub, layer.digest()).count());
    assert!(fetched(&hub, layer.digest()).body_bytes() < 44 * MIB, "{}", fetched(&hub, layer.digest()).body_bytes());
}

/// Issue 3: 64 random ranges of a cold blob. Each byte is read once, and at most one piece for each seek besides.
#[tokio::test]
async fn seeks_in_a_cold_blob_cost_a_piece_each_at_most() {
    let size: usize = 96 << 20;
    let image = image(1107, &[size as u64]);
    let layer = &image.layers()[0];
    let bytes = layer.bytes();
    let hub = hub_with(&image).await;
    // Slow enough that the blob is far from complete when most of the seeks come.
    hub.configure(|config| {
        config.network = PerListener::from_fn(|_| Network { total_rate: Some(24 << 20), ..Network::default() });
    });
    let larder = Larder::of(&hub).await;
    larder.until_idle().await;
    let descriptors = larder.descriptors();
    let mut random: u64 = 0x9e37_79b9;
    let mut next = move |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % below
    };
    let target = blob(layer.digest());
    for _ in 0..8 {
        let seeks: Vec<_> = (0..8).map(|_| (next(size - 70_000), 1 + next(70_000))).collect();
        let asked = seeks.iter().map(|(from, length)| {
            let range = format!("bytes={from}-{}", from + length - 1);
            let (larder, target) = (&larder, &target);
            async move { larder.get_range(target, &range).await }
        });
        for (answer, (from, length)) in futures::future::join_all(asked).await.iter().zip(&seeks) {
            assert_eq!((answer.status(), &answer.body[..]), (206, &bytes[*from..from + length]), "{from}+{length}");
        }
    }
    larder.until_idle().await;
    assert!(larder.has(layer.digest()));
    let read = fetched(&hub, layer.digest()).body_bytes();
    assert!(read <= size as u64 + 64 * 4 * MIB, "{read} bytes were read");
    // Some connections to the registry, its token server and its CDN wait for the next request.
    larder.until_descriptors(descriptors + 12).await;
    assert_eq!(larder.metrics().await.get("cache_reserved_bytes"), 0.0);
    assert_eq!(larder.download(&target).await.digest.as_str(), layer.digest().as_str());
}

/// Issue 3: a multi-range of 1024 parts of a cold blob.
#[tokio::test]
async fn a_thousand_and_twenty_four_parts_of_a_cold_blob_are_right() {
    let size = 32 << 20;
    let image = image(1108, &[size]);
    let layer = &image.layers()[0];
    let bytes = layer.bytes();
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    // Backwards and forwards, as a reader of a table of contents goes.
    let firsts: Vec<usize> = (0..1024_usize).map(|part| (part * 7_919_777) % (size as usize - 100)).collect();
    let ranges: Vec<String> = firsts.iter().map(|first| format!("{first}-{}", first + 99)).collect();
    let answer = larder.get_range(blob(layer.digest()), &format!("bytes={}", ranges.join(","))).await;
    assert_eq!((answer.status(), answer.end), (206, End::Complete));
    let mut rest = &answer.body[..];
    for first in firsts {
        let head = format!("Content-Range: bytes {first}-{}/{size}\r\n\r\n", first + 99);
        let at =
            rest.windows(head.len()).position(|window| window == head.as_bytes()).unwrap_or_else(|| panic!("no part at {first}"));
        rest = &rest[at + head.len()..];
        assert_eq!(&rest[..100], &bytes[first..first + 100]);
    }
    larder.until_idle().await;
    assert!(larder.has(layer.digest()));
    let read = fetched(&hub, layer.digest()).body_bytes();
    assert!(read <= size + 64 * MIB, "{read} bytes were read");
}

/// Issue 3: HEAD and manifests never wait behind blobs.
#[tokio::test]
async fn blobs_that_hang_hold_up_neither_manifests_nor_heads() {
    let image = image(1109, &[MIB; 20]);
    let hub = hub_with(&image).await;
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains("/blobs/").hold_at(1000));
    let larder = Larder::of(&hub).await;
    let mut clients = Vec::new();
    for layer in &image.layers()[..19] {
        let mut client = larder.connect().await;
        client.request("GET", &blob(layer.digest()), &[]).await;
        clients.push(client);
    }
    gate.until_held(19).await;
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    for layer in image.layers() {
        assert_eq!(larder.head(blob(layer.digest())).await.status(), 200);
    }
    gate.release();
    for mut client in clients {
        assert_eq!(client.download().await.end, End::Complete);
    }
}
