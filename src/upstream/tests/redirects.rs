//! Redirects: what goes along, what stays behind, and where they may not lead.

use std::net::Ipv4Addr;

use super::server::serve_on;
use super::*;
use crate::upstream::redirect::{Hop, Reach};
use crate::upstream::resolve::Resolver;
use crate::upstream::wire::{Request, Wire};

const CDN: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Answers a range request with its part, others with the whole.
fn content(seen: &Seen) -> Reply {
    let from = |range: &str| range.strip_prefix("bytes=")?.split('-').next()?.parse::<usize>().ok();
    match seen.header("range").and_then(from) {
        Some(first) => {
            let last = if seen.header("range") == Some("bytes=0-0") { 0 } else { CONTENT.len() - 1 };
            let range = format!("bytes {first}-{last}/{}", CONTENT.len());
            Reply::new(206).header("content-range", &range).body(&CONTENT[first..=last])
        }
        None => Reply::new(200).body(CONTENT),
    }
}

#[tokio::test]
async fn authorization_stays_with_the_registry_and_the_range_goes_along() {
    let store = serve_on(OTHER, None, content);
    let end = format!("{}/z?sig=2", store.url());
    let cdn = serve_on(CDN, None, move |_| Reply::redirect(307, &end));
    let next = format!("{}/y?sig=1", cdn.url());
    let server = serve(move |seen| match (seen.path(), seen.header("authorization")) {
        (_, None) => Reply::new(401).header("www-authenticate", "Basic"),
        ("/here", _) => Reply::redirect(302, &next),
        _ => Reply::redirect(307, "/here"),
    });
    let registry = registry(trusting(with_credential(config(&server.url())), &[&cdn, &store]));
    for _ in 0..2 {
        let (head, body) = fetch(&registry, blob(Method::GetRange { first: 4, last: None })).await.unwrap();
        assert_eq!(
            (body.as_slice(), head.content_range),
            (&CONTENT[4..], Some(ContentRange { first: 4, last: 9, size: Some(10) }))
        );
    }
    let own = server.seen();
    assert_eq!(own.len(), 5, "one challenge, then two hops for each question");
    assert!(own[1..].iter().all(|seen| seen.header("authorization") == Some(BASIC)));
    for seen in cdn.seen().iter().chain(&store.seen()) {
        assert_eq!(seen.header_names(), ["accept", "range", "accept-encoding", "user-agent", "host"]);
    }
    for seen in own.iter().chain(&cdn.seen()).chain(&store.seen()) {
        assert_eq!((seen.method.as_str(), seen.header("range")), ("GET", Some("bytes=4-")));
        assert_eq!((seen.header("accept-encoding"), seen.header("user-agent")), (Some("identity"), Some("larder/test")));
    }
    assert_eq!((cdn.seen().len(), store.seen().len()), (2, 2));
}

#[tokio::test]
async fn every_kind_of_redirect_keeps_the_method() {
    for status in [301, 302, 303, 307, 308] {
        let cdn = serve_on(CDN, None, content);
        let target = cdn.url();
        let server = serve(move |_| Reply::redirect(status, &target));
        let registry = registry(trusting(config(&server.url()), &[&cdn]));
        fetch(&registry, blob(Method::Get)).await.unwrap();
        let (head, body) = fetch(&registry, blob(Method::Head)).await.unwrap();
        assert_eq!((head.content_length, body.len()), (Some(10), 0));
        fetch(&registry, manifest("a/b")).await.unwrap();
        let methods: Vec<_> = cdn.seen().iter().map(|seen| seen.method.clone()).collect();
        assert_eq!(methods, ["GET", "HEAD", "GET"], "{status}");
    }
}

#[tokio::test]
async fn private_addresses_are_not_connected_to() {
    let trap = serve_on(CDN, None, content);
    let port = trap.port();
    for (location, host) in [
        (format!("http://127.0.0.2:{port}/canary"), "127.0.0.2"),
        (format!("http://127.2:{port}/canary"), "127.0.0.2"),
        (format!("http://2130706434:{port}/canary"), "127.0.0.2"),
        (format!("http://[::ffff:127.0.0.2]:{port}/canary"), "[::ffff:7f00:2]"),
        ("http://169.254.169.254/canary".to_owned(), "169.254.169.254"),
        ("http://10.0.0.1/canary".to_owned(), "10.0.0.1"),
        (format!("http://localhost:{port}/canary"), "localhost"),
    ] {
        let server = serve(move |_| Reply::redirect(307, &location));
        let error = fetch_error(&registry(config(&server.url())), blob(Method::Get)).await;
        assert_eq!(error, Refusal::Address { host: host.to_owned() }.into());
        assert!(!error.is_transient());
    }
    assert_eq!(trap.connections(), 0);
}

