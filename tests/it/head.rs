//! HEAD: what GET would say, without a body, and without fetching one.

use larder_testkit::{Image, Listener};

use crate::support::{Larder, NAME, TAG, blob, checked, counted, hub_with, image, index, manifest, pull};

/// Case 2.
#[tokio::test]
async fn a_head_of_a_manifest_says_what_a_get_says_cold_and_cached() {
    let index = index(200);
    let hub = hub_with(&index).await;
    let larder = Larder::of(&hub).await;
    let describe = |answer: &crate::support::Answer| {
        let names = ["content-type", "content-length", "docker-content-digest", "etag"];
        (answer.status(), names.map(|name| answer.header(name).unwrap().to_owned()))
    };
    let cold = larder.head(manifest(TAG)).await;
    assert_eq!((checked(&hub).count(), counted(&hub).count()), (1, 0));
    let got = larder.get(manifest(TAG)).await;
    assert_eq!(got.body, index.manifest().bytes);
    let cached = larder.head(manifest(TAG)).await;
    assert_eq!(describe(&cold), describe(&got));
    assert_eq!(describe(&cached), describe(&got));
    assert_eq!(got.header("content-type"), Some(index.manifest().media_type.as_str()));

    let child = &index.children()[0].manifest().digest;
    hub.reset_records();
    let cold = larder.head(manifest(child)).await;
    assert_eq!((checked(&hub).count(), counted(&hub).count()), (1, 0));
    assert_eq!(describe(&cold), describe(&larder.get(manifest(child)).await));
}

#[tokio::test]
async fn nothing_follows_the_head_of_an_answer_to_head() {
    let image = image(201, &[100_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    pull(&larder, NAME, TAG).await;
    let mut connection = larder.connect().await;
    for target in [manifest(TAG), manifest("absent"), blob(image.layers()[0].digest()), "/v2/".to_owned(), "/v2/x".to_owned()] {
        let answer = connection.ask("HEAD", &target, &[]).await;
        assert!(answer.header("content-length").is_some(), "{target}");
    }
    // Had there been a byte of a body, this answer would not parse.
    assert_eq!(connection.ask("GET", "/v2/", &[]).await.body, b"{}");
}

#[tokio::test]
async fn a_head_of_a_blob_never_fetches_it() {
    let image = image(202, &[500_000]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    for headers in [&[][..], &[("Range", "bytes=100-199")]] {
        let answer = larder.ask("HEAD", &blob(layer), headers).await;
        assert_eq!((answer.status(), answer.header("content-length")), (200, Some("500000")));
        assert_eq!(answer.header("docker-content-digest"), Some(layer.as_str()));
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    }
    assert_eq!(hub.requests().method("GET").path_contains(layer).count(), 0);
    assert!(larder.cache_files().is_empty());

    larder.download(blob(layer)).await;
    larder.until_idle().await;
    hub.reset_records();
    let cached = larder.ask("HEAD", &blob(layer), &[("Range", "bytes=100-199")]).await;
    assert_eq!((cached.status(), cached.header("content-length")), (200, Some("500000")));
    assert_eq!(hub.requests().count(), 0);
}

/// Upstreams that know no HEAD are asked for a byte, not for everything.
#[tokio::test]
async fn an_upstream_without_head_still_tells_what_it_has() {
    let image = image(203, &[500_000]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    hub.configure(|config| (config.head, config.redirect_blobs) = (false, false));
    let larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    let answer = larder.head(blob(layer)).await;
    assert_eq!((answer.status(), answer.header("content-length")), (200, Some("500000")));
    assert!(hub.requests().on(Listener::Registry).path_contains(layer).body_bytes() < 10_000);
    let answer = larder.head(manifest(TAG)).await;
    assert_eq!(answer.header("docker-content-digest"), Some(image.manifest().digest.as_str()));
    assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
}

#[tokio::test]
async fn a_head_of_what_is_in_flight_waits_for_nothing_but_its_size() {
    let image: Image = image(204, &[2 << 20]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let gate = hub.fault(larder_testkit::Fault::on(Listener::Cdn).path_contains(layer).once().hold_at(1000));
    let larder = Larder::of(&hub).await;
    let mut reader = larder.connect().await;
    reader.request("GET", &blob(layer), &[]).await;
    gate.until_held(1).await;
    let answer = larder.head(blob(layer)).await;
    assert_eq!((answer.status(), answer.header("content-length")), (200, Some("2097152")));
    assert_eq!(hub.requests().method("HEAD").path_contains(layer).count(), 0);
    gate.release();
    assert_eq!(&reader.download().await.digest, layer);
}
