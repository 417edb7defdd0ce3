//! Who may read what: nothing private is served to someone who could not have pulled it upstream (promise P7).

use larder_testkit::{Algorithm, Auth, Fault, Hub, Image, Listener, Manifest, Repository, Synthetic, media_type};
use serde_json::json;

use crate::support::{Larder, NAME, TAG, blob, hub_with, image, manifest, prepare, pull};

const ACCOUNT: &str = "username = 'larder', password = 'canary-password', open_to_all = true";

/// Security rule 1: what an account can see, everyone could.
#[tokio::test]
async fn an_account_is_refused_unless_the_operator_opens_it_to_all() {
    let hub = hub_with(&image(800, &[1_000])).await;
    for command in ["serve", "check-config"] {
        let larder = Larder::builder().upstream("docker.io", &hub);
        let run = larder.config("upstreams.'docker.io' = { username = 'larder', password = 'canary-password' }").run(command);
        assert_eq!(run.status.code(), Some(2), "{run:?}");
        assert!(run.said.contains("open_to_all") && run.said.contains("larder.toml:"), "{}", run.said);
        assert!(!run.said.contains("canary"), "{}", run.said);
    }
    assert_eq!(hub.requests().count(), 0);
}

/// Security rule 18: nor is it sent where others listen.
#[tokio::test]
async fn an_account_at_an_upstream_in_plain_http_is_refused() {
    let config = format!("upstreams.'reg.example.org' = {{ url = 'http://reg.example.org', {ACCOUNT} }}");
    let run = Larder::builder().config(&config).run("check-config");
    assert_eq!(run.status.code(), Some(2), "{run:?}");
    assert!(run.said.contains("url") && !run.said.contains("canary"), "{}", run.said);
    let config = config.replace("http://", "https://");
    assert!(Larder::builder().config(&config).run("check-config").status.success());
    let config = config.replace("open_to_all", "realm = 'http://reg.example.org/token', open_to_all");
    assert_eq!(Larder::builder().config(&config).run("check-config").status.code(), Some(2));
}

/// Security rule 1; case 31: with the operator's word, the account is used and what it gives is shared.
#[tokio::test]
async fn an_account_that_is_open_to_all_is_used_for_all() {
    let image = image(801, &[100_000]);
    for auth in [Auth::Bearer, Auth::Basic] {
        let hub = prepare(&image).auth(auth).user("larder", "canary-password").private(NAME, &["larder"]).start().await.unwrap();
        let larder = Larder::with(&hub, &format!("upstreams.'docker.io' = {{ {ACCOUNT} }}")).await;
        assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str(), "{auth:?}");
        hub.stop_listening().await;
        pull(&larder, NAME, TAG).await;
    }
}

/// Security rule 2; case 31: that content is on our disk does not mean that the repository asked has it.
#[tokio::test]
async fn content_of_one_repository_is_not_served_under_the_name_of_another() {
    let private = image(802, &[100_000]);
    let layer = private.layers()[0].digest();
    let hub = prepare(&private).start().await.unwrap();
    hub.put(Repository::new("library/public").tag(TAG, &image(803, &[1_000])));
    let other = hub_with(&image(804, &[1_000])).await;
    let larder = Larder::builder().upstream("docker.io", &hub).upstream("ghcr.io", &other).start().await;
    pull(&larder, NAME, TAG).await;
    pull(&larder, "library/public", TAG).await;
    for (base, outage) in [("/v2/library/public", false), ("/v2/ghcr.io/library/app", false), ("/v2/library/public", true)] {
        if outage {
            hub.stop_listening().await;
        }
        for (kind, digest) in [("blobs", layer), ("manifests", &private.manifest().digest)] {
            for method in ["GET", "HEAD"] {
                let answer = larder.ask(method, &format!("{base}/{kind}/{digest}"), &[]).await;
                assert_eq!(answer.status(), 404, "{method} {base}/{kind}");
                assert_ne!(answer.header("docker-content-digest"), Some(digest.as_str()));
            }
        }
    }
    // And the one that has it still serves it.
    pull(&larder, NAME, TAG).await;
}

