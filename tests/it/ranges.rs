//! Ranges of blobs, at rest, in flight and cold.

use larder_testkit::{Fault, Listener};

use crate::support::{Answer, End, Larder, NAME, TAG, blob, fetched, hub_with, image, pull};

const SIZE: usize = 300_000;

/// Ranges and what of 300000 bytes they name, first and last: what the RFC, the conformance suite and clients put into one.
const SINGLE: [(&str, usize, usize); 10] = [
    ("bytes=0-0", 0, 0),
    ("bytes=0-1", 0, 1),
    ("bytes=0-", 0, 299_999),
    ("bytes=1000-1999", 1000, 1999),
    ("bytes=150000-", 150_000, 299_999),
    // regclient: one past the end.
    ("bytes=200000-300000", 200_000, 299_999),
    ("bytes=299999-", 299_999, 299_999),
    ("bytes=299000-99999999999999999999", 299_000, 299_999),
    ("bytes=-500", 299_500, 299_999),
    ("bytes=-99999999", 0, 299_999),
];

/// Case 18.
#[tokio::test]
async fn every_form_of_range_is_answered_at_rest() {
    let image = image(500, &[SIZE as u64]);
    let layer = &image.layers()[0];
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    pull(&larder, NAME, TAG).await;
    hub.stop_listening().await;
    for (range, first, last) in SINGLE {
        let answer = larder.get_range(blob(layer.digest()), range).await;
        assert_part(&answer, &layer.bytes(), range, first, last);
    }
    for range in
        ["bytes=300000-", "bytes=300000-300001", "bytes=500-0", "bytes=-0", "bytes=", "bytes=a-b", "bytes=99999999999999999999-"]
    {
        let answer = larder.get_range(blob(layer.digest()), range).await;
        assert_eq!((answer.status(), answer.header("content-range")), (416, Some("bytes */300000")), "{range}");
        answer.error_code();
    }
    // A unit that is not known is ignored (RFC 9110, section 14.2).
    let other = larder.get_range(blob(layer.digest()), "pages=1-2").await;
    assert_eq!((other.status(), other.body.len()), (200, SIZE));
}

/// Case 19, as far as there is one connection for a blob.
#[tokio::test]
async fn every_form_of_range_is_answered_cold() {
    for (number, (range, first, last)) in SINGLE.into_iter().enumerate() {
        let image = image(510 + number as u64, &[SIZE as u64]);
        let layer = &image.layers()[0];
        let hub = hub_with(&image).await;
        let larder = Larder::of(&hub).await;
        let answer = larder.get_range(blob(layer.digest()), range).await;
        assert_part(&answer, &layer.bytes(), range, first, last);
        larder.until_idle().await;
        assert!(larder.has(layer.digest()), "the rest of it is filled");
        assert_eq!(fetched(&hub, layer.digest()).count(), 1);
    }
}

/// Case 18: one part for each range, in the order of the request, never merged: containers/storage counts them.
#[tokio::test]
async fn several_ranges_are_answered_by_as_many_parts_in_their_order() {
    let image = image(530, &[SIZE as u64]);
    let layer = &image.layers()[0];
    let bytes = layer.bytes();
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    for state in ["cold", "at rest"] {
        let answer = larder.get_range(blob(layer.digest()), "bytes=200000-200099,0-9,10-19,-5,300000-").await;
        assert_eq!((answer.status(), answer.end), (206, End::Complete), "{state}");
        let expected = [(200_000, 200_099), (0, 9), (10, 19), (299_995, 299_999)];
        assert_eq!(parts(&answer), expected.map(|(first, last)| (first, last, bytes[first..=last].to_vec())), "{state}");
        larder.until_idle().await;
    }
    assert_eq!(fetched(&hub, layer.digest()).count(), 1);
}

