//! Faults of header fields and of bodies.

use larder_testkit::{Fault, Listener};

use crate::client::{Connection, End, NAME, ask, blob_url, get, get_range, manifest_url, plain_hub};

const REGISTRY: Listener = Listener::Registry;
const SIZE: u64 = 200_000;

#[tokio::test]
async fn a_corrupt_byte_is_at_its_offset_in_the_content_in_whatever_range() {
    let (hub, _, layer) = plain_hub(SIZE).await;
    let fault = hub.fault(Fault::on(REGISTRY).corrupt(150_000));
    let url = blob_url(&hub, &layer);
    let mut wrong = layer.bytes().to_vec();
    wrong[150_000] ^= 0xff;
    let whole = get(&url).await;
    assert_eq!((whole.end, &whole.body), (End::Complete, &wrong));
    assert_eq!(get_range(&url, "bytes=149999-150001").await.body, wrong[149_999..=150_001]);
    assert_eq!(fault.fired(), 2);
    assert_eq!(get_range(&url, "bytes=0-149999").await.body, layer.bytes()[..150_000]);
    assert_eq!((fault.matched(), fault.fired()), (3, 2));
}

#[tokio::test]
async fn a_body_can_be_longer_or_shorter_than_declared() {
    let (hub, _, layer) = plain_hub(SIZE).await;
    let url = blob_url(&hub, &layer);
    let fault = hub.fault(Fault::on(REGISTRY).once().misdeclare(-7));
    let short = get(&url).await;
    assert_eq!((short.end, short.body.len()), (End::Fin, 199_993));
    assert_eq!(short.header("content-length"), Some("200000"));
    assert_eq!(fault.fired(), 1);

    let fault = hub.fault(Fault::on(REGISTRY).once().misdeclare(7));
    let mut connection = Connection::open(&hub.address(REGISTRY).to_string()).await;
    let target = format!("/v2/{NAME}/blobs/{}", layer.digest());
    let long = connection.ask("GET", &target, &[]).await;
    assert_eq!(long.body, layer.bytes());
    hub.until(|requests| requests.body_bytes() == 199_993 + 200_007).await;
    assert_eq!(fault.fired(), 1);
}

#[tokio::test]
async fn a_body_can_be_whole_and_of_the_wrong_size() {
    let (hub, _, layer) = plain_hub(SIZE).await;
    for by in [-10, 10] {
        hub.fault(Fault::on(REGISTRY).once().resize(by));
        let answer = get(&blob_url(&hub, &layer)).await;
        let size = (SIZE as i64 + by) as usize;
        assert_eq!((answer.end, answer.body.len()), (End::Complete, size));
        assert_eq!(answer.header("content-length"), Some(size.to_string().as_str()));
        let same = size.min(SIZE as usize);
        assert_eq!(answer.body[..same], layer.bytes()[..same]);
    }
}

#[tokio::test]
async fn a_body_can_come_compressed_though_nobody_asked() {
    let (hub, image, layer) = plain_hub(SIZE).await;
    hub.fault(Fault::on(REGISTRY).gzip());
    for (url, plain) in [(blob_url(&hub, &layer), layer.bytes()), (manifest_url(&hub, "1"), image.manifest().bytes.clone())] {
        let answer = get(&url).await;
        assert_eq!((answer.end, answer.header("content-encoding")), (End::Complete, Some("gzip")));
        assert_eq!(answer.header("content-length"), None);
        assert_eq!(answer.gunzipped(), plain);
    }
}

#[tokio::test]
async fn a_length_can_be_left_out_in_two_ways() {
    let (hub, _, layer) = plain_hub(SIZE).await;
    let url = blob_url(&hub, &layer);
    hub.fault(Fault::on(REGISTRY).once().chunked());
    let answer = get(&url).await;
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert_eq!((answer.end, &answer.body[..]), (End::Complete, &layer.bytes()[..]));
    hub.fault(Fault::on(REGISTRY).once().close_delimited());
    let answer = get(&url).await;
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(answer.header("content-length"), None);
    assert_eq!((answer.end, &answer.body[..]), (End::Complete, &layer.bytes()[..]));
}

#[tokio::test]
async fn a_chunked_body_that_is_cut_lacks_its_last_chunk() {
    let (hub, _, layer) = plain_hub(SIZE).await;
    hub.fault(Fault::on(REGISTRY).chunked().cut_at(1000));
    let answer = get(&blob_url(&hub, &layer)).await;
    assert_eq!((answer.end, answer.body.len()), (End::Fin, 1000));
}

#[tokio::test]
async fn an_endless_body_goes_on_past_its_content() {
    let (hub, image, _) = plain_hub(1).await;
    let fault = hub.fault(Fault::on(REGISTRY).endless().cut_at(10_000_000));
    let answer = get(&manifest_url(&hub, "1")).await;
    assert_eq!(answer.header("content-length"), None);
    assert_eq!((answer.end, answer.body.len()), (End::Fin, 10_000_000));
    assert!(answer.body.starts_with(&image.manifest().bytes));
    assert_eq!(fault.fired(), 1);
}

#[tokio::test]
async fn headers_can_be_wrong_or_missing() {
    let (hub, image, _) = plain_hub(1).await;
    let url = manifest_url(&hub, "1");
    hub.fault(Fault::on(REGISTRY).once().wrong_digest().set_header("Content-Type", "text/plain"));
    let answer = ask("HEAD", &url, &[]).await;
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    let stated = answer.header("docker-content-digest").unwrap();
    assert!(stated.starts_with("sha256:") && stated != image.manifest().digest.as_str());
    hub.fault(Fault::on(REGISTRY).once().remove_header("docker-content-digest"));
    let answer = get(&url).await;
    assert_eq!(answer.header("docker-content-digest"), None);
    assert_eq!(answer.body, image.manifest().bytes);
}

#[tokio::test]
async fn a_web_page_or_a_redirect_can_come_instead() {
    let (hub, ..) = plain_hub(1).await;
    let url = manifest_url(&hub, "1");
    hub.fault(Fault::on(REGISTRY).once().html());
    let page = get(&url).await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    hub.fault(Fault::on(REGISTRY).once().redirect("http://169.254.169.254/"));
    let redirect = get(&url).await;
    assert_eq!((redirect.status, redirect.header("location")), (307, Some("http://169.254.169.254/")));
}
