//! What an upstream may be asked, how it is shared, and what is done where it is not answered: seen from both sides of the binary.

use larder_testkit::{Fault, Listener};

use crate::support::{Larder, NAME, TAG, hub_with, image, manifest, prepare, pull};

/// A load balancer with nobody behind it accepts every connection, and closes it.
#[tokio::test]
async fn who_closes_every_connection_is_left_alone_and_the_next_endpoint_asked() {
    let image = image(1201, &[1_000]);
    let first = hub_with(&image).await;
    let second = Listener::ALL.iter().fold(prepare(&image), |hub, listener| hub.address(*listener, ([127, 0, 0, 2], 0)));
    let second = second.start().await.unwrap();
    let endpoints = format!("upstreams.'docker.io'.endpoints = [{:?}]", second.url());
    let larder = Larder::with(&first, &endpoints).await;
    first.fault(Fault::on(Listener::Registry).close());
    assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
    assert!(second.requests().on(Listener::Registry).count() > 0);

    let alone = Larder::of(&first).await;
    let open = "upstream_open{upstream=\"docker.io\"}";
    while alone.metrics().await.get(open) == 0.0 {
        assert_eq!(alone.get(manifest(TAG)).await.error(), (502, "UNAVAILABLE".to_owned()));
    }
    let asked = || first.requests().on(Listener::Registry).method("GET").count();
    let so_far = asked();
    for _ in 0..20 {
        assert_eq!(alone.get(manifest("other")).await.error(), (502, "UNAVAILABLE".to_owned()));
    }
    assert_eq!(asked(), so_far);
    first.clear_faults();
    alone.until_asking().await;
    assert_eq!(pull(&alone, NAME, TAG).await, image.manifest().digest.as_str());
}
