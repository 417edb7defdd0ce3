//! Issue 3, "Prefetch": what a pulled manifest refers to is fetched before it is asked for, where that takes nothing from anybody.

use std::time::Duration;

use futures::future::join_all;
use larder_testkit::{Algorithm, Digest, Fault, Hub, Image, Listener, Manifest, RateLimit, Repository, Synthetic, media_type};
use serde_json::json;

use crate::support::{End, Larder, Metrics, NAME, TAG, blob, counted, fetched, hub_with, image, index, manifest, pull};

/// How long a test looks whether something happens that must not, where nothing tells that it does not.
const A_WHILE: Duration = Duration::from_millis(500);

/// Every word for how a prefetch ends.
const RESULTS: [&str; 8] =
    ["filled", "needless", "no-platform", "upstream-trouble", "limit-near", "disk-short", "busy", "failed"];

/// One that fetches ahead.
async fn eager(hub: &Hub, snippet: &str) -> Larder {
    Larder::builder().upstream("docker.io", hub).config("cache.prefetch = true").config(snippet).start().await
}

/// Waits until so many prefetches have ended, and asserts that this is how.
async fn until_ended(larder: &Larder, expected: &[(&str, u32)]) {
    let count = |result: &str| expected.iter().find(|(word, _)| *word == result).map_or(0.0, |(_, count)| f64::from(*count));
    let all: f64 = RESULTS.iter().map(|result| count(result)).sum();
    larder.until(|metrics| ended(metrics) >= all).await;
    let metrics = larder.metrics().await;
    for result in RESULTS {
        assert_eq!(metrics.prefetches(result), count(result), "{result}");
    }
    larder.until_idle().await;
}

/// How many prefetches have ended, however that was.
fn ended(metrics: &Metrics) -> f64 {
    RESULTS.iter().map(|result| metrics.prefetches(result)).sum()
}

/// How many GETs of blobs the hub has seen, wherever it has them.
fn blob_requests(hub: &Hub) -> usize {
    hub.requests().path_contains("/blobs/").count() + hub.requests().on(Listener::Cdn).count()
}

/// Downloads a blob that must be here: no upstream hears of it.
async fn assert_here(larder: &Larder, hub: &Hub, digest: &Digest) {
    let before = hub.requests().count();
    let download = larder.download(blob(digest)).await;
    assert_eq!((download.head.status, download.end, &download.digest), (200, End::Complete, digest));
    assert_eq!(download.head.header("cache-status"), Some("larder; hit"));
    assert_eq!(hub.requests().count(), before, "{:#?}", hub.requests().lines());
}

#[tokio::test]
async fn a_pulled_manifest_brings_its_config_and_layers() {
    let image = image(300, &[2 << 20, 300_000, 5_000, 40_000, 700]);
    let hub = hub_with(&image).await;
    let larder = eager(&hub, "").await;
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    until_ended(&larder, &[("filled", 1)]).await;
    for content in image.blobs() {
        assert_eq!(fetched(&hub, content.digest()).count(), 1);
        assert_here(&larder, &hub, content.digest()).await;
    }
    assert_eq!(counted(&hub).count(), 1);
    assert_eq!(larder.metrics().await.get("fill_joins_total"), 0.0);

    // By digest it is another pull of the same, a moment later.
    assert_eq!(larder.get(manifest(&image.manifest().digest)).await.status(), 200);
    tokio::time::sleep(A_WHILE).await;
    until_ended(&larder, &[("filled", 1)]).await;
}

