//! Upstreams that mean harm: what they send is bounded before it is believed.

use larder_testkit::{Algorithm, Fault, Listener, Manifest, media_type};

use crate::support::{Larder, NAME, TAG, blob, hub_with, image, manifest, pull};

const GIB: i64 = 1 << 30;

/// Security rule 9; fault matrix, 17.
#[tokio::test]
async fn answers_without_bounds_are_given_up_and_cost_no_memory() {
    let image = image(1000, &[100_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    let before = larder.peak_memory();
    let registry = || Fault::on(Listener::Registry).method("GET").path_contains("/manifests/");
    for fault in [registry().resize(5 * GIB), registry().resize(5 * GIB).chunked(), registry().endless()] {
        hub.fault(fault.clone());
        let answer = larder.get(manifest(&image.manifest().digest)).await;
        assert_eq!(answer.error(), (502, "MANIFEST_INVALID".to_owned()), "{fault:?}");
        hub.clear_faults();
    }
    hub.fault(Fault::on(Listener::Registry).path_contains("/tags/list").endless());
    assert_eq!(larder.get(format!("/v2/{NAME}/tags/list")).await.status(), 502);
    hub.fault(Fault::on(Listener::Registry).path_contains("/referrers/").endless());
    assert_eq!(larder.get(format!("/v2/{NAME}/referrers/{}", image.manifest().digest)).await.status(), 502);
    hub.clear_faults();
    assert!(larder.cache_files().is_empty());
    let grown = larder.peak_memory() - before;
    // Five answers, of which each may be collected up to its own bound before it is given up.
    assert!(grown < 100 << 20, "{} MiB more memory", grown >> 20);
    assert!(hub.requests().body_bytes() < 200 << 20);
    pull(&larder, NAME, TAG).await;
}

/// Security rule 9.
#[tokio::test]
async fn a_token_without_end_is_no_token() {
    let image = image(1001, &[1_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    let before = larder.peak_memory();
    for fault in [Fault::on(Listener::Token).endless(), Fault::on(Listener::Token).html()] {
        hub.fault(fault.clone());
        // Whoever looked whether it answers again has had one that is good.
        hub.revoke_tokens();
        let answer = larder.get(manifest(TAG)).await;
        assert_eq!(answer.error(), (502, "UNAVAILABLE".to_owned()), "{fault:?}");
        hub.clear_faults();
        larder.until_asking().await;
    }
    assert!(larder.peak_memory() - before < 16 << 20);
    pull(&larder, NAME, TAG).await;
}

/// Security rule 9: a parser that recurses is a way to overflow a stack.
#[tokio::test]
async fn a_document_of_brackets_is_refused() {
    let hub = hub_with(&image(1002, &[1_000])).await;
    let larder = Larder::of(&hub).await;
    for (media_type, start) in [(media_type::OCI_INDEX, "["), (media_type::OCI_MANIFEST, "{\"config\":")] {
        let document = Manifest::new(Algorithm::Sha256, media_type, start.repeat(3_000_000 / start.len()));
        hub.edit(NAME, |repository| repository.put_manifest(document.clone()));
        assert_eq!(larder.get(manifest(&document.digest)).await.error(), (502, "MANIFEST_INVALID".to_owned()));
    }
    // What it is not known how to read is not read.
    let opaque = Manifest::new(Algorithm::Sha256, "application/vnd.example+json", "[".repeat(3_000_000));
    hub.edit(NAME, |repository| repository.put_manifest(opaque.clone()));
    assert!(larder.get(manifest(&opaque.digest)).await.body == opaque.bytes);
    pull(&larder, NAME, TAG).await;
}

/// What comes in the headers of an upstream goes nowhere.
#[tokio::test]
async fn headers_of_an_upstream_are_not_passed_on() {
    let image = image(1003, &[1_000]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    for listener in [Listener::Registry, Listener::Cdn] {
        for (name, value) in [
            ("Set-Cookie", "canary=1"),
            ("X-Registry-Supports-Signatures", "1"),
            ("Strict-Transport-Security", "max-age=1"),
            ("Cache-Control", "no-store"),
            ("Etag", "\"canary\""),
        ] {
            hub.fault(Fault::on(listener).set_header(name, value));
        }
    }
    let larder = Larder::of(&hub).await;
    for target in [manifest(TAG), blob(layer), format!("/v2/{NAME}/tags/list")] {
        let answer = larder.get(&target).await;
        assert_eq!(answer.status(), 200);
        for name in ["set-cookie", "x-registry-supports-signatures", "strict-transport-security"] {
            assert_eq!(answer.header(name), None, "{target}");
        }
        assert!(!format!("{:?}", answer.head).contains("canary"), "{answer:?}");
    }
}

/// Fault matrix, 10: an upstream that holds one body back holds back nothing else.
#[tokio::test]
async fn an_upstream_that_hangs_on_one_blob_delays_no_other() {
    let image = image(1004, &[4 << 20, 200_000]);
    let (stuck, other) = (image.layers()[0].digest(), image.layers()[1].digest());
    let hub = hub_with(&image).await;
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(stuck).once().hold_at(1 << 20));
    let larder = Larder::of(&hub).await;
    let mut waiting = larder.connect().await;
    waiting.request("GET", &blob(stuck), &[]).await;
    gate.until_held(1).await;
    assert_eq!(&larder.download(blob(other)).await.digest, other);
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    gate.release();
    assert_eq!(&waiting.download().await.digest, stuck);
}

/// Promise P8: an error comes within its deadline.
#[tokio::test]
async fn an_upstream_that_never_answers_is_not_waited_for_without_end() {
    let image = image(1005, &[1_000]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "timeouts.answer = '1s'").await;
    hub.fault(Fault::on(Listener::Token).hold());
    for target in [manifest(TAG), blob(layer), format!("/v2/{NAME}/tags/list")] {
        let answer = larder.get(&target).await;
        assert_eq!(answer.error(), (504, "UNAVAILABLE".to_owned()), "{target}");
    }
    hub.clear_faults();
    pull(&larder, NAME, TAG).await;
}
