//! Start, drain, stop; the admin listener; the folder of the cache and its budget.

use larder_testkit::{Fault, Listener};
use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::support::{End, Larder, NAME, TAG, blob, fetched, hub_with, image, manifest, pull};

/// What has begun is finished; what has not is no longer begun.
#[tokio::test]
async fn on_a_request_to_stop_answers_under_way_are_finished_first() {
    for signal in [Signal::TERM, Signal::INT] {
        let image = image(1300, &[4 << 20]);
        let layer = image.layers()[0].digest();
        let hub = hub_with(&image).await;
        let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(layer).once().hold_at(2 << 20));
        let mut larder = Larder::of(&hub).await;
        assert_eq!(larder.admin_get("/readyz").await.status(), 200);
        let mut idle = larder.connect().await;
        assert_eq!(idle.ask("GET", "/v2/", &[]).await.status(), 200);
        let mut client = larder.connect().await;
        client.request("GET", &blob(layer), &[]).await;
        client.until_received(1 << 20).await;
        gate.until_held(1).await;

        larder.signal(signal);
        assert_eq!(idle.end().await, (End::Fin, Vec::new()));
        assert_eq!(larder.admin_get("/readyz").await.status(), 503);
        assert_eq!(larder.admin_get("/livez").await.status(), 200);
        assert!(TcpStream::connect(larder.address()).await.is_err(), "it still accepts connections");
        assert!(larder.is_running());
        gate.release();
        let download = client.download().await;
        assert_eq!((download.end, &download.digest), (End::Complete, layer));
        assert_eq!(larder.wait().code(), Some(0));
    }
}

#[tokio::test]
async fn a_second_request_to_stop_is_obeyed_at_once() {
    let image = image(1301, &[4 << 20]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(layer).once().hold_at(2 << 20));
    let mut larder = Larder::of(&hub).await;
    let mut client = larder.connect().await;
    client.request("GET", &blob(layer), &[]).await;
    client.until_received(1 << 20).await;
    gate.until_held(1).await;
    larder.signal(Signal::TERM);
    larder.until_logged("answers under way are finished first").await;
    assert!(larder.is_running());
    larder.signal(Signal::TERM);
    assert_eq!(larder.wait().code(), Some(0));
    assert_ne!(client.download().await.end, End::Complete);

    larder.start_again().await;
    pull(&larder, NAME, TAG).await;
}