#[tokio::test]
async fn a_foreign_name_is_connected_to_at_public_addresses_only() {
    let trap = serve(content);
    let notes = Arc::new(Notes::default());
    let resolver = Resolver::new(Duration::from_secs(5), Duration::from_secs(5));
    let wire = Wire::new(&config("https://r.example.org/"), Proxies::none(), resolver, notes).unwrap();
    let url: url::Url = format!("http://localhost:{}/", trap.port()).parse().unwrap();
    for kind in ["blob", "manifest"] {
        let hop = Hop { url: url.clone(), reach: Reach::Foreign };
        let request = Request { kind, method: reqwest::Method::GET, hop: &hop, headers: reqwest::header::HeaderMap::new() };
        let error = wire.send(request).await.expect_err("it has no public address");
        assert_eq!(error, Refusal::Address { host: "localhost".to_owned() }.into());
    }
    assert_eq!(trap.connections(), 0);
}

#[tokio::test]
async fn the_registrys_own_host_is_fine_at_any_address_but_gets_no_authorization_at_another_port() {
    let cdn = serve(content);
    let target = cdn.url();
    let server = serve(move |seen| match seen.header("authorization") {
        None => Reply::new(401).header("www-authenticate", "Basic"),
        Some(_) => Reply::redirect(307, &target),
    });
    fetch(&registry(with_credential(config(&server.url()))), blob(Method::Get)).await.unwrap();
    assert_eq!(cdn.seen()[0].header("authorization"), None);
}

#[tokio::test]
async fn redirects_end_after_five() {
    let server = serve(|seen| Reply::redirect(307, &format!("{}x", seen.path())));
    let error = fetch_error(&registry(config(&server.url())), blob(Method::Get)).await;
    assert!(matches!(error, UpstreamError::Refused(Refusal::Redirect { .. })), "{error}");
    assert_eq!(server.seen().len(), 6);

    let lost = serve(|_| Reply::new(307));
    let error = fetch_error(&registry(config(&lost.url())), blob(Method::Get)).await;
    assert!(matches!(error, UpstreamError::Refused(Refusal::Redirect { .. })), "{error}");
}

#[tokio::test]
async fn the_limits_of_a_cdn_are_not_those_of_the_registry() {
    let limited = |seen: &Seen| content(seen).header("ratelimit-limit", "9;w=60").header("ratelimit-remaining", "0;w=60");
    let cdn = serve_on(CDN, None, limited);
    let target = cdn.url();
    let server = serve(move |seen| if seen.repository() == "a/b" { Reply::redirect(307, &target) } else { limited(seen) });
    let notes = Arc::new(Notes::default());
    let registry = registry_seen_by(trusting(config(&server.url()), &[&cdn]), Arc::clone(&notes));
    let (head, _) = fetch(&registry, manifest("a/b")).await.unwrap();
    assert_eq!((head.rate_limit, notes.limits.lock().unwrap().len()), (None, 0));
    let (head, _) = fetch(&registry, manifest("own")).await.unwrap();
    assert_eq!(head.rate_limit.map(|limit| limit.remaining), Some(0));
}

