//! Statuses, headers and bodies, good and bad.

use futures::StreamExt;

use super::*;

#[tokio::test]
async fn requests_say_what_they_want_and_nothing_more() {
    let server = serve(|_| Reply::new(200).body(CONTENT));
    let registry = registry(config(&format!("{}/prefix/", server.url())));
    let digest = Digest::sha256(b"");
    let query = "artifactType=application%2Fvnd.x%2Bjson".to_owned();
    for (target, path, query, accept) in [
        (Target::Manifest("v1".parse().unwrap()), "manifests/v1".to_owned(), "", crate::oci::MANIFEST_ACCEPT),
        (Target::Manifest(Reference::Digest(digest)), format!("manifests/{digest}"), "", crate::oci::MANIFEST_ACCEPT),
        (Target::Blob(digest), format!("blobs/{digest}"), "", "*/*"),
        (Target::Tags { query: String::new() }, "tags/list".to_owned(), "", "application/json"),
        (Target::Tags { query: "n=5&last=a".to_owned() }, "tags/list".to_owned(), "n=5&last=a", "application/json"),
        (Target::Referrers { digest, query: String::new() }, format!("referrers/{digest}"), "", MediaType::OCI_INDEX),
        (
            Target::Referrers { digest, query },
            format!("referrers/{digest}"),
            "artifactType=application%2Fvnd.x%2Bjson",
            MediaType::OCI_INDEX,
        ),
    ] {
        fetch(&registry, question("a/b", target, Method::Get)).await.unwrap();
        let seen = server.seen().pop().unwrap();
        assert_eq!((seen.path(), seen.query()), (format!("/prefix/v2/a/b/{path}").as_str(), query));
        assert_eq!(seen.header("accept"), Some(accept));
        assert_eq!(seen.header_names(), ["accept", "accept-encoding", "user-agent", "host"]);
    }
}

#[tokio::test]
async fn the_headers_that_matter_are_read_and_the_others_are_not() {
    let digest = Digest::sha256(CONTENT);
    let server = serve(move |seen| match seen.repository() {
        "good" => Reply::new(200)
            .header("content-type", "application/vnd.oci.image.index.v1+json; charset=utf-8")
            .header("docker-content-digest", &digest.to_string())
            .header("link", "</v2/x/tags/list?last=b>; rel=\"next\"")
            .header("oci-filters-applied", "artifactType")
            .header("warning", "299 - \"deprecated\"")
            .header("ratelimit-limit", "100;w=21600")
            .header("ratelimit-remaining", "76;w=21600")
            .header("docker-ratelimit-source", "192.0.2.7")
            .body(CONTENT),
        _ => Reply::new(200)
            .header("content-type", "nonsense")
            .header("docker-content-digest", "sha256:short")
            .header("ratelimit-remaining", "many")
            .chunked(CONTENT),
    });
    let notes = Arc::new(Notes::default());
    let registry = registry_seen_by(config(&server.url()), Arc::clone(&notes));
    let (head, body) = fetch(&registry, manifest("good")).await.unwrap();
    let limit = RateLimit {
        limit: Some(100),
        remaining: 76,
        window: Some(Duration::from_secs(21_600)),
        source: Some("192.0.2.7".to_owned()),
    };
    let expected = Head {
        content_length: Some(10),
        content_type: Some(MediaType::OCI_INDEX.parse().unwrap()),
        digest: Some(digest),
        content_range: None,
        link: Some("</v2/x/tags/list?last=b>; rel=\"next\"".to_owned()),
        filters_applied: Some("artifactType".to_owned()),
        warning: Some("299 - \"deprecated\"".to_owned()),
        rate_limit: Some(limit.clone()),
    };
    assert_eq!((head, body.as_slice()), (expected.clone(), CONTENT));
    let asked = Question { method: Method::Head, ..manifest("good") };
    assert_eq!(fetch(&registry, asked).await.unwrap(), (expected, Vec::new()));
    assert_eq!(fetch(&registry, manifest("bad")).await.unwrap(), (Head::default(), CONTENT.to_vec()));
    assert_eq!(*notes.received.lock().unwrap(), 20);
    assert_eq!(*notes.limits.lock().unwrap(), [limit.clone(), limit]);
    assert_eq!(*notes.asked.lock().unwrap(), [("manifest", "GET", 200), ("manifest", "HEAD", 200), ("manifest", "GET", 200)]);
}

