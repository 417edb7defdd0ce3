//! Issue 5, "Offline": what cannot be asked for is noted, for whoever brings it from elsewhere.

use std::time::Duration;

use larder_testkit::{Fault, Listener};
use serde_json::Value;

use crate::support::{Larder, NAME, TAG, blob, hub_with, image, manifest, pull};

/// What `larder missing` tells, as name, kind and how often.
fn missing(larder: &Larder, names: &[&str]) -> Vec<(String, String, u64)> {
    let run = larder.tool(&[&["missing", "--json"], names].concat());
    assert_eq!(run.status.code(), Some(0), "{run:?}");
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let mut told: Vec<_> = run
        .said
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|line| (word(&line["name"]), word(&line["kind"]), line["times"].as_u64().unwrap()))
        .collect();
    told.sort();
    told
}

#[tokio::test]
async fn what_could_not_be_had_is_listed_until_it_is_here() {
    let image = image(900, &[1_000]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    assert_eq!(larder.get(manifest("absent")).await.status(), 404);
    assert_eq!(missing(&larder, &[]), []);
    assert_eq!(larder.tool(&["missing"]).said.lines().last(), Some("nothing is missing"));

    hub.stop_listening().await;
    let layer = image.layers()[0].digest();
    for _ in 0..3 {
        assert_eq!(larder.get(manifest(TAG)).await.status(), 502);
    }
    assert_eq!(larder.head(blob(layer)).await.status(), 502);
    let tag = format!("docker.io/{NAME}:{TAG}");
    let expected = [(tag.clone(), "manifest".to_owned(), 1), (format!("docker.io/{NAME}@{layer}"), "blob".to_owned(), 1)];
    assert_eq!(missing(&larder, &[]), expected);
    assert_eq!(missing(&larder, &[&tag]), expected[..1]);
    assert_eq!(missing(&larder, &["quay.io"]), []);
    let table = larder.tool(&["missing"]).said;
    assert!(table.lines().any(|line| line.starts_with(&tag) && line.ends_with("just now")), "{table}");

    // It is known on the folder alone as well, and counted once in a minute at the most.
    larder.restart().await;
    assert_eq!(larder.get(manifest(TAG)).await.status(), 502);
    larder.stop(rustix::process::Signal::TERM);
    assert_eq!(missing(&larder, &[&tag]), [(tag.clone(), "manifest".to_owned(), 2)]);

    hub.resume().await.unwrap();
    larder.start_again().await;
    pull(&larder, NAME, TAG).await;
    assert_eq!(missing(&larder, &[]), []);
}

/// Who gives up before the upstream is given up has asked in vain as well.
#[tokio::test]
async fn what_clients_would_not_wait_for_any_longer_is_listed() {
    let image = image(902, &[1_000]);
    let hub = hub_with(&image).await;
    // A question has two fifths of that, and a third of it tells.
    let larder = Larder::with(&hub, "timeouts.answer = '5s'").await;
    let layer = image.layers()[0].digest();
    let targets = [manifest(TAG), manifest(&image.manifest().digest), blob(layer)];
    let _hole = hub.fault(Fault::on(Listener::Registry).hold());
    let mut clients = Vec::new();
    for target in &targets {
        let mut client = larder.connect().await;
        client.request("GET", target, &[]).await;
        clients.push(client);
    }
    tokio::time::sleep(Duration::from_millis(1200)).await;
    drop(clients);
    let references = [format!(":{TAG}"), format!("@{}", image.manifest().digest), format!("@{layer}")];
    larder.until_missing(&references.map(|reference| format!("docker.io/{NAME}{reference}"))).await;
}

/// What nobody is asked for has no turn to wait for: a client that asks for very much is told at once, all the same.
#[tokio::test]
async fn misses_are_refused_at_once_however_many_there_are() {
    let hub = hub_with(&image(901, &[1_000])).await;
    let larder = Larder::with(&hub, "offline = true\n limits.misses_per_client = 1\n timeouts.answer = '2s'").await;
    let misses = futures::future::join_all((0..100).map(|number| larder.get(manifest(format!("absent-{number}"))))).await;
    for miss in misses {
        assert_eq!(miss.error(), (404, "MANIFEST_UNKNOWN".to_owned()));
    }
    assert_eq!(hub.requests().count(), 0);
    assert_eq!(missing(&larder, &[]).len(), 100);
}
