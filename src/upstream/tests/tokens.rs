//! Token servers: shared, slow, greedy, down, and gone.

use super::*;

#[tokio::test]
async fn fifty_questions_at_once_cost_one_token() {
    let fake = TokenRegistry::plain();
    let registry = registry(config(&fake.server.url()));
    let asking = (0..50).map(|_| {
        let registry = registry.clone();
        tokio::spawn(async move { fetch(&registry, manifest("a/b")).await.map(|_| ()) })
    });
    for result in futures::future::join_all(asking).await {
        assert_eq!(result.unwrap(), Ok(()));
    }
    assert_eq!(fake.server.count("/token"), 1);
    // And one more when all of them find that it has been revoked.
    fake.revoke();
    let asking = (0..50).map(|_| fetch(&registry, manifest("a/b")));
    futures::future::try_join_all(asking).await.unwrap();
    assert_eq!(fake.server.count("/token"), 2);
}

#[tokio::test]
async fn a_token_is_renewed_early_behind_the_questions_and_waited_for_when_it_has_expired() {
    let fake = TokenRegistry::plain();
    let registry = registry(config(&fake.server.url()));
    fetch(&registry, manifest("a/b")).await.unwrap();
    let_pass(Duration::from_secs(240)).await;
    fetch(&registry, manifest("a/b")).await.unwrap();
    assert_eq!(fake.log(), ["bare", "token", "t1", "t1"], "at 80 % of its life it is as good as new");
    let_pass(Duration::from_secs(30)).await;
    fetch(&registry, manifest("a/b")).await.unwrap();
    eventually("the renewal", || fake.server.count("/token") == 2).await;
    assert_eq!(fake.log().iter().filter(|entry| *entry == "t1").count(), 3, "at 90 % it still serves");
    // The reply is on its way: let it arrive.
    tokio::time::sleep(Duration::from_millis(50)).await;
    fetch(&registry, manifest("a/b")).await.unwrap();
    assert_eq!(fake.log().last().unwrap(), "t2");
    let_pass(Duration::from_secs(400)).await;
    fetch(&registry, manifest("a/b")).await.unwrap();
    assert_eq!(fake.log().iter().rev().take(2).collect::<Vec<_>>(), ["t3", "token"]);
}