/// Case 20: containerd asks from many offsets to the end, reads its share and closes.
#[tokio::test]
async fn fifty_open_ended_ranges_that_close_early_cost_one_fetch_and_leave_nothing_behind() {
    let image = image(531, &[4 << 20]);
    let layer = &image.layers()[0];
    let hub = hub_with(&image).await;
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(layer.digest()).once().hold_at(2 << 20));
    let larder = Larder::of(&hub).await;
    let descriptors = larder.metrics().await.get("process_open_descriptors");
    let mut connections = Vec::new();
    for offset in (0..50).map(|number| number * 20_000_usize) {
        let mut connection = larder.connect().await;
        connection.request("GET", &blob(layer.digest()), &[("Range", &format!("bytes={offset}-"))]).await;
        let head = connection.head().await;
        assert_eq!((head.status, head.header("content-range").unwrap()), (206, &*format!("bytes {offset}-4194303/4194304")));
        connection.until_received(1000).await;
        connections.push(connection);
    }
    drop(connections);
    gate.release();
    larder.until_idle().await;
    assert_eq!(fetched(&hub, layer.digest()).count(), 1);
    larder.until(|metrics| metrics.get("process_open_descriptors") <= descriptors + 8.0).await;
    assert!(!larder.log().contains("ERROR"));
}

/// RFC 9110, section 13.1.5: the validator of content that is named by its digest is that digest.
#[tokio::test]
async fn a_range_of_something_else_is_answered_with_everything() {
    let image = image(532, &[SIZE as u64]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    let etag = format!("\"{layer}\"");
    for (validator, status) in [(etag.as_str(), 206), ("\"else\"", 200)] {
        let answer = larder.ask("GET", &blob(layer), &[("Range", "bytes=0-9"), ("If-Range", validator)]).await;
        assert_eq!(answer.status(), status, "{validator}");
    }
}

/// The set is bounded; lazily pulling clients step down on a 400.
#[tokio::test]
async fn more_ranges_than_anybody_needs_are_refused() {
    let image = image(533, &[SIZE as u64]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    let ranges = |count: usize| (0..count).map(|at| format!("{at}-{at}")).collect::<Vec<_>>().join(",");
    let answer = larder.get_range(blob(layer), &format!("bytes={}", ranges(1024))).await;
    assert_eq!(parts(&answer).len(), 1024);
    for excess in [ranges(1025), "0-,0-".to_owned()] {
        let answer = larder.get_range(blob(layer), &format!("bytes={excess}")).await;
        assert_eq!(answer.error(), (400, "UNSUPPORTED".to_owned()));
    }
}

fn assert_part(answer: &Answer, bytes: &[u8], range: &str, first: usize, last: usize) {
    assert_eq!((answer.status(), answer.end), (206, End::Complete), "{range}");
    assert_eq!(answer.header("content-range"), Some(&*format!("bytes {first}-{last}/{}", bytes.len())), "{range}");
    assert!(answer.body == bytes[first..=last], "{range}: wrong bytes");
}

/// The parts of a multipart/byteranges body: first, last, bytes.
fn parts(answer: &Answer) -> Vec<(usize, usize, Vec<u8>)> {
    let boundary = answer.header("content-type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap();
    let delimiter = format!("\r\n--{boundary}");
    let mut rest = answer.body.strip_prefix(delimiter.as_bytes()).unwrap();
    let mut parts = Vec::new();
    while rest != b"--\r\n" {
        let mut fields = [httparse::EMPTY_HEADER; 8];
        let Ok(httparse::Status::Complete((used, fields))) = httparse::parse_headers(&rest[2..], &mut fields) else {
            panic!("a part has no head");
        };
        let range = fields.iter().find(|field| field.name.eq_ignore_ascii_case("content-range")).unwrap();
        let range = std::str::from_utf8(range.value).unwrap().strip_prefix("bytes ").unwrap();
        let (first, last) = range.split_once('/').unwrap().0.split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let content = &rest[2 + used..];
        let length = last + 1 - first;
        parts.push((first, last, content[..length].to_vec()));
        rest = content[length..].strip_prefix(delimiter.as_bytes()).unwrap();
    }
    parts
}