#[tokio::test]
async fn statuses_become_errors_that_say_what_they_are() {
    let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(3600));
    let limited =
        |seconds: u64| UpstreamError::RateLimited { retry_after: Some(Duration::from_secs(seconds)), by: Party::Registry };
    for (status, retry_after, expected, transient) in [
        (404, "", UpstreamError::NotFound, false),
        (410, "", UpstreamError::NotFound, false),
        (403, "", UpstreamError::denied(403), false),
        (405, "", UpstreamError::status(405), false),
        (400, "", UpstreamError::status(400), false),
        (416, "", UpstreamError::status(416), false),
        (500, "", UpstreamError::status(500), true),
        (503, "5", UpstreamError::status(503), true),
        (204, "", UpstreamError::status(204), false),
        (304, "", UpstreamError::status(304), false),
        (429, "17", limited(17), false),
        (429, "99999999999", limited(86_400), false),
        (429, "0", limited(1), false),
        (429, "Thu, 01 Jan 1970 00:00:00 GMT", UpstreamError::RateLimited { retry_after: None, by: Party::Registry }, false),
        (429, "880µs, allowed: 44000/minute", UpstreamError::RateLimited { retry_after: None, by: Party::Registry }, false),
        (429, "", UpstreamError::RateLimited { retry_after: None, by: Party::Registry }, false),
    ] {
        let server = serve(move |_| Reply::new(status).header("retry-after", retry_after));
        let error = fetch_error(&registry(config(&server.url())), manifest("a/b")).await;
        assert_eq!((error.is_transient(), error), (transient, expected), "{status} {retry_after}");
        assert_eq!(server.seen().len(), 1);
    }
    let server = serve(move |_| Reply::new(429).header("retry-after", &date));
    let error = fetch_error(&registry(config(&server.url())), manifest("a/b")).await;
    let UpstreamError::RateLimited { retry_after: Some(after), by: Party::Registry } = error else { panic!("{error}") };
    assert!((3500..=3600).contains(&after.as_secs()), "{after:?}");
}

/// Fault 37: the clock of this machine, or of the registry, is wrong.
#[tokio::test]
async fn a_date_to_come_again_counts_from_the_answers_own() {
    const MONTH: u64 = 30 * 86_400;
    let at = |seconds: u64| httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(seconds));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for (date, until, expected) in [
        (Some(now + MONTH), now + MONTH + 90, Some(90)),
        (Some(now - MONTH), now - MONTH + 90, Some(90)),
        (Some(now), now + MONTH, Some(86_400)),
        (Some(now), now, None),
        (Some(now), now - 90, None),
        (None, now + MONTH, None),
        (None, now - MONTH, None),
    ] {
        let (date, until) = (date.map(at), at(until));
        let server = serve(move |_| {
            let reply = Reply::new(429).header("retry-after", &until);
            date.iter().fold(reply, |reply, date| reply.header("date", date))
        });
        let error = fetch_error(&registry(config(&server.url())), manifest("a/b")).await;
        let retry_after = expected.map(Duration::from_secs);
        assert_eq!(error, UpstreamError::RateLimited { retry_after, by: Party::Registry });
    }
}

