//! Challenges, tokens, passwords, limits.

use std::time::Duration;

use larder_testkit::{Auth, ExpiresIn, Hub, Image, Listener, RateLimit, Repository, TokenFields};
use serde_json::json;

use crate::client::{NAME, ask, get, get_as, manifest_url, token};

async fn hub_with_auth() -> Hub {
    let image = Image::builder().layer("content").build();
    Hub::builder()
        .repository(Repository::new(NAME).tag("1", &image))
        .user("alice", "secret")
        .user("bob", "other")
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn anonymous_clients_are_challenged_get_a_token_and_then_the_manifest() {
    let hub = hub_with_auth().await;
    let url = manifest_url(&hub, "1");

    let refused = get(&url).await;
    assert_eq!((refused.status, refused.error_code()), (401, "UNAUTHORIZED".to_owned()));
    let realm = hub.url_of(Listener::Token);
    assert_eq!(
        refused.header("www-authenticate").unwrap(),
        format!("Bearer realm=\"{realm}/token\",service=\"registry.docker.io\",scope=\"repository:{NAME}:pull\"")
    );

    let token = token(&hub, None).await;
    assert_eq!(get_as(&url, &token).await.status, 200);
    assert_eq!(get_as(&format!("{}/v2/", hub.url()), &token).await.status, 200);
    assert_eq!(
        hub.requests().lines(),
        [
            format!("registry GET /v2/{NAME}/manifests/1 401"),
            "token GET /token 200".to_owned(),
            format!("registry GET /v2/{NAME}/manifests/1 200"),
            "registry GET /v2/ 200".to_owned(),
        ]
    );
}

#[tokio::test]
async fn a_token_ends_with_its_lifetime_whatever_was_said_of_it() {
    let hub = hub_with_auth().await;
    hub.configure(|config| {
        config.token.lifetime = Duration::ZERO;
        config.token.expires_in = ExpiresIn::Literal(json!(300));
    });
    let token = token(&hub, None).await;
    let refused = get_as(&manifest_url(&hub, "1"), &token).await;
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").unwrap().ends_with("error=\"invalid_token\""));
}

#[tokio::test]
async fn revoked_tokens_are_invalid() {
    let hub = hub_with_auth().await;
    let token = token(&hub, None).await;
    hub.revoke_tokens();
    assert_eq!(get_as(&manifest_url(&hub, "1"), &token).await.status, 401);
}

#[tokio::test]
async fn a_private_repository_is_for_its_readers_alone() {
    let hub = hub_with_auth().await;
    hub.configure(|config| {
        config.private.insert(NAME.to_owned(), ["alice".to_owned()].into());
    });
    let url = manifest_url(&hub, "1");
    for credential in [None, Some("bob:other")] {
        let token = token(&hub, credential).await;
        let refused = get_as(&url, &token).await;
        assert_eq!(refused.status, 401);
        let challenge = refused.header("www-authenticate").unwrap();
        assert!(challenge.ends_with("error=\"insufficient_scope\""), "{challenge}");
    }
    let token = token(&hub, Some("alice:secret")).await;
    assert_eq!(get_as(&url, &token).await.status, 200);
}

#[tokio::test]
async fn unknown_repositories_can_be_hidden_as_docker_hub_does() {
    let hub = hub_with_auth().await;
    let token = token(&hub, None).await;
    let url = manifest_url(&hub, "none");
    assert_eq!(get_as(&url, &token).await.status, 404);
    hub.remove_repository(NAME);
    assert_eq!(get_as(&url, &token).await.status, 404);
    hub.configure(|config| config.hide_unknown = true);
    let token = crate::client::token(&hub, None).await;
    assert_eq!(get_as(&url, &token).await.status, 401);
}

#[tokio::test]
async fn a_wrong_password_gets_no_token() {
    let hub = hub_with_auth().await;
    let url = format!("{}/token?scope=repository:{NAME}:pull", hub.url_of(Listener::Token));
    // alice:wrong
    let answer = ask("GET", &url, &[("Authorization", "Basic YWxpY2U6d3Jvbmc=")]).await;
    assert_eq!(answer.status, 401);
    assert_eq!(ask("POST", &url, &[]).await.status, 405);
}