#[tokio::test]
async fn nothing_comes_by_itself_unless_it_is_configured() {
    let image = image(301, &[100_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(blob_requests(&hub), 0, "{:#?}", hub.requests().lines());
    until_ended(&larder, &[]).await;
}

#[tokio::test]
async fn a_head_brings_nothing() {
    let image = image(302, &[100_000]);
    let hub = hub_with(&image).await;
    let larder = eager(&hub, "").await;
    for reference in [TAG, image.manifest().digest.as_str()] {
        assert_eq!(larder.head(manifest(reference)).await.status(), 200);
    }
    tokio::time::sleep(A_WHILE).await;
    assert_eq!((blob_requests(&hub), counted(&hub).count()), (0, 0), "{:#?}", hub.requests().lines());
    until_ended(&larder, &[]).await;
    // A GET of the same does.
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    until_ended(&larder, &[("filled", 1)]).await;
}

/// Promise P4, also between clients and what runs ahead of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_clients_that_pull_at_once_cost_one_fetch_of_everything() {
    let image = image(303, &[4 << 20, 1 << 20, 200_000, 1_000, 3 << 20]);
    let hub = hub_with(&image).await;
    let larder = eager(&hub, "").await;
    join_all((0..20).map(|_| pull(&larder, NAME, TAG))).await;
    larder.until_idle().await;
    for content in image.blobs() {
        assert_eq!(fetched(&hub, content.digest()).count(), 1, "{:#?}", hub.requests().lines());
    }
    assert_eq!(counted(&hub).count(), 1);
    larder.until(|metrics| ended(metrics) > 0.0).await;
    let metrics = larder.metrics().await;
    assert_eq!((ended(&metrics), metrics.prefetches("filled") + metrics.prefetches("needless")), (1.0, 1.0));
}

#[tokio::test]
async fn an_index_brings_the_image_that_clients_of_this_upstream_ask_for() {
    let first = index(304);
    let attestation = Image::builder().platform("unknown", "unknown").layer("provenance").build();
    let platform = |architecture, seed| {
        Image::builder().platform("linux", architecture).layer(Synthetic::new(seed, 150_000)).layer("both have this").build()
    };
    let [amd64, arm64] = [platform("amd64", 3_051), platform("arm64", 3_052)];
    let second = Image::index([&amd64, &attestation, &arm64]);
    let hub = hub_with(&first).await;
    hub.edit(NAME, |repository| repository.set_tag("2.0", &second));
    let larder = eager(&hub, "").await;

    // Nobody knows yet what is run here.
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    until_ended(&larder, &[("no-platform", 1)]).await;
    assert_eq!((counted(&hub).count(), blob_requests(&hub)), (1, 0));
    // One client runs arm64.
    assert_eq!(larder.get(manifest(&first.children()[1].manifest().digest)).await.status(), 200);
    until_ended(&larder, &[("no-platform", 1), ("filled", 1)]).await;

    hub.reset_records();
    assert_eq!(larder.get(manifest("2.0")).await.status(), 200);
    until_ended(&larder, &[("no-platform", 1), ("filled", 2)]).await;
    let manifests = counted(&hub).lines();
    assert_eq!(manifests.len(), 2, "{manifests:#?}");
    assert_eq!(counted(&hub).path_contains(&arm64.manifest().digest).count(), 1, "{manifests:#?}");
    assert_eq!(fetched(&hub, amd64.layers()[0].digest()).count() + fetched(&hub, attestation.layers()[0].digest()).count(), 0);

    // The client that follows finds all of it.
    hub.reset_records();
    assert_eq!(larder.get(manifest(&arm64.manifest().digest)).await.body, arm64.manifest().bytes);
    for content in arm64.blobs() {
        assert_here(&larder, &hub, content.digest()).await;
    }
    assert_eq!(hub.requests().count(), 0);
}

/// Promise P6: what nobody has asked for takes no other content's place.
#[tokio::test]
async fn nothing_is_evicted_for_what_nobody_has_asked_for() {
    let (first, second) = (image(306, &[600_000]), image(307, &[300_000, 300_000]));
    let hub = hub_with(&first).await;
    hub.edit(NAME, |repository| repository.set_tag("2.0", &second));
    let larder = eager(&hub, "cache.max_size = '1MB'").await;
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    until_ended(&larder, &[("filled", 1)]).await;
    assert_eq!(larder.get(manifest("2.0")).await.status(), 200);
    until_ended(&larder, &[("filled", 1), ("disk-short", 1)]).await;
    // One of its layers would have had room, and is of no use alone.
    assert_eq!(second.blobs().iter().map(|content| fetched(&hub, content.digest()).count()).sum::<usize>(), 0);
    assert_eq!(larder.metrics().await.get("evictions_total"), 0.0);
    assert_here(&larder, &hub, first.layers()[0].digest()).await;
    // For a client, room is made.
    assert_eq!(pull(&larder, NAME, "2.0").await, second.manifest().digest.as_str());
}

#[tokio::test]
async fn the_last_pulls_of_a_limit_are_left_to_clients() {
    let (first, second) = (image(308, &[50_000]), image(309, &[50_000]));
    let hub = hub_with(&first).await;
    hub.edit(NAME, |repository| repository.set_tag("2.0", &second));
    hub.configure(|config| config.rate_limit = Some(RateLimit::of(100)));
    let larder = eager(&hub, "").await;
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    until_ended(&larder, &[("filled", 1)]).await;
    let metrics = larder.metrics().await;
    let gauge = |name| metrics.get(&format!("upstream_ratelimit_{name}{{upstream=\"docker.io\"}}"));
    assert_eq!((gauge("limit"), gauge("remaining")), (100.0, 99.0));

    // Of these, two are left after the next pull.
    hub.configure(|config| config.rate_limit = Some(RateLimit::of(4)));
    assert_eq!(larder.get(manifest("2.0")).await.status(), 200);
    until_ended(&larder, &[("filled", 1), ("limit-near", 1)]).await;
    assert_eq!(second.blobs().iter().map(|content| fetched(&hub, content.digest()).count()).sum::<usize>(), 0);
    // A client has them all the same.
    assert_eq!(pull(&larder, NAME, "2.0").await, second.manifest().digest.as_str());
    assert_eq!(counted(&hub).count(), 2);
}

/// Promise P3: an upstream that is down is not asked again for what nobody waits for.
#[tokio::test]
async fn an_upstream_in_trouble_is_left_alone() {
    let image = image(311, &[50_000]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    larder.restart_with("cache.prefetch = true").await;
    hub.stop_listening().await;
    for target in [manifest(TAG), manifest(&image.manifest().digest)] {
        assert_eq!(larder.get(target).await.status(), 503, "its layers can be had from nobody");
    }
    let metrics = larder.metrics().await;
    assert_eq!((metrics.fills("failed"), metrics.prefetches("failed")), (0.0, 0.0));
    hub.resume().await.unwrap();
    larder.until_asking().await;
    assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
}

#[tokio::test]
async fn what_could_not_be_fetched_ahead_is_fetched_when_it_is_asked_for() {
    let (first, second) = (image(312, &[50_000, 60_000]), image(313, &[70_000]));
    let hub = hub_with(&first).await;
    hub.edit(NAME, |repository| repository.set_tag("2.0", &second));
    let fault = hub.fault(Fault::on(Listener::Cdn).path_contains(first.layers()[0].digest()).status(500));
    let larder = eager(&hub, "").await;
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    until_ended(&larder, &[("failed", 1)]).await;
    assert!(fault.fired() > 0);
    // For a while the upstream is not asked for more that nobody waits for,
    assert_eq!(larder.get(manifest("2.0")).await.status(), 200);
    until_ended(&larder, &[("failed", 1), ("upstream-trouble", 1)]).await;
    assert_eq!(fetched(&hub, second.layers()[0].digest()).count(), 0);
    // which is nothing to clients.
    hub.clear_faults();
    assert_eq!(pull(&larder, NAME, TAG).await, first.manifest().digest.as_str());
    assert_eq!(pull(&larder, NAME, "2.0").await, second.manifest().digest.as_str());
}

/// The registry may well be without them, and whose they are said that not everybody may have them.
#[tokio::test]
async fn foreign_layers_are_not_fetched() {
    let image = image(314, &[50_000, 60_000, 70_000]);
    let mut document: serde_json::Value = serde_json::from_slice(&image.manifest().bytes).unwrap();
    document["layers"][0]["urls"] = json!(["https://elsewhere.example/layer"]);
    document["layers"][1]["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
    let foreign = Manifest::new(Algorithm::Sha256, media_type::OCI_MANIFEST, document.to_string());
    let hub = hub_with(&image).await;
    hub.edit(NAME, |repository| repository.put_manifest(foreign.clone()));
    let larder = eager(&hub, "").await;
    assert_eq!(larder.get(manifest(&foreign.digest)).await.status(), 200);
    until_ended(&larder, &[("filled", 1)]).await;
    let counts: Vec<_> = image.blobs().iter().map(|content| fetched(&hub, content.digest()).count()).collect();
    assert_eq!(counts, [1, 0, 0, 1]);
}

/// What is not told apart by digest must be by repository: fetching ahead opens nothing to anybody else.
#[tokio::test]
async fn what_was_fetched_ahead_is_for_the_repository_that_has_it() {
    let image = image(315, &[50_000]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    hub.put(Repository::new("library/other"));
    let larder = eager(&hub, "").await;
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    until_ended(&larder, &[("filled", 1)]).await;
    assert_eq!(larder.get(format!("/v2/library/other/blobs/{layer}")).await.status(), 404);
    assert_here(&larder, &hub, layer).await;
}
