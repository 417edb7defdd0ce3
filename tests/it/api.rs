//! The registry API beside manifests and blobs by name: the version check, media types, encodings, methods, lists, referrers.

use larder_testkit::{Algorithm, Fault, Image, Listener, Manifest, Repository, Synthetic, media_type};
use serde_json::json;

use crate::support::{Larder, NAME, TAG, blob, hub_with, image, index, manifest, pull};

/// Case 1.
#[tokio::test]
async fn the_version_check_is_answered_while_the_upstream_is_gone() {
    let hub = hub_with(&image(400, &[1_000])).await;
    hub.stop_listening().await;
    let larder = Larder::of(&hub).await;
    for target in ["/v2/", "/v2", "/v2/?ns=docker.io", "/docker.io/v2/", "/docker.io/v2"] {
        let answer = larder.get(target).await;
        assert_eq!((answer.status(), &answer.body[..]), (200, &b"{}"[..]), "{target}");
        assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
        assert_eq!(answer.header("www-authenticate"), None);
    }
}

/// Case 10: a client's `Accept` is its own affair, and never decides what is cached.
#[tokio::test]
async fn whatever_a_client_accepts_it_gets_the_document_that_the_tag_names() {
    let index = index(401);
    let hub = hub_with(&index).await;
    hub.configure(|config| config.accept_sensitive = true);
    let larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    let docker = ("Accept", media_type::DOCKER_MANIFEST);
    let lines = [docker, ("Accept", media_type::DOCKER_LIST), ("Accept", media_type::OCI_MANIFEST), ("Accept", "text/html")];
    for accept in [&[docker][..], &[("Accept", "*/*")], &[], &lines] {
        let answer = larder.ask("GET", &manifest(TAG), accept).await;
        assert_eq!((answer.status(), &answer.body[..]), (200, &index.manifest().bytes[..]), "{accept:?}");
        assert_eq!(answer.header("content-type"), Some(media_type::OCI_INDEX));
    }
    for record in hub.requests().on(Listener::Registry).path_contains("/manifests/").records() {
        let accept = record.headers.get("accept").unwrap();
        for wanted in [media_type::OCI_INDEX, media_type::OCI_MANIFEST, media_type::DOCKER_LIST, media_type::DOCKER_MANIFEST] {
            assert!(accept.contains(wanted), "{wanted} is not in {accept}");
        }
    }
}

