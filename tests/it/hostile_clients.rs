//! Clients that mean harm, or behave as if they did: none costs others anything (promise P5).

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures::future::join_all;
use larder_testkit::{Fault, Listener};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Connection, End, Larder, NAME, TAG, blob, hub_with, image, manifest, pull};

/// A request that must not be taken for one.
const SMUGGLED: &str = "GET /v2/library/smuggled/manifests/1.0 HTTP/1.1\r\nHost: x\r\n\r\n";

/// Security rule 11: where a message ends is not a matter of opinion.
#[tokio::test]
async fn nothing_in_the_body_of_a_request_is_taken_for_a_request() {
    let hub = hub_with(&image(900, &[1_000])).await;
    let larder = Larder::of(&hub).await;
    let length = SMUGGLED.len();
    for head in [
        format!("GET {} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n", manifest(TAG)),
        format!("HEAD {} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n", manifest(TAG)),
        format!("POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"),
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n".to_owned(),
        format!("GET {} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", manifest(TAG)),
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345".to_owned(),
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\n12345".to_owned(),
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\n12345".to_owned(),
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_owned(),
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\n12345".to_owned(),
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity, chunked, identity\r\n\r\n0\r\n\r\n".to_owned(),
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".to_owned(),
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n".to_owned(),
        "POST /v2/ HTTP/1.1\r\nHost: x\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "POST /v2/ HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "GET /v2/ HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
        "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
    ] {
        let mut connection = larder.connect().await;
        connection.send(format!("{head}{SMUGGLED}{SMUGGLED}")).await;
        let answer = connection.answer(if head.starts_with("HEAD") { "HEAD" } else { "GET" }).await;
        assert!(matches!(answer.status(), 200 | 400 | 405), "{head:?}: {answer:?}");
        if answer.status() >= 400 {
            answer.error_code();
        }
        assert_eq!(connection.end().await, (End::Fin, Vec::new()), "one answer, and then the end: {head:?}");
    }
    assert_eq!(hub.requests().path_contains("smuggled").lines(), Vec::<String>::new());
}

/// Requests that follow one another on a connection are answered in their order, also where they are sent ahead.
#[tokio::test]
async fn requests_that_are_sent_ahead_are_answered_in_order() {
    let image = image(901, &[300_000]);
    let layer = &image.layers()[0];
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    let mut connection = larder.connect().await;
    connection.request("GET", &blob(layer.digest()), &[]).await;
    connection.request("GET", &manifest(TAG), &[("Content-Length", "0")]).await;
    connection.request("GET", "/v2/nonsense", &[]).await;
    connection.request("HEAD", &manifest(TAG), &[]).await;
    connection.request("GET", "/v2/", &[]).await;
    assert!(connection.answer("GET").await.body == layer.bytes());
    assert_eq!(connection.answer("GET").await.body, image.manifest().bytes);
    assert_eq!(connection.answer("GET").await.status(), 404);
    assert_eq!(connection.answer("HEAD").await.status(), 200);
    assert_eq!(connection.answer("GET").await.body, b"{}");
}

