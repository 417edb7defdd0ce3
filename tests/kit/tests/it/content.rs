//! What the registry and the CDN answer when nothing is wrong.

use std::time::Duration;

use larder_testkit::{Algorithm, Hub, Image, Listener, ManifestRedirect, Outcome, Repository, Synthetic, media_type};

use crate::client::{Connection, NAME, ask, blob_url, get, get_as, get_range, manifest_url, plain_hub, token};

#[tokio::test]
async fn manifests_come_by_tag_and_by_digest_with_their_headers() {
    let (hub, image, _) = plain_hub(10).await;
    let manifest = image.manifest();
    for url in [manifest_url(&hub, "1"), manifest_url(&hub, &manifest.digest)] {
        let answer = get(&url).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, manifest.bytes);
        assert_eq!(answer.header("content-type"), Some(media_type::OCI_MANIFEST));
        assert_eq!(answer.header("docker-content-digest"), Some(manifest.digest.as_str()));
        let head = ask("HEAD", &url, &[]).await;
        assert_eq!(head.header("content-length"), answer.header("content-length"));
        assert!(head.body.is_empty());
    }
    let missing = get(&manifest_url(&hub, "none")).await;
    assert_eq!((missing.status, missing.error_code()), (404, "MANIFEST_UNKNOWN".to_owned()));
    assert_eq!(ask("PUT", &manifest_url(&hub, "1"), &[]).await.status, 405);
}

#[tokio::test]
async fn blobs_come_whole_or_in_part() {
    let (hub, _, layer) = plain_hub(1000).await;
    let url = blob_url(&hub, &layer);
    let whole = get(&url).await;
    assert_eq!((whole.status, &whole.body[..]), (200, &layer.bytes()[..]));
    let part = get_range(&url, "bytes=990-").await;
    assert_eq!((part.status, &part.body[..]), (206, &layer.bytes()[990..]));
    assert_eq!(part.header("content-range"), Some("bytes 990-999/1000"));
    let none = get_range(&url, "bytes=1000-").await;
    assert_eq!((none.status, none.header("content-range")), (416, Some("bytes */1000")));
    let stale = [("Range", "bytes=1-2"), ("If-Range", "\"other\"")];
    assert_eq!(ask("GET", &url, &stale).await.status, 200);
    let missing = format!("{}/v2/{NAME}/blobs/sha256:{}", hub.url(), "0".repeat(64));
    assert_eq!(get(&missing).await.error_code(), "BLOB_UNKNOWN");
}

#[tokio::test]
async fn sha512_content_is_found_by_its_digest() {
    let image = Image::builder().layer(Synthetic::new(2, 100)).algorithm(Algorithm::Sha512).build();
    let (hub, _, _) = plain_hub(1).await;
    hub.edit(NAME, |repository| repository.put_image(&image));
    assert_eq!(get(&manifest_url(&hub, &image.manifest().digest)).await.status, 200);
    assert_eq!(get(&blob_url(&hub, &image.layers()[0])).await.status, 200);
}

#[tokio::test]
async fn blobs_are_redirected_to_the_cdn_which_wants_no_credentials() {
    let image = Image::builder().layer(Synthetic::new(1, 5000)).build();
    let layer = &image.layers()[0];
    let hub = Hub::builder()
        .repository(Repository::new(NAME).tag("1", &image))
        .address(Listener::Cdn, ([127, 0, 0, 2], 0))
        .start()
        .await
        .unwrap();
    let token = token(&hub, None).await;
    let redirect = get_as(&blob_url(&hub, layer), &token).await;
    assert_eq!(redirect.status, 307);
    let location = redirect.header("location").unwrap();
    assert!(location.starts_with("http://127.0.0.2:"), "{location}");

    assert_eq!(get(location).await.body, layer.bytes());
    assert_eq!(get_range(location, "bytes=-1").await.status, 206);
    assert_eq!(hub.auth_leaks().count(), 0);
    let leak = get_as(location, &token).await;
    assert_eq!(leak.status, 400);
    assert_eq!(hub.auth_leaks().count(), 1);

    let forged = location.replace("signature=", "signature=0");
    assert_eq!(get(&forged).await.status, 403);
    hub.configure(|config| config.presign_ttl = Duration::ZERO);
    let redirect = get_as(&blob_url(&hub, layer), &token).await;
    assert_eq!(get(redirect.header("location").unwrap()).await.status, 403);
}

#[tokio::test]
async fn tags_move_and_content_goes_while_it_runs() {
    let (hub, old, layer) = plain_hub(10).await;
    let new = Image::builder().layer("new").build();
    hub.edit(NAME, |repository| repository.set_tag("1", &new));
    assert_eq!(get(&manifest_url(&hub, "1")).await.body, new.manifest().bytes);
    let by_digest = manifest_url(&hub, &old.manifest().digest);
    assert_eq!(get(&by_digest).await.status, 200);
    hub.edit(NAME, |repository| {
        repository.remove_manifest(&old.manifest().digest);
        repository.remove_blob(layer.digest());
        repository.remove_tag("1");
    });
    assert_eq!(get(&by_digest).await.status, 404);
    assert_eq!(get(&blob_url(&hub, &layer)).await.status, 404);
    assert_eq!(get(&manifest_url(&hub, "1")).await.status, 404);
}

