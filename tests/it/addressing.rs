//! The ways in which clients address a mirror, and what may be in a path.

use larder_testkit::{Algorithm, Digest, Hub, Image, Listener, Repository, Synthetic};

use crate::support::{Larder, TAG, hub_with, image, pull};

/// Targets and `Host` headers that all mean `library/app` of Docker Hub.
const WAYS: [(&str, &str); 12] = [
    ("/v2/library/app", ""),
    ("/v2/app", ""),
    ("/v2/library/app", "ns=docker.io"),
    ("/v2/library/app", "ns=index.docker.io"),
    ("/v2/library/app", "ns=registry-1.docker.io"),
    ("/v2/docker.io/library/app", ""),
    ("/v2/docker.io/app", ""),
    ("/v2/index.docker.io/app", ""),
    ("/v2/docker.io/library/app", "ns=docker.io"),
    ("/docker.io/v2/library/app", "ns=docker.io"),
    ("/docker.io/v2/library/app", ""),
    ("/docker.io/v2/docker.io/app", "ns=index.docker.io"),
];

/// Cases 6, 7, 8 and 9.
#[tokio::test]
async fn every_way_of_addressing_gives_the_same_bytes_of_the_same_blob() {
    let image = image(300, &[100_000]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    for (base, query) in WAYS {
        let manifest = larder.get(format!("{base}/manifests/{TAG}?{query}")).await;
        assert_eq!((manifest.status(), &manifest.body[..]), (200, &image.manifest().bytes[..]), "{base}?{query}");
        let blob = larder.download(format!("{base}/blobs/{layer}?{query}")).await;
        assert_eq!((blob.head.status, &blob.digest), (200, layer), "{base}?{query}");
        let namespace = query.strip_prefix("ns=");
        assert_eq!(manifest.header("oci-namespace"), namespace, "{base}?{query}");
        larder.until_idle().await;
    }
    assert_eq!(hub.requests().on(Listener::Cdn).count(), 1);
    let paths = hub.requests().on(Listener::Registry);
    assert!(paths.records().iter().all(|record| record.path.starts_with("/v2/library/app/")), "{:?}", paths.lines());
    assert!(paths.records().iter().all(|record| !record.query.contains("ns=")));
}

/// Design, section 3: the `Host` under which the mirror was reached decides what a bare name means.
#[tokio::test]
async fn the_host_of_a_request_can_name_its_upstream() {
    let (one, other) = (image(301, &[1_000]), image(302, &[1_000]));
    let (hub, ghcr) = (hub_with(&one).await, hub_with(&other).await);
    let larder = Larder::builder()
        .upstream("docker.io", &hub)
        .upstream("ghcr.io", &ghcr)
        .config("upstreams.'ghcr.io'.hosts = ['ghcr.mirror.test']")
        .start()
        .await;
    for (host, image) in
        [("mirror.test", &one), ("ghcr.mirror.test", &other), ("GHCR.mirror.test:5050", &other), ("ghcr.io", &other)]
    {
        let answer = larder.ask("GET", &format!("/v2/library/app/manifests/{TAG}"), &[("Host", host)]).await;
        assert_eq!(answer.body, image.manifest().bytes, "{host}");
    }
}

/// Case 6; `ns` is a key to look up, and its colon may come encoded.
#[tokio::test]
async fn an_upstream_with_a_port_in_its_name_is_found() {
    let image = image(303, &[1_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::builder().upstream("reg:5000", &hub).start().await;
    for target in [
        "/v2/library/app/manifests/1.0?ns=reg%3A5000",
        "/v2/library/app/manifests/1.0?ns=reg:5000",
        "/v2/reg:5000/library/app/manifests/1.0",
        "/reg:5000/v2/library/app/manifests/1.0",
    ] {
        assert_eq!(larder.get(target).await.body, image.manifest().bytes, "{target}");
    }
}

/// Cases 6 and 7; security rule 6.
#[tokio::test]
async fn a_name_that_is_no_upstream_is_refused_and_nobody_is_dialled() {
    let hub = hub_with(&image(304, &[1_000])).await;
    let larder = Larder::of(&hub).await;
    let trap = Hub::builder().start().await.unwrap();
    let trap_address = trap.address(Listener::Registry);
    for name in
        ["169.254.169.254", "2852039166", "[::ffff:169.254.169.254]", "localhost:1", "evil.example", &trap_address.to_string()]
    {
        let encoded = name.replace('[', "%5B").replace(']', "%5D").replace(':', "%3A");
        let answer = larder.get(format!("/v2/library/app/manifests/1.0?ns={encoded}")).await;
        assert_eq!(answer.error(), (404, "NAME_UNKNOWN".to_owned()), "{name}");
        let answer = larder.get(format!("/{encoded}/v2/library/app/manifests/1.0")).await;
        assert_eq!(answer.error(), (404, "NAME_UNKNOWN".to_owned()), "{name}");
    }
    let in_path = larder.get(format!("/v2/{trap_address}/library/app/manifests/1.0")).await;
    assert_eq!(in_path.error(), (404, "NAME_UNKNOWN".to_owned()));
    for conflict in ["/v2/docker.io/library/app/manifests/1.0?ns=ghcr.io", "/ghcr.io/v2/library/app/manifests/1.0?ns=docker.io"] {
        assert_eq!(larder.get(conflict).await.error(), (400, "NAME_INVALID".to_owned()), "{conflict}");
    }
    assert_eq!(trap.traffic(Listener::Registry).accepted, 0);
    assert_eq!(hub.requests().count(), 0);
}

/// Security rule 10: the key of everything has the upstream in it.
#[tokio::test]
async fn the_same_name_at_two_upstreams_is_two_things() {
    let (one, other) = (image(305, &[1_000]), image(306, &[1_000]));
    let (hub, ghcr) = (hub_with(&one).await, hub_with(&other).await);
    let larder = Larder::builder().upstream("docker.io", &hub).upstream("ghcr.io", &ghcr).start().await;
    for _ in 0..2 {
        assert_eq!(larder.get("/v2/library/app/manifests/1.0?ns=docker.io").await.body, one.manifest().bytes);
        assert_eq!(larder.get("/v2/library/app/manifests/1.0?ns=ghcr.io").await.body, other.manifest().bytes);
    }
}

/// Case 30; security rule 8.
#[tokio::test]
async fn what_is_no_name_tag_or_digest_touches_neither_disk_nor_upstream() {
    let hub = hub_with(&image(307, &[1_000])).await;
    let larder = Larder::of(&hub).await;
    let before = larder.all_files();
    let long_tag = "t".repeat(300);
    let long_name = vec!["a"; 200].join("/");
    let hex = "a".repeat(64);
    let sha512_of_sha256 = format!("sha512:{hex}");
    for path in [
        "library/app/blobs/sha256:bad",
        "library/app/blobs/sha256:../../../../etc/passwd",
        "library/app/blobs/..%2f..%2f..%2fetc%2fpasswd",
        "library/app/manifests/sha256:bad",
        "library/app/manifests/..",
        "library/app/manifests/.hidden",
        "library/app/manifests/%00",
        "library/app/manifests/a%00b",
        "library/app/manifests/%ff%fe",
        "library/app/manifests/a%20b",
        "library/app/manifests/1.0%0d%0aX-Evil:1",
        "library/../../app/manifests/1.0",
        "%2e%2e/%2e%2e/app/manifests/1.0",
        "library/%252e%252e/app/manifests/1.0",
        "..%2f..%2fetc/passwd/manifests/1.0",
        "Library/App/manifests/1.0",
        "library//app/manifests/1.0",
        "/manifests/1.0",
        "library/app-/manifests/1.0",
        "libr%C3%A4ry/app/manifests/1.0",
        "library/app/referrers/sha256:bad",
        "library/app/tags/list?n=-1",
        "library/app/tags/list?n=x",
        &format!("library/app/manifests/{long_tag}"),
        &format!("{long_name}/manifests/1.0"),
        &format!("library/app/blobs/{}", hex),
        &format!("library/app/blobs/sha256:{}", hex.to_uppercase()),
        &format!("library/app/blobs/md5:{}", &hex[..32]),
        &format!("library/app/blobs/{sha512_of_sha256}"),
    ] {
        let answer = larder.get(format!("/v2/{path}")).await;
        assert!(matches!(answer.status(), 400 | 404), "{path}: {answer:?}");
        answer.error_code();
    }
    assert_eq!(hub.requests().count(), 0);
    assert_eq!(larder.all_files(), before);
}

/// Case 30: sha512 is as good a name.
#[tokio::test]
async fn content_that_is_named_by_sha512_is_pulled_and_cached() {
    let image = Image::builder().layer(Synthetic::new(308, 200_000)).algorithm(Algorithm::Sha512).build();
    let hub = Hub::builder().repository(Repository::new("library/app").tag(TAG, &image)).start().await.unwrap();
    let larder = Larder::of(&hub).await;
    let layer = &image.layers()[0];
    let targets = |digest: &Digest, kind: &str| format!("/v2/library/app/{kind}/{digest}");
    for _ in 0..2 {
        let manifest = larder.get(targets(&image.manifest().digest, "manifests")).await;
        assert_eq!(manifest.body, image.manifest().bytes);
        assert_eq!(larder.get(targets(layer.digest(), "blobs")).await.body, layer.bytes());
        larder.until_idle().await;
        assert!(larder.has(layer.digest()) && larder.has(&image.manifest().digest));
        hub.stop_listening().await;
    }
}

/// docker.io is not the only registry with a name.
#[tokio::test]
async fn the_default_upstream_can_be_another_one() {
    let image = image(309, &[1_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::builder()
        .upstream("registry.corp.test", &hub)
        .config("upstreams.'registry.corp.test'.default = true")
        .start()
        .await;
    pull(&larder, "library/app", TAG).await;
    // `library/` belongs to Docker Hub alone.
    assert_eq!(larder.get("/v2/app/manifests/1.0").await.error(), (404, "MANIFEST_UNKNOWN".to_owned()));
}