/// Issue 2: OCI error JSON also for what hyper answers by itself.
#[tokio::test]
async fn what_is_no_http_is_answered_in_the_registrys_own_form() {
    let hub = hub_with(&image(902, &[1_000])).await;
    let larder = Larder::of(&hub).await;
    let large = "x".repeat(40_000);
    let fields: String = (0..150).map(|number| format!("X-{number}: y\r\n")).collect();
    for (request, statuses) in [
        ("nonsense\r\n\r\n".to_owned(), &[400][..]),
        ("GET\r\n\r\n".to_owned(), &[400]),
        ("GET /v2/ HTTP/9.9\r\n\r\n".to_owned(), &[400]),
        ("G@T /v2/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), &[400]),
        ("GET /v2/\x00 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), &[400]),
        ("GET /v2/ HTTP/1.1\r\nHost: x\r\nX\x00Y: z\r\n\r\n".to_owned(), &[400]),
        ("GET /v2/ HTTP/1.1\r\nno colon\r\n\r\n".to_owned(), &[400]),
        (format!("GET /v2/{large} HTTP/1.1\r\nHost: x\r\n\r\n"), &[414, 431]),
        (format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nX: {large}\r\n\r\n"), &[431]),
        (format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n{fields}\r\n"), &[431]),
        (format!("GET /v2/?{} HTTP/1.1\r\nHost: x\r\n\r\n", "y".repeat(70_000)), &[414, 431]),
    ] {
        let start: String = request.chars().take(40).collect();
        let mut connection = larder.connect().await;
        connection.send(&request).await;
        let answer = connection.answer("GET").await;
        assert!(statuses.contains(&answer.status()), "{start:?}: {answer:?}");
        assert_eq!(answer.error_code(), "UNSUPPORTED", "{start:?}");
        assert_eq!(connection.end().await.0, End::Fin, "{start:?}");
    }
    assert_eq!(larder.get("/v2/").await.status(), 200);
}

/// RFC 9112, section 3.2: the host decides what a bare name means, so there is one.
#[tokio::test]
async fn a_request_with_no_host_or_with_two_is_refused() {
    let hub = hub_with(&image(909, &[1_000])).await;
    let larder = Larder::of(&hub).await;
    for fields in ["", "Host: a\r\nHost: b\r\n", "Host: a\r\nHost: a\r\n"] {
        let mut connection = larder.connect().await;
        connection.send(format!("GET {} HTTP/1.1\r\n{fields}\r\n", manifest(TAG))).await;
        assert_eq!(connection.answer("GET").await.error(), (400, "UNSUPPORTED".to_owned()), "{fields:?}");
    }
    let mut old = larder.connect().await;
    old.send(format!("GET {} HTTP/1.0\r\n\r\n", manifest(TAG))).await;
    assert_eq!(old.answer("GET").await.status(), 200);
    assert_eq!(hub.requests().on(Listener::Registry).method("HEAD").status(200).count(), 1);
}

/// Case 29: who uploads a gigabyte to a mirror hears no at once, and is not left hanging.
#[tokio::test]
async fn a_large_upload_is_refused_without_taking_it_and_without_a_reset() {
    let hub = hub_with(&image(903, &[1_000])).await;
    let larder = Larder::of(&hub).await;
    let before = larder.peak_memory();
    let (mut reader, mut writer) = TcpStream::connect(larder.address()).await.unwrap().into_split();
    let upload = tokio::spawn(async move {
        let head = "POST /v2/library/app/blobs/uploads/?digest=x HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n";
        writer.write_all(head.as_bytes()).await.unwrap();
        let piece = vec![0; 1 << 20];
        for _ in 0..1024 {
            if writer.write_all(&piece).await.is_err() {
                break;
            }
        }
    });
    let mut answer = vec![0; 4096];
    let count = reader.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("connection: close"), "{answer}");
    assert!(answer.contains(r#"{"errors":[{"code":"UNSUPPORTED""#), "{answer}");
    tokio::time::timeout(Duration::from_secs(60), upload).await.expect("the upload hangs").unwrap();
    assert!(larder.peak_memory() - before < 32 << 20);
    assert_eq!(hub.requests().count(), 0);
}

/// Case 29: many clients read no answer before they have sent everything. A reset would lose it.
#[tokio::test]
async fn a_client_that_sends_everything_first_still_finds_the_answer() {
    let hub = hub_with(&image(910, &[1_000])).await;
    let larder = Larder::of(&hub).await;
    let mut connection = larder.connect().await;
    let body = vec![0; 16 << 20];
    connection.send(format!("PUT {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", manifest(TAG), body.len())).await;
    assert!(connection.send(body).await, "it was reset before it had sent everything");
    assert_eq!(connection.answer("PUT").await.error(), (405, "UNSUPPORTED".to_owned()));
    assert_eq!(connection.end().await, (End::Fin, Vec::new()));
}

/// A client that asks first is not told to go on.
#[tokio::test]
async fn nobody_is_told_to_continue_with_an_upload() {
    let hub = hub_with(&image(904, &[1_000])).await;
    let larder = Larder::of(&hub).await;
    let upload = [("Expect", "100-continue"), ("Content-Length", "1073741824")];
    let answer = larder.ask("PUT", &manifest(TAG), &upload).await;
    assert_eq!(answer.error(), (405, "UNSUPPORTED".to_owned()));
}

/// Security rule 12: connections that say nothing or next to nothing are left after a while, and meanwhile harm nobody.
#[tokio::test]
async fn hundreds_of_connections_that_dribble_leave_room_for_pulls() {
    let image = image(905, &[300_000]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    pull(&larder, NAME, TAG).await;
    let silent = join_all((0..250).map(|_| larder.connect())).await;
    let dribbling = join_all((0..250).map(|_| larder.connect())).await;
    larder.until(|metrics| metrics.get("connections") >= 500.0).await;
    let silent = join_all(silent.into_iter().map(|mut connection| async move { connection.end().await }));
    let dribbling = join_all(dribbling.into_iter().map(|mut connection| async move {
        connection.send("GET /v2/ HTTP/1.1\r\nX: ").await;
        loop {
            connection.send("y").await;
            let pause = Duration::from_millis(500);
            if let Ok(ended) = tokio::time::timeout(pause, connection.end()).await {
                return ended;
            }
        }
    }));
    let pulls = async {
        for _ in 0..20 {
            assert_eq!(&larder.download(blob(layer)).await.digest, layer);
        }
        larder.metrics().await.get("connections")
    };
    let (silent, dribbling, connections) = tokio::join!(silent, dribbling, pulls);
    assert!(connections >= 250.0, "they were there all the while: {connections}");
    assert!(silent.iter().all(|(end, said)| *end == End::Fin && said.is_empty()));
    assert!(dribbling.iter().all(|(end, _)| *end != End::Complete));
    larder.until(|metrics| metrics.get("connections") <= 1.0).await;
}

/// Security rule 12: one client cannot have all the connections.
#[tokio::test]
async fn one_address_has_so_many_connections_and_no_more() {
    let image = image(906, &[1_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "limits.max_connections_per_client = 20").await;
    let greedy = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7));
    let mut seated = join_all((0..20).map(|_| Connection::open_from(greedy, larder.address()))).await;
    larder.until(|metrics| metrics.get("connections") >= 20.0).await;
    for _ in 0..5 {
        let mut surplus = Connection::open_from(greedy, larder.address()).await;
        let (end, said) = surplus.end().await;
        assert!(end != End::Complete && said.is_empty());
    }
    assert_eq!(larder.get(manifest(TAG)).await.status(), 200);
    assert_eq!(seated[0].ask("GET", "/v2/", &[]).await.status(), 200);
    drop(seated);
    larder.until(|metrics| metrics.get("connections") == 0.0).await;
    assert_eq!(Connection::open_from(greedy, larder.address()).await.ask("GET", "/v2/", &[]).await.status(), 200);
}

/// Security rule 9: what a client counts on is not what is allocated.
#[tokio::test]
async fn a_number_without_bounds_is_bounded() {
    let hub = hub_with(&image(907, &[1_000])).await;
    let larder = Larder::of(&hub).await;
    let before = larder.peak_memory();
    for number in ["9223372036854775808", "18446744073709551615", "99999999999999999999999999"] {
        let answer = larder.get(format!("/v2/{NAME}/tags/list?n={number}")).await;
        assert_eq!((answer.status(), answer.json()["tags"][0].as_str()), (200, Some(TAG)));
    }
    for record in hub.requests().path_contains("/tags/list").records() {
        assert!(record.query == "n=1000", "{record:?}");
    }
    assert!(larder.peak_memory() - before < 16 << 20);
}

/// Promise P5: a client that takes nothing holds nobody up, neither another client nor the fill.
#[tokio::test]
async fn a_client_that_takes_nothing_holds_nobody_up() {
    let image = image(908, &[16 << 20]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(layer).once().hold_at(1 << 20));
    let larder = Larder::of(&hub).await;
    let mut idle = Vec::new();
    for _ in 0..10 {
        let mut connection = larder.connect().await;
        connection.request("GET", &blob(layer), &[]).await;
        idle.push(connection);
    }
    gate.until_held(1).await;
    gate.release();
    assert_eq!(&larder.download(blob(layer)).await.digest, layer);
    larder.until_idle().await;
    assert!(larder.has(layer));
    assert!(larder.metrics().await.get("connections") >= 10.0);
    drop(idle);
}