#[tokio::test]
async fn the_fields_of_a_token_reply_can_be_chosen() {
    let hub = hub_with_auth().await;
    let url = format!("{}/token?scope=repository:{NAME}:pull", hub.url_of(Listener::Token));
    let both = get(&url).await.json();
    assert_eq!(both["token"], both["access_token"]);
    assert_eq!(both["expires_in"], 300);
    for (fields, present, absent) in
        [(TokenFields::Token, "token", "access_token"), (TokenFields::AccessToken, "access_token", "token")]
    {
        hub.configure(|config| config.token.fields = fields);
        let reply = get(&url).await.json();
        assert!(reply[present].is_string() && reply[absent].is_null(), "{reply}");
    }
    for (said, expected) in [
        (ExpiresIn::Absent, json!(null)),
        (ExpiresIn::Literal(json!(0)), json!(0)),
        (ExpiresIn::Literal(json!("300")), json!("300")),
    ] {
        hub.configure(|config| config.token.expires_in = said);
        assert_eq!(get(&url).await.json()["expires_in"], expected);
    }
    hub.configure(|config| config.token.redirect = Some("http://127.0.0.1:1/x".to_owned()));
    assert_eq!(get(&url).await.header("location"), Some("http://127.0.0.1:1/x"));
}

#[tokio::test]
async fn challenges_can_be_any_lines_or_none() {
    let hub = hub_with_auth().await;
    let lines = ["Basic realm=\"a, b\"", "bearer realm=http://169.254.169.254/"];
    hub.configure(|config| config.challenge = Some(lines.map(str::to_owned).to_vec()));
    let refused = get(&manifest_url(&hub, "1")).await;
    let sent = refused.headers.iter().filter(|(name, _)| name == "WWW-Authenticate");
    assert_eq!(sent.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), lines);

    hub.configure(|config| config.challenge = Some(Vec::new()));
    let refused = get(&manifest_url(&hub, "1")).await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, None));
}

#[tokio::test]
async fn basic_auth_asks_for_a_password_everywhere() {
    let hub = hub_with_auth().await;
    hub.configure(|config| config.auth = Auth::Basic);
    let url = manifest_url(&hub, "1");
    let refused = get(&url).await;
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").unwrap().starts_with("Basic realm="));
    // alice:secret
    let alice = [("Authorization", "Basic YWxpY2U6c2VjcmV0")];
    assert_eq!(ask("GET", &url, &alice).await.status, 200);
    hub.configure(|config| {
        config.private.insert(NAME.to_owned(), ["bob".to_owned()].into());
    });
    let denied = ask("GET", &url, &alice).await;
    assert_eq!((denied.status, denied.error_code()), (403, "DENIED".to_owned()));
}

#[tokio::test]
async fn the_rate_limit_counts_gets_of_manifests_by_identity() {
    let hub = hub_with_auth().await;
    hub.configure(|config| config.rate_limit = Some(RateLimit::of(2).retry_after(7)));
    let url = manifest_url(&hub, "1");
    let anonymous = token(&hub, None).await;
    let bearer = format!("Bearer {anonymous}");

    let head = ask("HEAD", &url, &[("Authorization", &bearer)]).await;
    assert_eq!(head.header("ratelimit-remaining"), Some("2;w=21600"));
    for remaining in ["1;w=21600", "0;w=21600"] {
        let answer = get_as(&url, &anonymous).await;
        assert_eq!((answer.status, answer.header("ratelimit-remaining")), (200, Some(remaining)));
        assert_eq!(answer.header("ratelimit-limit"), Some("2;w=21600"));
        assert_eq!(answer.header("docker-ratelimit-source"), Some("127.0.0.1"));
    }
    let refused = get_as(&url, &anonymous).await;
    assert_eq!((refused.status, refused.error_code()), (429, "TOOMANYREQUESTS".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("7"));
    assert_eq!(ask("HEAD", &url, &[("Authorization", &bearer)]).await.status, 200);

    let alice = token(&hub, Some("alice:secret")).await;
    assert_eq!(get_as(&url, &alice).await.status, 200);
    hub.reset_rate_limit();
    assert_eq!(get_as(&url, &anonymous).await.status, 200);
}