/// Security rule 2: naming the digest of what somebody else has proves nothing.
#[tokio::test]
async fn a_hostile_manifest_that_names_private_content_does_not_open_it() {
    let private = image(805, &[100_000]);
    let hub = prepare(&private).user("larder", "canary-password").private(NAME, &["larder"]).start().await.unwrap();
    let hostile = hub_with(&image(806, &[1_000])).await;
    let claim = Manifest::new(Algorithm::Sha256, media_type::OCI_MANIFEST, private.manifest().bytes.slice(..).to_vec());
    let claiming_index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": [private.manifest().descriptor()],
    });
    let claiming_index = Manifest::new(Algorithm::Sha256, media_type::OCI_INDEX, claiming_index.to_string());
    let blobs: Vec<_> =
        private.blobs().iter().map(|blob| json!({"mediaType": "a/b", "digest": blob.digest(), "size": blob.size()})).collect();
    let claiming_image = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": blobs[0], "layers": blobs, "annotations": {"x": "y"},
    });
    let claiming_image = Manifest::new(Algorithm::Sha256, media_type::OCI_MANIFEST, claiming_image.to_string());
    hostile.edit("evil/app", |repository| {
        repository.put_manifest(claiming_index.clone());
        repository.put_manifest(claiming_image.clone());
    });
    let larder = Larder::builder()
        .upstream("docker.io", &hub)
        .config(&format!("upstreams.'docker.io' = {{ {ACCOUNT} }}"))
        .upstream("evil.test", &hostile)
        .start()
        .await;
    pull(&larder, NAME, TAG).await;
    for document in [&claiming_index, &claiming_image] {
        assert_eq!(larder.get(format!("/v2/evil.test/evil/app/manifests/{}", document.digest)).await.status(), 200);
    }
    let layer = private.layers()[0].digest();
    assert_eq!(larder.get(format!("/v2/evil.test/evil/app/blobs/{layer}")).await.error(), (404, "BLOB_UNKNOWN".to_owned()));
    assert_eq!(larder.head(format!("/v2/evil.test/evil/app/blobs/{layer}")).await.status(), 404);
    let stolen = larder.get(format!("/v2/evil.test/evil/app/manifests/{}", claim.digest)).await;
    assert_eq!(stolen.error(), (404, "MANIFEST_UNKNOWN".to_owned()));
}

/// The same while the private content is on its way.
#[tokio::test]
async fn content_in_flight_is_as_private_as_content_at_rest() {
    let private = image(807, &[4 << 20]);
    let layer = private.layers()[0].digest();
    let hub = prepare(&private).start().await.unwrap();
    hub.put(Repository::new("library/public").tag(TAG, &image(808, &[1_000])));
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(layer).once().hold_at(2 << 20));
    let larder = Larder::of(&hub).await;
    let mut reader = larder.connect().await;
    reader.request("GET", &blob(layer), &[]).await;
    reader.until_received(1 << 20).await;
    gate.until_held(1).await;
    for method in ["GET", "HEAD"] {
        let answer = larder.ask(method, &format!("/v2/library/public/blobs/{layer}"), &[]).await;
        assert_eq!(answer.status(), 404);
    }
    gate.release();
    assert_eq!(&reader.download().await.digest, layer);
}

