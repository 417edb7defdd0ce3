//! Challenges and what follows them.

use super::*;

#[tokio::test]
async fn a_bearer_challenge_costs_one_round_and_the_next_repository_none() {
    let fake = TokenRegistry::plain();
    let registry = registry(config(&fake.server.url()));
    assert_eq!(fetch(&registry, manifest("a/b")).await.unwrap().1, CONTENT);
    fetch(&registry, manifest("a/b")).await.unwrap();
    fetch(&registry, manifest("c/d")).await.unwrap();
    assert_eq!(fake.log(), ["bare", "token", "t1", "t1", "token", "t2"], "each repository has its own token");
    let seen = fake.server.seen();
    let scopes: Vec<_> = seen.iter().filter(|seen| seen.path() == "/token").map(Seen::query).collect();
    assert_eq!(scopes, ["service=s&scope=repository%3Aa%2Fb%3Apull", "service=s&scope=repository%3Ac%2Fd%3Apull"]);
    assert!(seen.iter().filter(|seen| seen.path() == "/token").all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test]
async fn the_credential_goes_to_the_token_server_and_only_there() {
    let fake = TokenRegistry::plain();
    let registry = registry(with_credential(config(&fake.server.url())));
    fetch(&registry, manifest("a/b")).await.unwrap();
    for seen in fake.server.seen() {
        let is_token = seen.path() == "/token";
        assert_eq!(seen.header("authorization") == Some(BASIC), is_token, "{seen:?}");
    }
}

#[tokio::test]
async fn a_revoked_token_is_replaced_once() {
    let fake = TokenRegistry::plain();
    let registry = registry(config(&fake.server.url()));
    fetch(&registry, manifest("a/b")).await.unwrap();
    fake.revoke();
    fetch(&registry, manifest("a/b")).await.unwrap();
    assert_eq!(fake.log(), ["bare", "token", "t1", "t1", "token", "t2"]);
}

#[tokio::test]
async fn a_token_with_too_few_rights_makes_no_loop() {
    let server = serve(|seen| match seen.path() {
        "/token" => Reply::json(r#"{"access_token":"weak"}"#),
        _ => Reply::new(401)
            .header(
                "www-authenticate",
                &format!(r#"Bearer realm="http://{}/token",error="insufficient_scope""#, seen.header("host").unwrap()),
            )
            .body(br#"{"errors":[{"code":"UNAUTHORIZED"}]}"#),
    });
    let registry = registry(config(&server.url()));
    let denied = UpstreamError::Denied { status: 401, by: Party::Registry, code: Some("UNAUTHORIZED".to_owned()) };
    assert_eq!(fetch_error(&registry, manifest("a/b")).await, denied);
    assert_eq!((server.seen().len(), server.count("/token")), (3, 1));
    // The cached token is tried, then a new one, and that is that.
    assert_eq!(fetch_error(&registry, manifest("a/b")).await, denied);
    assert_eq!((server.seen().len(), server.count("/token")), (6, 2));
    // A token that was fetched ahead of the question is as new as it can be.
    assert_eq!(fetch_error(&registry, manifest("c/d")).await, UpstreamError::denied(401));
    assert_eq!((server.seen().len(), server.count("/token")), (8, 3));
}

#[tokio::test]
async fn basic_is_sent_after_a_challenge_and_from_then_on() {
    let server = serve(|seen| match seen.header("authorization") {
        Some(BASIC) => Reply::new(200).body(CONTENT),
        _ => Reply::new(401).header("www-authenticate", r#"BASIC realm="Nexus""#),
    });
    let knowing = registry(with_credential(config(&server.url())));
    fetch(&knowing, manifest("a/b")).await.unwrap();
    fetch(&knowing, manifest("c/d")).await.unwrap();
    let sent: Vec<_> = server.seen().iter().map(|seen| seen.header("authorization").map(str::to_owned)).collect();
    assert_eq!(sent, [None, Some(BASIC.to_owned()), Some(BASIC.to_owned())]);

    let anonymous = registry(config(&server.url()));
    assert_eq!(fetch_error(&anonymous, manifest("a/b")).await, UpstreamError::denied(401));
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn a_wrong_password_is_tried_once() {
    let server = serve(|_| Reply::new(401).header("www-authenticate", "Basic realm=\"x\""));
    let registry = registry(with_credential(config(&server.url())));
    assert_eq!(fetch_error(&registry, manifest("a/b")).await, UpstreamError::denied(401));
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn no_challenge_is_a_denial() {
    for status in [401, 403] {
        let server = serve(move |_| Reply::new(status));
        let registry = registry(with_credential(config(&server.url())));
        assert_eq!(fetch_error(&registry, manifest("a/b")).await, UpstreamError::denied(status));
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_scope_that_cannot_be_guessed_is_remembered_by_repository() {
    let fake = TokenRegistry::new(|_| "aws".to_owned(), |token| Reply::json(&format!(r#"{{"token":"{token}"}}"#)));
    let registry = registry(config(&fake.server.url()));
    for repository in ["a/b", "a/b", "c/d", "a/b", "c/d"] {
        fetch(&registry, manifest(repository)).await.unwrap();
    }
    assert_eq!(fake.log(), ["bare", "token", "t1", "t1", "bare", "token", "t2", "t1", "t2"]);
}

#[tokio::test]
async fn a_wrong_guess_corrects_itself() {
    // One repository among ordinary ones wants something else, as do lists of tags (Azure).
    let server = serve(|seen| {
        if seen.path() == "/token" {
            let scope = seen.query().split("scope=").nth(1).unwrap().replace("%3A", "-").replace("%2F", "-");
            return Reply::json(&format!(r#"{{"token":"{scope}"}}"#));
        }
        let wanted = match (seen.repository(), seen.path().ends_with("/tags/list")) {
            (repository, true) => format!("repository:{repository}:metadata_read"),
            ("odd/one", _) => "odd".to_owned(),
            (repository, false) => format!("repository:{repository}:pull"),
        };
        if seen.header("authorization") == Some(&format!("Bearer {}", wanted.replace([':', '/'], "-"))) {
            return Reply::new(200).body(CONTENT);
        }
        let host = seen.header("host").unwrap();
        Reply::new(401).header("www-authenticate", &format!(r#"Bearer realm="http://{host}/token",scope="{wanted}""#))
    });
    let registry = registry(config(&server.url()));
    let tags = || question("a/b", Target::Tags { query: String::new() }, Method::Get);
    for question in [manifest("a/b"), manifest("odd/one"), tags()] {
        fetch(&registry, question).await.unwrap();
    }
    let learnt = server.seen().len();
    for question in [manifest("a/b"), manifest("odd/one"), tags(), manifest("a/b"), tags()] {
        fetch(&registry, question).await.unwrap();
    }
    assert_eq!(server.seen().len(), learnt + 5, "what was learnt is not forgotten for each other");
}

#[tokio::test]
async fn a_guess_that_the_token_server_denies_is_left_to_the_registry() {
    let server = serve(|seen| match (seen.path(), seen.header("authorization")) {
        ("/token", _) if seen.query().contains("open") => Reply::json(r#"{"token":"t"}"#),
        ("/token", _) => Reply::new(403),
        ("/v2/free/manifests/latest", _) | (_, Some(_)) => Reply::new(200).body(CONTENT),
        (_, None) => {
            let host = seen.header("host").unwrap();
            Reply::new(401).header("www-authenticate", &format!(r#"Bearer realm="http://{host}/token""#))
        }
    });
    let registry = registry(config(&server.url()));
    fetch(&registry, manifest("open")).await.unwrap();
    fetch(&registry, manifest("free")).await.unwrap();
    assert_eq!(server.count("/v2/free/manifests/latest"), 1, "it needs no token, whatever the token server says");
    let (tokens, all) = (server.count("/token"), server.seen().len());
    let denied = UpstreamError::Denied { status: 403, by: Party::TokenServer, code: None };
    assert_eq!(fetch_error(&registry, manifest("closed")).await, denied);
    assert_eq!((server.count("/token"), server.seen().len()), (tokens + 1, all + 2), "the same is not asked for twice");
    fetch(&registry, manifest("open/too")).await.unwrap();
    assert_eq!(server.count("/v2/open/too/manifests/latest"), 1, "one denial does not unlearn what is true for the others");
}

#[tokio::test]
async fn an_expired_token_that_is_answered_with_basic_is_renewed() {
    // Harbor: anonymous requests are challenged with Bearer, those with a bad token with Basic.
    let given = Mutex::new(0);
    let server = serve(move |seen| {
        let mut given = given.lock().unwrap();
        match (seen.path(), seen.header("authorization")) {
            ("/token", _) => {
                *given += 1;
                Reply::json(&format!(r#"{{"token":"t{given}"}}"#))
            }
            (_, Some("Bearer t1")) if *given == 1 && !seen.path().contains("other") => Reply::new(200).body(CONTENT),
            (_, Some("Bearer t2")) => Reply::new(200).body(CONTENT),
            (_, Some(_)) => Reply::new(401).header("www-authenticate", r#"Basic realm="harbor""#),
            (_, None) => {
                let host = seen.header("host").unwrap();
                Reply::new(401).header("www-authenticate", &format!(r#"Bearer realm="http://{host}/token""#))
            }
        }
    });
    let registry = registry(config(&server.url()));
    fetch(&registry, manifest("a/b")).await.unwrap();
    let other = question("a/b", Target::Manifest("other".parse().unwrap()), Method::Get);
    fetch(&registry, other).await.unwrap();
    assert_eq!(server.count("/token"), 2);
}