#[tokio::test]
async fn of_a_denials_body_only_its_code_is_kept() {
    let long = [b"{\"errors\":[{\"code\":\"DENIED\"}],\"x\":\"".as_slice(), &[b'x'; 100_000], b"\"}"].concat();
    for (body, expected) in [
        (br#"{"errors":[{"code":"DENIED","message":"canary"}]}"#.to_vec(), Some("DENIED")),
        (br#"{"errors":[{"code":"canary canary"}]}"#.to_vec(), None),
        (br#"{"errors":[]}"#.to_vec(), None),
        (b"<html>canary</html>".to_vec(), None),
        (long, None),
    ] {
        let server = serve(move |_| Reply::new(403).body(&body));
        let error = fetch_error(&registry(config(&server.url())), manifest("a/b")).await;
        let code = expected.map(str::to_owned);
        assert_eq!(error, UpstreamError::Denied { status: 403, by: Party::Registry, code });
    }
}

#[tokio::test]
async fn a_body_that_is_not_what_was_declared_ends_with_an_error() {
    type Case = (fn() -> Reply, fn(&UpstreamError) -> bool);
    let broken = |error: &UpstreamError| matches!(error, UpstreamError::Broken { .. });
    let stalled = |error: &UpstreamError| *error == UpstreamError::Timeout { phase: Phase::Body };
    let cases: [Case; 5] = [
        (|| Reply::new(206).header("content-range", "bytes 5-9/10").cut(b"56", 5), broken),
        (|| Reply::new(206).header("content-range", "bytes 5-9/10").stalled(b"56", 5), stalled),
        (|| Reply::new(206).header("content-range", "bytes 5-9/10").chunked(b"5678"), broken),
        (|| Reply::new(206).header("content-range", "bytes 5-9/10").chunked(b"567890"), broken),
        (|| Reply::new(200).stalled(b"", 10), stalled),
    ];
    for (number, (reply, expected)) in cases.into_iter().enumerate() {
        let server = serve(move |_| reply());
        let config = RegistryConfig { stall_timeout: Duration::from_millis(200), ..config(&server.url()) };
        let mut body = registry(config).ask(blob(Method::GetRange { first: 5, last: None })).await.unwrap().body;
        let error = loop {
            if let Err(error) = body.next().await.expect("the body ends with an error") {
                break error;
            }
        };
        assert!(expected(&error) && error.is_transient(), "{number}: {error}");
        assert!(body.next().await.is_none(), "nothing comes after an error");
    }
}

#[tokio::test]
async fn parts_are_taken_only_if_they_are_those_asked_for() {
    for range in [
        "bytes 4-8/10",
        "bytes 6-10/11",
        "bytes 4-9/10",
        "bytes 5-8/10",
        "bytes 5-4/10",
        "bytes 5-9/9",
        "bytes 5-x/10",
        "bytes +5-9/10",
        "bytes 5-18446744073709551615/*",
        "lines 5-9/10",
        "bytes */10",
        "",
    ] {
        let server = serve(move |_| Reply::new(206).header("content-range", range).body(b"56789"));
        let error = fetch_error(&registry(config(&server.url())), blob(Method::GetRange { first: 5, last: None })).await;
        assert!(matches!(error, UpstreamError::Broken { .. }), "{range}: {error}");
    }
    let unasked = serve(|_| Reply::new(206).header("content-range", "bytes 0-9/10").body(CONTENT));
    assert!(matches!(fetch_error(&registry(config(&unasked.url())), blob(Method::Get)).await, UpstreamError::Broken { .. }));

    let unsized_whole = serve(|_| Reply::new(206).header("content-range", "bytes 5-9/*").body(b"56789"));
    let (head, body) =
        fetch(&registry(config(&unsized_whole.url())), blob(Method::GetRange { first: 5, last: None })).await.unwrap();
    assert_eq!((head.content_range, body.as_slice()), (Some(ContentRange { first: 5, last: 9, size: None }), &b"56789"[..]));

    let ignoring = serve(|_| Reply::new(200).body(CONTENT));
    let (head, body) = fetch(&registry(config(&ignoring.url())), blob(Method::GetRange { first: 5, last: None })).await.unwrap();
    assert_eq!((head.content_range, body.as_slice()), (None, CONTENT), "a 200 is the whole, and says so");

    let past_end = serve(|_| Reply::new(416).header("content-range", "bytes */3"));
    assert_eq!(
        fetch_error(&registry(config(&past_end.url())), blob(Method::GetRange { first: 5, last: None })).await,
        UpstreamError::RangeNotSatisfiable
    );
}

#[tokio::test]
async fn a_coded_body_is_refused_whoever_asked() {
    for coding in ["gzip", "ZSTD", "identity, br"] {
        let server = serve(move |_| Reply::new(200).header("content-encoding", coding).body(b"\x1f\x8b"));
        for question in [manifest("a/b"), blob(Method::Get), blob(Method::Head)] {
            let expected = Refusal::Encoded { host: "127.0.0.1".to_owned(), coding: coding.to_owned() };
            assert_eq!(fetch_error(&registry(config(&server.url())), question).await, expected.into());
        }
    }
    let server = serve(|_| Reply::new(200).header("content-encoding", "identity").body(CONTENT));
    assert_eq!(fetch(&registry(config(&server.url())), blob(Method::Get)).await.unwrap().1, CONTENT);
}

#[tokio::test]
async fn every_phase_has_its_deadline() {
    let silent = serve(|_| Reply::silence());
    let brief = RegistryConfig { headers_timeout: Duration::from_millis(200), ..config(&silent.url()) };
    let notes = Arc::new(Notes::default());
    let error = fetch_error(&registry_seen_by(brief, Arc::clone(&notes)), manifest("a/b")).await;
    assert_eq!(error, UpstreamError::Timeout { phase: Phase::Headers });
    assert_eq!(*notes.asked.lock().unwrap(), [("manifest", "GET", 0)]);

    // Connections are taken, and where a TLS handshake should be nothing comes.
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let handshake = format!("https://{}", deaf.local_addr().unwrap());
    let brief = RegistryConfig { connect_timeout: Duration::from_millis(200), ..config(&handshake) };
    assert_eq!(fetch_error(&registry(brief), manifest("a/b")).await, UpstreamError::Timeout { phase: Phase::Connect });

    let port = silent.port();
    drop(silent);
    // Wait until the port is closed for good.
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {}
    let error = fetch_error(&registry(config(&format!("http://127.0.0.1:{port}"))), manifest("a/b")).await;
    assert!(matches!(&error, UpstreamError::Unreachable { reason } if reason.contains("refused")), "{error}");

    let error = fetch_error(&registry(config("http://no-such-host.invalid")), manifest("a/b")).await;
    assert!(matches!(error, UpstreamError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn nonsense_in_place_of_http_is_no_answer() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"SSH-2.0-canary\r\n\r\n").await.unwrap();
        }
    });
    let error = fetch_error(&registry(config(&url)), manifest("a/b")).await;
    assert!(matches!(error, UpstreamError::NoAnswer { .. }) && !format!("{error:?}").contains("canary"), "{error:?}");
    server.abort();
}

#[tokio::test]
async fn blobs_at_once_have_a_connection_each() {
    let server = serve(|_| Reply::new(200).stalled(b"0", 10));
    let registry = registry(config(&server.url()));
    let mut bodies = Vec::new();
    for _ in 0..3 {
        let mut body = registry.ask(blob(Method::Get)).await.unwrap().body;
        assert_eq!(body.next().await.unwrap().unwrap(), &b"0"[..]);
        bodies.push(body);
    }
    let mut connections: Vec<_> = server.seen().iter().map(|seen| seen.connection).collect();
    connections.dedup();
    assert_eq!(connections.len(), 3);
}

#[tokio::test]
async fn connections_are_kept_across_challenges_and_redirects() {
    let server = serve(|seen| match (seen.path(), seen.header("authorization")) {
        ("/x", _) => Reply::new(200).body(CONTENT),
        (_, None) => Reply::new(401).header("www-authenticate", "Basic").body(&[b'x'; 4000]),
        (_, Some(_)) => Reply::redirect(307, "/x"),
    });
    let registry = registry(with_credential(config(&server.url())));
    for _ in 0..5 {
        fetch(&registry, blob(Method::Get)).await.unwrap();
    }
    assert_eq!((server.seen().len(), server.connections()), (11, 1));
}