/// Case 11.
#[tokio::test]
async fn manifests_are_passed_on_byte_for_byte_whatever_they_are() {
    let hub = hub_with(&image(402, &[1_000])).await;
    let larder = Larder::of(&hub).await;
    let padding = " ".repeat(4_000_000);
    let odd = "{\n\t \"schemaVersion\" :2 ,\r\n\"layers\":[ ]  ,\"x\":\"\\u00e4\"}\n\n".to_owned();
    let schema1 = r#"{"schemaVersion":1,"name":"x","tag":"1","fsLayers":[],"history":[]}"#.to_owned();
    for (tag, media_type, document) in [
        ("odd", media_type::OCI_MANIFEST, odd),
        ("large", media_type::OCI_MANIFEST, format!(r#"{{"schemaVersion":2,"layers":[]{padding}}}"#)),
        ("unknown", "application/vnd.example.thing.v9+json", r#"{"thing":[1,2,3]}"#.to_owned()),
        ("schema1", "application/vnd.docker.distribution.manifest.v1+prettyjws", schema1),
    ] {
        let document = Manifest::new(Algorithm::Sha256, media_type, document);
        hub.edit(NAME, |repository| repository.put_manifest(document.clone()));
        for _ in 0..2 {
            let answer = larder.get(manifest(&document.digest)).await;
            assert_eq!((answer.status(), answer.header("content-type")), (200, Some(media_type)), "{tag}");
            assert_eq!(answer.body, document.bytes, "{tag}");
        }
    }
}

/// Case 12.
#[tokio::test]
async fn content_is_never_encoded_whatever_the_client_offers() {
    let image = image(403, &[100_000]);
    let layer = &image.layers()[0];
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    let offer = [("Accept-Encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5")];
    for _ in 0..2 {
        for (target, bytes) in [(blob(layer.digest()), layer.bytes()), (manifest(TAG), image.manifest().bytes.clone())] {
            let answer = larder.ask("GET", &target, &offer).await;
            assert_eq!((answer.header("content-encoding"), &answer.body[..]), (None, &bytes[..]));
            assert_eq!(answer.head.header("content-length"), Some(bytes.len().to_string().as_str()));
        }
        larder.until_idle().await;
    }
    let asked = hub.requests();
    let other = asked.filter(|record| record.headers.get("accept-encoding") != Some("identity"));
    assert_eq!(other.lines(), Vec::<String>::new());
}

/// Case 12; security rule 16.
#[tokio::test]
async fn content_that_comes_encoded_is_refused_and_not_kept() {
    let image = image(404, &[100_000]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    hub.fault(Fault::on(Listener::Cdn).gzip());
    hub.fault(Fault::on(Listener::Registry).method("GET").path_contains("/manifests/").gzip());
    assert_eq!(larder.get(manifest(TAG)).await.error(), (502, "UNAVAILABLE".to_owned()));
    assert_eq!(larder.get(blob(layer)).await.error(), (502, "UNAVAILABLE".to_owned()));
    assert!(larder.cache_files().is_empty());
    hub.clear_faults();
    pull(&larder, NAME, TAG).await;
}

/// Case 29.
#[tokio::test]
async fn a_mirror_takes_nothing() {
    let image = image(405, &[1_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    let uploads = format!("/v2/{NAME}/blobs/uploads/");
    let session = format!("{uploads}123");
    let (by_tag, by_digest) = (manifest(TAG), manifest(&image.manifest().digest));
    let layer = blob(image.layers()[0].digest());
    for (method, target) in [
        ("POST", &uploads),
        ("PATCH", &session),
        ("PUT", &session),
        ("GET", &session),
        ("DELETE", &session),
        ("PUT", &by_tag),
        ("PUT", &by_digest),
        ("DELETE", &by_tag),
        ("DELETE", &by_digest),
        ("DELETE", &layer),
        ("POST", &"/v2/".to_owned()),
        ("OPTIONS", &by_tag),
        ("TRACE", &by_tag),
        ("PURGE", &by_tag),
    ] {
        let answer = larder.ask(method, target, &[]).await;
        assert_eq!(answer.error(), (405, "UNSUPPORTED".to_owned()), "{method} {target}");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    }
    assert_eq!(hub.requests().count(), 0);
    assert!(larder.cache_files().is_empty());
}

/// What is not in the specification is not there, and says so in the specification's form.
#[tokio::test]
async fn what_is_not_the_api_is_not_found() {
    let hub = hub_with(&image(406, &[1_000])).await;
    let larder = Larder::of(&hub).await;
    for target in [
        "/",
        "/v1/_ping",
        "/v1/search?q=x",
        "/v2/_catalog",
        "/v2/library/app",
        "/v2/library/app/manifests/",
        "/metrics",
        "/x/y/v2/",
    ] {
        let answer = larder.get(target).await;
        assert!(matches!(answer.status(), 400 | 404), "{target}: {answer:?}");
        answer.error_code();
    }
    assert_eq!(hub.requests().count(), 0);
}

/// Design, section 3: sorted, paged, with the mirror's own links.
#[tokio::test]
async fn tags_are_listed_in_pages_under_the_address_that_was_asked() {
    let image = image(407, &[1_000]);
    let hub = hub_with(&image).await;
    hub.edit(NAME, |repository| {
        for tag in ["c", "a", "b"] {
            repository.set_tag(tag, &image);
        }
    });
    let larder = Larder::of(&hub).await;
    let all = larder.get(format!("/v2/{NAME}/tags/list")).await;
    assert_eq!(all.json(), json!({"name": NAME, "tags": ["1.0", "a", "b", "c"]}));
    let mut target = format!("/v2/docker.io/{NAME}/tags/list?n=2&ns=docker.io");
    let mut pages = Vec::new();
    loop {
        let page = larder.get(&target).await;
        pages.push(page.json()["tags"].clone());
        let Some(link) = page.header("link") else { break };
        let next = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
        assert!(next.starts_with(&format!("/v2/docker.io/{NAME}/tags/list?")) && next.contains("ns=docker.io"), "{next}");
        target = next.to_owned();
    }
    assert_eq!(pages, [json!(["1.0", "a"]), json!(["b", "c"])]);
    let none = larder.get(format!("/v2/{NAME}/tags/list?n=0")).await;
    assert_eq!((none.json()["tags"].clone(), none.header("link")), (json!([]), None));
}

/// Design, section 3: with stale fallback.
#[tokio::test]
async fn a_list_of_tags_outlives_its_upstream() {
    let image = image(408, &[1_000]);
    let hub = hub_with(&image).await;
    let mut larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    let target = format!("/v2/{NAME}/tags/list");
    let listed = larder.get(&target).await.json();
    hub.stop_listening().await;
    for _ in 0..2 {
        let stale = larder.get(&target).await;
        assert_eq!((stale.json(), stale.cache_status()), (listed.clone(), "larder; fwd=stale; detail=stale-unreachable"));
        larder.restart().await;
    }
    assert_eq!(larder.get("/v2/library/other/tags/list").await.error(), (502, "UNAVAILABLE".to_owned()));
}

/// Case 28.
#[tokio::test]
async fn referrers_are_passed_on_filtered_cached_and_kept_for_an_outage() {
    let image = image(409, &[1_000]);
    let sbom = Image::builder().layer("packages").artifact_type("application/spdx+json").subject(&image).build();
    let signature = Image::builder().layer("signature").artifact_type("application/x.sig").subject(&image).build();
    let hub = hub_with(&image).await;
    hub.edit(NAME, |repository| {
        repository.put_image(&sbom);
        repository.put_image(&signature);
    });
    let larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    let target = format!("/v2/{NAME}/referrers/{}", image.manifest().digest);
    let all = larder.get(&target).await;
    assert_eq!((all.status(), all.header("content-type")), (200, Some(media_type::OCI_INDEX)));
    assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 2);
    let filtered = larder.get(format!("{target}?artifactType=application%2Fspdx%2Bjson")).await;
    let found = filtered.json()["manifests"].clone();
    assert_eq!((found.as_array().unwrap().len(), &found[0]["digest"]), (1, &json!(sbom.manifest().digest)));
    pull(&larder, NAME, &sbom.manifest().digest).await;

    let next = format!("<{target}?last=x&n=2>; rel=\"next\"");
    let paged = hub.fault(Fault::on(Listener::Registry).path_contains("/referrers/").set_header("Link", &next));
    let page = larder.get(format!("/v2/docker.io/{NAME}/referrers/{}?ns=docker.io", image.manifest().digest)).await;
    let link = page.header("link").unwrap();
    assert!(link.starts_with(&format!("</v2/docker.io/{NAME}/referrers/")) && link.contains("last=x"), "{link}");
    assert!(link.contains("ns=docker.io"), "{link}");
    assert_eq!(paged.fired(), 1);
    hub.stop_listening().await;
    let stale = larder.get(&target).await;
    assert_eq!((stale.status(), stale.body), (200, all.body));
}

/// Case 28: an invented empty list would hide what the tag scheme has.
#[tokio::test]
async fn an_upstream_without_referrers_is_not_made_to_look_like_one_with_none() {
    let image = image(410, &[1_000]);
    let hub = hub_with(&image).await;
    hub.configure(|config| config.referrers = false);
    let larder = Larder::of(&hub).await;
    let digest = &image.manifest().digest;
    let answer = larder.get(format!("/v2/{NAME}/referrers/{digest}")).await;
    assert_eq!((answer.status(), answer.error_code() == "NAME_UNKNOWN"), (404, false));
    let scheme = digest.as_str().replace(':', "-");
    hub.edit(NAME, |repository| repository.set_tag(&scheme, &Image::index([&image])));
    assert_eq!(larder.get(manifest(&scheme)).await.header("content-type"), Some(media_type::OCI_INDEX));
}

/// The digest that names content is its validator.
#[tokio::test]
async fn a_client_that_has_it_is_told_so() {
    let image = image(411, &[1_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    pull(&larder, NAME, TAG).await;
    for target in [manifest(TAG), blob(image.layers()[0].digest())] {
        let etag = larder.get(&target).await.header("etag").unwrap().to_owned();
        let answer = larder.ask("GET", &target, &[("If-None-Match", &etag)]).await;
        assert_eq!((answer.status(), answer.body.len()), (304, 0), "{target}");
    }
}

/// An empty blob is content like any other.
#[tokio::test]
async fn an_empty_blob_is_served_cold_and_cached() {
    let image = Image::builder().layer("").layer(Synthetic::new(412, 1)).build();
    let hub = larder_testkit::Hub::builder().repository(Repository::new(NAME).tag(TAG, &image)).start().await.unwrap();
    let larder = Larder::of(&hub).await;
    pull(&larder, NAME, TAG).await;
    hub.stop_listening().await;
    pull(&larder, NAME, TAG).await;
    let empty = larder.get(blob(image.layers()[0].digest())).await;
    assert_eq!((empty.status(), empty.header("content-length")), (200, Some("0")));
}