/// Security rule 20.
#[tokio::test]
async fn health_and_metrics_are_at_a_listener_of_their_own_and_nothing_else_is() {
    let image = image(1302, &[1_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    pull(&larder, NAME, TAG).await;
    for target in ["/metrics", "/livez", "/readyz", "/debug/pprof/"] {
        assert_eq!(larder.get(target).await.status(), 404, "{target}");
    }
    for target in ["/v2/", &manifest(TAG), "/", "/debug/pprof/"] {
        assert_eq!(larder.admin_get(target).await.status(), 404, "{target}");
    }
    let metrics = larder.admin_get("/metrics").await;
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let text = String::from_utf8(metrics.body).unwrap();
    for unbounded in ["library", "sha256:", "127.0.0.1"] {
        assert!(!text.contains(&format!("\"{unbounded}")), "{unbounded} is a label");
    }
    assert_ne!(larder.address().port(), larder.admin().port());
}

/// Design, section 5: two processes never share a folder.
#[tokio::test]
async fn a_second_process_is_refused_the_folder_of_the_first() {
    let image = image(1303, &[1_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    let run = Larder::builder().config(&format!("cache.dir = {:?}", larder.cache())).run("serve");
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    assert!(run.said.contains("another process"), "{}", run.said);
    pull(&larder, NAME, TAG).await;
}

/// Issue 2, "Interfaces".
#[tokio::test]
async fn a_mistake_in_the_configuration_is_refused_with_its_place_and_a_suggestion() {
    for (snippet, words) in [
        ("freshness.tag = '1m'", ["freshness", "tags"]),
        ("cache.max_size = 'lots'", ["cache", "50GB"]),
        ("listen = 'nowhere'", ["listen", "127.0.0.1"]),
        ("freshness.missing = '5m'", ["missing", "60"]),
    ] {
        for command in ["serve", "check-config"] {
            let run = Larder::builder().config(snippet).run(command);
            assert_eq!(run.status.code(), Some(2), "{snippet}: {run:?}");
            for word in words.into_iter().chain(["larder.toml:"]) {
                assert!(run.said.contains(word), "{word} is not in {}", run.said);
            }
        }
    }
    assert!(Larder::builder().run("check-config").status.success());
}

/// Promise P6: what has no room is passed through.
#[tokio::test]
async fn a_blob_that_is_larger_than_the_cache_is_passed_through() {
    let image = image(1304, &[4 << 20]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "cache.max_size = '1MB'").await;
    for _ in 0..2 {
        assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
    }
    let part = larder.get_range(blob(layer), "bytes=3000000-3000099").await;
    assert_eq!((part.status(), &part.body[..]), (206, &image.layers()[0].bytes()[3_000_000..3_000_100]));
    assert!(!larder.has(layer));
    assert!(larder.metrics().await.requests("blob", "passed-through") >= 3.0);
    // Passing by is no reason to be believed (P1).
    hub.fault(Fault::on(Listener::Cdn).corrupt(4_000_000));
    assert_eq!(larder.download(blob(layer)).await.end, End::Fin);
}

/// Promise P6: the budget is never exceeded, and what is in use makes room last.
#[tokio::test]
async fn the_cache_makes_room_within_its_budget() {
    const BUDGET: u64 = 3_000_000;
    let first = image(1310, &[1_000_000]);
    let hub = hub_with(&first).await;
    let larder = Larder::with(&hub, "cache.max_size = '3MB'").await;
    pull(&larder, NAME, TAG).await;
    for seed in 1311..1321 {
        let image = image(seed, &[1_000_000]);
        hub.edit(NAME, |repository| repository.set_tag(format!("{seed}"), &image));
        assert_eq!(pull(&larder, NAME, seed).await, image.manifest().digest.as_str());
        let sizes = larder.cache_files().into_iter().filter_map(|file| std::fs::metadata(larder.cache().join(file)).ok());
        let used: u64 = sizes.map(|metadata| metadata.len()).sum();
        assert!(used <= BUDGET, "{used} bytes");
    }
    let metrics = larder.metrics().await;
    assert!(metrics.get("evictions_total") >= 8.0 && metrics.get("cache_used_bytes") <= BUDGET as f64);
    // What was evicted is fetched again.
    hub.reset_records();
    pull(&larder, NAME, TAG).await;
    assert!(fetched(&hub, first.layers()[0].digest()).count() <= 1);
}

/// Promise P6: where others need the disk, content passes through; that shows, and ends by itself.
#[tokio::test]
async fn what_others_need_of_the_disk_is_left_to_them_and_pulls_go_on() {
    let image = image(1320, &[100_000]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::with(&hub, "cache.min_free = \"100%\"").await;
    assert_eq!(larder.admin_get("/readyz").await.body, b"ready\n");
    let digest = pull(&larder, NAME, TAG).await;
    assert!(larder.cache_files().is_empty(), "{:?}", larder.cache_files());
    let ready = larder.admin_get("/readyz").await;
    assert_eq!(ready.status(), 200);
    assert!(ready.body.starts_with(b"ready, but nothing can be stored: no space"), "{}", String::from_utf8_lossy(&ready.body));
    assert_eq!(larder.metrics().await.get("cache_degraded"), 1.0);

    larder.restart_with("cache.min_free = \"1MB\"").await;
    assert_eq!(pull(&larder, NAME, TAG).await, digest);
    larder.until_idle().await;
    assert!(larder.has(image.layers()[0].digest()));
    assert_eq!(larder.metrics().await.get("cache_degraded"), 0.0);
    assert_eq!(larder.admin_get("/readyz").await.body, b"ready\n");
}
