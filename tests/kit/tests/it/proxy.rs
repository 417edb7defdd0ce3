//! Proxy mode: one hub takes its content from another, which stands for a plain registry.

use larder_testkit::{Fault, Hub, Image, Listener, Repository, Synthetic};

use crate::client::{NAME, blob_url, get, get_as, get_range, manifest_url, plain_hub, token};

async fn proxy_of(origin: &Hub) -> Hub {
    Hub::builder().origin(origin.url()).start().await.unwrap()
}

#[tokio::test]
async fn content_comes_from_the_origin_and_the_rest_from_the_kit() {
    let (origin, image, layer) = plain_hub(300_000).await;
    let hub = proxy_of(&origin).await;
    assert_eq!(get(&manifest_url(&hub, "1")).await.status, 401);
    let token = token(&hub, None).await;
    let manifest = get_as(&manifest_url(&hub, "1"), &token).await;
    assert_eq!(manifest.body, image.manifest().bytes);
    assert_eq!(manifest.header("content-type"), Some(image.manifest().media_type.as_str()));

    let redirect = get_as(&blob_url(&hub, &layer), &token).await;
    let location = redirect.header("location").unwrap();
    assert!(location.starts_with(hub.url_of(Listener::Cdn)));
    assert_eq!(get(location).await.body, layer.bytes());
    let part = get_range(location, "bytes=100-199").await;
    assert_eq!((part.status, &part.body[..]), (206, &layer.bytes()[100..200]));

    let fault = hub.fault(Fault::on(Listener::Cdn).once().corrupt(0));
    assert_ne!(get(location).await.body, layer.bytes());
    assert_eq!(fault.fired(), 1);
    assert_eq!(origin.auth_leaks().count() + origin.requests().with_header("authorization").count(), 0);
}

#[tokio::test]
async fn what_the_origin_lacks_is_unknown() {
    let (origin, image, _) = plain_hub(1).await;
    origin.configure(|config| config.referrers = false);
    let hub = proxy_of(&origin).await;
    let token = token(&hub, None).await;
    assert_eq!(get_as(&manifest_url(&hub, "none"), &token).await.status, 404);
    let unknown = Image::builder().layer("unknown").build();
    assert_eq!(get_as(&blob_url(&hub, &unknown.layers()[0]), &token).await.status, 404);
    let digest = &image.manifest().digest;
    let referrers = format!("{}/v2/{NAME}/referrers/{digest}", hub.url());
    assert_eq!(get_as(&referrers, &token).await.status, 404);
    let tags = format!("{}/v2/{NAME}/tags/list?n=1", hub.url());
    assert_eq!(get_as(&tags, &token).await.json()["tags"], serde_json::json!(["1"]));
}

#[tokio::test]
async fn a_repository_in_memory_hides_that_of_the_origin() {
    let (origin, ..) = plain_hub(1).await;
    let own = Image::builder().layer(Synthetic::new(77, 10)).build();
    let hub = Hub::builder().origin(origin.url()).repository(Repository::new(NAME).tag("2", &own)).start().await.unwrap();
    let token = token(&hub, None).await;
    assert_eq!(get_as(&manifest_url(&hub, "1"), &token).await.status, 404);
    assert_eq!(get_as(&manifest_url(&hub, "2"), &token).await.body, own.manifest().bytes);
}

#[tokio::test]
async fn an_origin_that_is_down_is_said_to_be() {
    let (origin, ..) = plain_hub(1).await;
    let hub = proxy_of(&origin).await;
    let token = token(&hub, None).await;
    origin.stop_listening().await;
    assert_eq!(get_as(&manifest_url(&hub, "1"), &token).await.status, 502);
}