#[tokio::test]
async fn a_cdn_that_refuses_head_is_asked_for_the_first_byte() {
    for status in [400, 403, 405] {
        let cdn = serve_on(CDN, None, move |seen| if seen.method == "HEAD" { Reply::new(status) } else { content(seen) });
        let target = cdn.url();
        let server = serve(move |_| Reply::redirect(307, &target));
        let registry = registry(trusting(config(&server.url()), &[&cdn]));
        let (head, body) = fetch(&registry, blob(Method::Head)).await.unwrap();
        assert_eq!((head.content_length, head.content_range, body.len()), (Some(10), None, 0));
        let asked: Vec<_> =
            cdn.seen().iter().map(|seen| (seen.method.clone(), seen.header("range").map(str::to_owned))).collect();
        assert_eq!(asked, [("HEAD".to_owned(), None), ("GET".to_owned(), Some("bytes=0-0".to_owned()))]);
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_probe_bears_with_whole_and_with_empty_blobs() {
    let whole = serve(|seen| if seen.method == "HEAD" { Reply::new(405) } else { Reply::new(200).body(CONTENT) });
    let (head, body) = fetch(&registry(config(&whole.url())), blob(Method::Head)).await.unwrap();
    assert_eq!((head.content_length, body.len()), (Some(10), 0));

    let empty = serve(|seen| match seen.method.as_str() {
        "HEAD" => Reply::new(405),
        _ => Reply::new(416).header("content-range", "bytes */0"),
    });
    let (head, _) = fetch(&registry(config(&empty.url())), blob(Method::Head)).await.unwrap();
    assert_eq!(head.content_length, Some(0));

    let vague = serve(|seen| match seen.method.as_str() {
        "HEAD" => Reply::new(405),
        _ => Reply::new(206).header("content-range", "bytes 0-0/*").body(b"0"),
    });
    assert!(matches!(fetch_error(&registry(config(&vague.url())), blob(Method::Head)).await, UpstreamError::Broken { .. }));
}

#[tokio::test]
async fn an_expired_signature_is_replaced_by_a_fresh_redirect() {
    for status in [400, 401, 403] {
        let cdn = serve_on(CDN, None, move |seen| if seen.query() == "sig=2" { content(seen) } else { Reply::new(status) });
        let (target, signed) = (cdn.url(), Mutex::new(0));
        let server = serve(move |_| {
            let mut signed = signed.lock().unwrap();
            *signed += 1;
            Reply::redirect(307, &format!("{target}/x?sig={signed}"))
        });
        let registry = registry(trusting(config(&server.url()), &[&cdn]));
        let (_, body) = fetch(&registry, blob(Method::GetRange { first: 3, last: None })).await.unwrap();
        assert_eq!(body, &CONTENT[3..]);
        assert!(cdn.seen().iter().all(|seen| seen.header("range") == Some("bytes=3-")));
        assert_eq!((server.seen().len(), cdn.seen().len()), (2, 2), "{status}");
    }
}

#[tokio::test]
async fn a_cdn_that_always_refuses_is_asked_twice() {
    let cdn = serve_on(CDN, None, |_| Reply::new(403).header("www-authenticate", "Basic"));
    let target = cdn.url();
    let server = serve(move |_| Reply::redirect(307, &target));
    let registry = registry(trusting(with_credential(config(&server.url())), &[&cdn]));
    let denied = UpstreamError::Denied { status: 403, by: Party::Storage, code: None };
    assert_eq!(fetch_error(&registry, blob(Method::Get)).await, denied);
    assert_eq!((server.seen().len(), cdn.seen().len()), (2, 2));
    assert!(cdn.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test]
async fn the_limits_of_a_cdn_are_its_own() {
    let cdn = serve_on(CDN, None, |_| Reply::new(429).header("retry-after", "7").header("ratelimit-remaining", "0"));
    let target = cdn.url();
    let server = serve(move |_| Reply::redirect(307, &target));
    let notes = Arc::new(Notes::default());
    let registry = registry_seen_by(trusting(config(&server.url()), &[&cdn]), Arc::clone(&notes));
    let limited = UpstreamError::RateLimited { retry_after: Some(Duration::from_secs(7)), by: Party::Storage };
    assert_eq!(fetch_error(&registry, blob(Method::Get)).await, limited);
    assert!(notes.limits.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_token_that_expires_and_a_signature_that_has_expired_are_two_detours() {
    let fake = TokenRegistry::plain();
    let (registry_url, first) = (fake.server.url(), Mutex::new(true));
    let cdn = serve_on(CDN, None, move |seen| {
        let expired = std::mem::take(&mut *first.lock().unwrap());
        if expired { Reply::new(403) } else { content(seen) }
    });
    let target = cdn.url();
    let front = serve(move |seen| match seen.header("authorization") {
        Some(_) => Reply::redirect(307, &target),
        None => Reply::new(401).header("www-authenticate", &format!(r#"Bearer realm="{registry_url}/token""#)),
    });
    let registry = registry(trusting(config(&front.url()), &[&cdn]));
    assert_eq!(fetch(&registry, blob(Method::Get)).await.unwrap().1, CONTENT);
    assert_eq!((front.seen().len(), fake.server.count("/token"), cdn.seen().len()), (3, 1, 2));
}

#[tokio::test]
async fn through_a_proxy_the_proxy_resolves_and_literal_addresses_are_still_checked() {
    let proxy = serve(|seen| match seen.target.as_str() {
        target if target.starts_with("http://cdn.invalid/") => content(seen),
        target if target.contains("/blobs/") => Reply::redirect(307, "http://cdn.invalid/x"),
        target if target.contains("/tags/") => Reply::redirect(307, "http://10.0.0.1/x"),
        _ => Reply::new(500),
    });
    let config = config("http://registry.invalid/");
    let registry = Registry::with_proxies(config, Arc::new(Notes::default()), Proxies::one(&proxy.url())).unwrap();
    assert_eq!(fetch(&registry, blob(Method::Get)).await.unwrap().1, CONTENT);
    let tags = question("a/b", Target::Tags { query: String::new() }, Method::Get);
    assert_eq!(fetch_error(&registry, tags).await, Refusal::Address { host: "10.0.0.1".to_owned() }.into());
    assert_eq!(proxy.seen().len(), 3);
}