#[tokio::test]
async fn tags_are_listed_in_pages() {
    let (hub, image, _) = plain_hub(1).await;
    hub.edit(NAME, |repository| {
        for tag in ["c", "a", "b"] {
            repository.set_tag(tag, &image);
        }
    });
    let list = format!("{}/v2/{NAME}/tags/list", hub.url());
    assert_eq!(get(&list).await.json()["tags"], serde_json::json!(["1", "a", "b", "c"]));
    let page = get(&format!("{list}?n=2&last=1")).await;
    assert_eq!(page.json()["tags"], serde_json::json!(["a", "b"]));
    let link = format!("</v2/{NAME}/tags/list?last=b&n=2>; rel=\"next\"");
    assert_eq!(page.header("link"), Some(link.as_str()));
    let last = get(&format!("{list}?n=2&last=b")).await;
    assert_eq!((last.json()["tags"].clone(), last.header("link")), (serde_json::json!(["c"]), None));
    assert_eq!(get(&format!("{}/v2/none/tags/list", hub.url())).await.error_code(), "NAME_UNKNOWN");
}

#[tokio::test]
async fn referrers_are_listed_unless_the_api_is_off() {
    let (hub, image, _) = plain_hub(1).await;
    let sbom = Image::builder().layer("sbom").artifact_type("text/spdx").subject(&image).build();
    hub.edit(NAME, |repository| repository.put_image(&sbom));
    let url = format!("{}/v2/{NAME}/referrers/{}", hub.url(), image.manifest().digest);
    let all = get(&url).await;
    assert_eq!(all.header("content-type"), Some(media_type::OCI_INDEX));
    assert_eq!(all.json()["manifests"][0]["digest"], sbom.manifest().digest.as_str());
    let none = get(&format!("{url}?artifactType=text%2Fother")).await;
    assert_eq!(none.json()["manifests"], serde_json::json!([]));
    assert_eq!(none.header("oci-filters-applied"), Some("artifactType"));
    hub.configure(|config| config.referrers = false);
    assert_eq!(get(&url).await.status, 404);
}

#[tokio::test]
async fn manifests_are_redirected_as_often_as_wanted() {
    let (hub, image, _) = plain_hub(1).await;
    for absolute in [false, true] {
        hub.configure(|config| {
            config.redirect_manifests = Some(ManifestRedirect { hops: 2, absolute });
        });
        let mut url = manifest_url(&hub, "1");
        for _ in 0..2 {
            let redirect = get(&url).await;
            assert_eq!(redirect.status, 307);
            let location = redirect.header("location").unwrap();
            url = match absolute {
                true => location.to_owned(),
                false => format!("{}{location}", hub.url()),
            };
        }
        assert_eq!(get(&url).await.body, image.manifest().bytes);
    }
}

#[tokio::test]
async fn what_other_registries_lack_can_be_switched_off() {
    let (hub, _, layer) = plain_hub(10).await;
    hub.configure(|config| {
        config.head = false;
        config.content_length = false;
        config.content_digest = false;
        config.ranges = false;
    });
    let url = blob_url(&hub, &layer);
    assert_eq!(ask("HEAD", &url, &[]).await.status, 405);
    let answer = get_range(&url, "bytes=0-1").await;
    assert_eq!((answer.status, &answer.body[..]), (200, &layer.bytes()[..]));
    for name in ["content-length", "docker-content-digest", "accept-ranges"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
}

#[tokio::test]
async fn an_index_can_be_hidden_from_clients_that_do_not_name_it() {
    let (hub, image, _) = plain_hub(1).await;
    let index = Image::index([&image]);
    hub.edit(NAME, |repository| repository.set_tag("all", &index));
    hub.configure(|config| config.accept_sensitive = true);
    let url = manifest_url(&hub, "all");
    assert_eq!(ask("GET", &url, &[("Accept", "*/*")]).await.status, 404);
    let both = format!("{}, {};q=0.5", media_type::OCI_MANIFEST, media_type::OCI_INDEX);
    assert_eq!(ask("GET", &url, &[("Accept", &both)]).await.status, 200);
    assert_eq!(get(&manifest_url(&hub, "1")).await.status, 200);
}

#[tokio::test]
async fn requests_are_recorded_with_all_that_matters() {
    let (hub, image, layer) = plain_hub(3000).await;
    let mut connection = Connection::open(&hub.address(Listener::Registry).to_string()).await;
    let target = format!("/v2/{NAME}/blobs/{}?ns=docker.io", layer.digest());
    connection.ask("GET", &target, &[("User-Agent", "test/1")]).await;
    let target = format!("/v2/{NAME}/manifests/1");
    connection.ask("HEAD", &target, &[]).await;

    let blobs = hub.requests().on(Listener::Registry).method("GET").path_contains(layer.digest());
    assert_eq!((blobs.count(), blobs.body_bytes()), (1, 3000));
    let record = &blobs.records()[0];
    assert_eq!(record.query, "ns=docker.io");
    assert_eq!(record.headers.get("user-agent"), Some("test/1"));
    assert_eq!((record.status, record.outcome), (Some(200), Outcome::Complete));
    assert_eq!(hub.requests().method("HEAD").body_bytes(), 0);
    assert_eq!(hub.requests().filter(|record| record.connection == 0).count(), 2);
    let traffic = hub.traffic(Listener::Registry);
    assert_eq!((traffic.accepted, traffic.open, traffic.body_bytes), (1, 1, 3000));

    hub.reset_records();
    assert_eq!(hub.requests().count(), 0);
    assert_eq!(hub.traffic(Listener::Registry).body_bytes, 0);
    assert_eq!(get(&manifest_url(&hub, "1")).await.body, image.manifest().bytes);
    assert_eq!(hub.requests().count(), 1);
}
