//! Ranges answered wrongly.

use larder_testkit::{Fault, Listener};

use crate::client::{blob_url, get, get_range, plain_hub};

const REGISTRY: Listener = Listener::Registry;

#[tokio::test]
async fn a_range_can_be_ignored() {
    let (hub, _, layer) = plain_hub(1000).await;
    let fault = hub.fault(Fault::on(REGISTRY).once().ignore_range());
    let url = blob_url(&hub, &layer);
    // What has no range does not use the rule up.
    assert_eq!(get(&url).await.status, 200);
    let answer = get_range(&url, "bytes=500-").await;
    assert_eq!((answer.status, answer.header("content-range")), (200, None));
    assert_eq!(answer.header("content-length"), Some("1000"));
    assert_eq!(answer.body, layer.bytes());
    assert_eq!(fault.fired(), 1);
    assert_eq!(get_range(&url, "bytes=500-").await.status, 206);
}

#[tokio::test]
async fn header_and_body_of_a_range_can_be_off() {
    let (hub, _, layer) = plain_hub(1000).await;
    let url = blob_url(&hub, &layer);
    let bytes = layer.bytes();
    for (fault, header, start) in [
        (Fault::on(REGISTRY).wrong_content_range(5), "bytes 505-604/1000", 500),
        (Fault::on(REGISTRY).wrong_offset(-5), "bytes 500-599/1000", 495),
        (Fault::on(REGISTRY).other_range(-500), "bytes 0-99/1000", 0),
    ] {
        let fault = hub.fault(fault.once());
        let answer = get_range(&url, "bytes=500-599").await;
        assert_eq!((answer.status, answer.header("content-range")), (206, Some(header)));
        assert_eq!(answer.body, bytes[start..start + 100]);
        assert_eq!(fault.fired(), 1);
    }
}

#[tokio::test]
async fn a_range_can_be_refused() {
    let (hub, _, layer) = plain_hub(1000).await;
    hub.fault(Fault::on(REGISTRY).with_header("range").range_not_satisfiable());
    let url = blob_url(&hub, &layer);
    assert_eq!(get_range(&url, "bytes=0-").await.status, 416);
    assert_eq!(get(&url).await.status, 200);
}