/// Security rule 2: another repository that has it too is believed when its upstream says so, and nothing is fetched twice.
#[tokio::test]
async fn content_that_another_repository_has_as_well_is_served_after_its_upstream_said_so() {
    let image = image(809, &[100_000]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let copy = hub_with(&image).await;
    let larder = Larder::builder().upstream("docker.io", &hub).upstream("ghcr.io", &copy).start().await;
    pull(&larder, NAME, TAG).await;
    let answer = larder.get(format!("/v2/ghcr.io/library/app/blobs/{layer}")).await;
    assert_eq!((answer.status(), answer.cache_status()), (200, "larder; fwd=stale; fwd-status=200; detail=revalidated"));
    assert_eq!(copy.requests().method("GET").path_contains(layer).count(), 0);
}

/// Security rule 4: the URLs in a manifest are not ours to follow (CVE-2020-15157).
#[tokio::test]
async fn the_urls_of_a_foreign_layer_are_never_followed() {
    let trap = Hub::builder().start().await.unwrap();
    let foreign = larder_testkit::Blob::from(Synthetic::new(810, 1_000));
    let config = larder_testkit::Blob::from("{}");
    let document = json!({
        "schemaVersion": 2,
        "mediaType": media_type::DOCKER_MANIFEST,
        "config": {"mediaType": media_type::DOCKER_CONFIG, "digest": config.digest(), "size": 2},
        "layers": [{
            "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "digest": foreign.digest(),
            "size": 1_000,
            "urls": [format!("{}/v2/library/app/blobs/{}", trap.url(), foreign.digest())],
        }],
    });
    let document = Manifest::new(Algorithm::Sha256, media_type::DOCKER_MANIFEST, document.to_string());
    let hub = hub_with(&image(811, &[1_000])).await;
    hub.edit(NAME, |repository| {
        repository.put_manifest(document.clone());
        repository.put_blob(config.clone());
    });
    let larder = Larder::of(&hub).await;
    assert_eq!(larder.get(manifest(&document.digest)).await.body, document.bytes);
    assert_eq!(larder.get(blob(foreign.digest())).await.error(), (404, "BLOB_UNKNOWN".to_owned()));
    assert_eq!(trap.traffic(Listener::Registry).accepted, 0);
}

/// Security rule 7 (CVE-2021-41190): a document is one thing to all readers.
#[tokio::test]
async fn a_document_that_is_two_things_is_refused() {
    let hub = hub_with(&image(812, &[1_000])).await;
    let larder = Larder::of(&hub).await;
    let real = image(813, &[1_000]);
    let mut both: serde_json::Value = serde_json::from_slice(&real.manifest().bytes).unwrap();
    both["manifests"] = json!([real.manifest().descriptor()]);
    let index = Image::index([&real]);
    for (media_type, document) in [
        (media_type::OCI_MANIFEST, both.to_string().into_bytes()),
        // It says that it is an index, and comes as an image.
        (media_type::OCI_MANIFEST, index.manifest().bytes.to_vec()),
        (media_type::OCI_INDEX, real.manifest().bytes.to_vec()),
        (media_type::OCI_MANIFEST, b"{\"schemaVersion\":2".to_vec()),
    ] {
        let document = Manifest::new(Algorithm::Sha256, media_type, document);
        hub.edit(NAME, |repository| repository.put_manifest(document.clone()));
        let answer = larder.get(manifest(&document.digest)).await;
        assert_eq!(answer.error(), (502, "MANIFEST_INVALID".to_owned()), "{:?}", document.bytes);
    }
    assert!(larder.cache_files().is_empty());
}

/// Security rule 7: nor does it become another thing later, under whatever name it comes.
#[tokio::test]
async fn the_same_bytes_under_a_second_type_are_refused_and_the_first_is_still_served() {
    let bytes = r#"{"schemaVersion":2,"layers":[]}"#;
    let document = Manifest::new(Algorithm::Sha256, media_type::OCI_MANIFEST, bytes);
    let hub = hub_with(&image(814, &[1_000])).await;
    for name in [NAME, "library/other"] {
        hub.edit(name, |repository| repository.put_manifest(document.clone()));
    }
    let retyped = Fault::on(Listener::Registry).path_contains("library/other/manifests/1.0");
    hub.fault(retyped.answer(200, &[("Content-Type", media_type::DOCKER_MANIFEST)], bytes));
    let larder = Larder::of(&hub).await;
    assert_eq!(larder.get(manifest(&document.digest)).await.header("content-type"), Some(media_type::OCI_MANIFEST));
    let second = larder.get("/v2/library/other/manifests/1.0").await;
    assert_eq!(second.error(), (502, "MANIFEST_INVALID".to_owned()));
    for target in [manifest(&document.digest), format!("/v2/library/other/manifests/{}", document.digest)] {
        let answer = larder.get(&target).await;
        assert_eq!((answer.header("content-type"), &answer.body[..]), (Some(media_type::OCI_MANIFEST), bytes.as_bytes()));
    }
}