#[tokio::test]
async fn an_outage_of_the_token_server_is_not_noticed_while_a_token_lasts() {
    let down = Arc::new(Mutex::new(false));
    let is_down = Arc::clone(&down);
    let server = serve(move |seen| match (seen.path(), seen.header("authorization")) {
        ("/token", _) if *is_down.lock().unwrap() => Reply::new(503),
        ("/token", _) => Reply::json(r#"{"token":"t","expires_in":100}"#),
        (_, Some(_)) => Reply::new(200).body(CONTENT),
        (_, None) => {
            let host = seen.header("host").unwrap();
            Reply::new(401).header("www-authenticate", &format!(r#"Bearer realm="http://{host}/token""#))
        }
    });
    let registry = registry(config(&server.url()));
    fetch(&registry, manifest("a/b")).await.unwrap();
    *down.lock().unwrap() = true;
    let_pass(Duration::from_secs(90)).await;
    fetch(&registry, manifest("a/b")).await.unwrap();
    eventually("the renewal", || server.count("/token") == 2).await;
    // Give the failed renewal the time to be noted, then ask again: there is no new try until the old token has expired.
    tokio::time::sleep(Duration::from_millis(50)).await;
    fetch(&registry, manifest("a/b")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.count("/token"), 2);
    let_pass(Duration::from_secs(20)).await;
    assert_eq!(fetch_error(&registry, manifest("a/b")).await, UpstreamError::Status { status: 503, by: Party::TokenServer });
    *down.lock().unwrap() = false;
    fetch(&registry, manifest("a/b")).await.unwrap();
}

/// A registry whose token server answers like this.
fn with_token_server(reply: impl Fn() -> Reply + Send + Sync + 'static) -> Server {
    serve(move |seen| match seen.path() {
        "/token" => reply(),
        _ if seen.header("authorization").is_some() => Reply::new(200).body(CONTENT),
        _ => {
            let host = seen.header("host").unwrap();
            Reply::new(401).header("www-authenticate", &format!(r#"Bearer realm="http://{host}/token""#))
        }
    })
}

#[tokio::test]
async fn what_is_wrong_with_the_token_server_is_said_as_it_is() {
    let trap = serve(|_| Reply::json(r#"{"token":"t"}"#));
    let elsewhere = format!("{}/token2", trap.url());
    type Case = (Box<dyn Fn() -> Reply + Send + Sync>, UpstreamError);
    let denied = |status| UpstreamError::Denied { status, by: Party::TokenServer, code: None };
    let cases: Vec<Case> = vec![
        (Box::new(|| Reply::new(503)), UpstreamError::Status { status: 503, by: Party::TokenServer }),
        (
            Box::new(|| Reply::new(429).header("retry-after", "7")),
            UpstreamError::RateLimited { retry_after: Some(Duration::from_secs(7)), by: Party::TokenServer },
        ),
        (Box::new(|| Reply::new(401)), denied(401)),
        (Box::new(|| Reply::new(403)), denied(403)),
        (Box::new(|| Reply::new(404)), denied(404)),
        (Box::new(move || Reply::redirect(307, &elsewhere)), denied(307)),
        (
            Box::new(|| Reply::json("{\"token\":\"t\"}").header("content-encoding", "gzip")),
            Refusal::Encoded { host: "127.0.0.1".to_owned(), coding: "gzip".to_owned() }.into(),
        ),
        (Box::new(Reply::silence), UpstreamError::Timeout { phase: Phase::Token }),
        (Box::new(|| Reply::new(200).stalled(b"{", 100)), UpstreamError::Timeout { phase: Phase::Token }),
    ];
    for (reply, expected) in cases {
        let server = with_token_server(reply);
        let config = RegistryConfig { headers_timeout: Duration::from_millis(300), ..config(&server.url()) };
        assert_eq!(fetch_error(&registry(with_credential(config)), manifest("a/b")).await, expected);
        assert_eq!(server.count("/token"), 1, "{expected}");
    }
    assert_eq!(trap.connections(), 0, "the redirect of a token request was followed");
}

#[tokio::test]
async fn a_token_reply_of_a_gigabyte_is_not_read() {
    let server = with_token_server(|| Reply::new(200).endless(1 << 30));
    let notes = Arc::new(Notes::default());
    let registry = registry_seen_by(config(&server.url()), Arc::clone(&notes));
    assert!(matches!(fetch_error(&registry, manifest("a/b")).await, UpstreamError::NoAnswer { .. }));
}

#[tokio::test]
async fn a_registry_that_moves_to_another_token_server_is_followed() {
    let second = serve(|_| Reply::json(r#"{"token":"second"}"#));
    let first = serve(|_| Reply::json(r#"{"token":"first","expires_in":60}"#));
    let current = Arc::new(Mutex::new((first.url(), "Bearer first")));
    let now = Arc::clone(&current);
    let server = serve(move |seen| {
        let (realm, wanted) = now.lock().unwrap().clone();
        match seen.header("authorization") {
            Some(authorization) if authorization == wanted => Reply::new(200).body(CONTENT),
            _ => Reply::new(401).header("www-authenticate", &format!("Bearer realm=\"{realm}\"")),
        }
    });
    let registry = registry(config(&server.url()));
    fetch(&registry, manifest("a/b")).await.unwrap();
    drop(first);
    *current.lock().unwrap() = (second.url(), "Bearer second");
    let_pass(Duration::from_secs(100)).await;
    let error = fetch_error(&registry, manifest("a/b")).await;
    assert!(matches!(error, UpstreamError::Unreachable { .. } | UpstreamError::NoAnswer { .. }), "{error}");
    fetch(&registry, manifest("a/b")).await.unwrap();
}
