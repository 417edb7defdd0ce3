//! How the mirror authenticates at its upstreams, and to whom it sends what.

use larder_testkit::{Auth, ExpiresIn, Fault, Hub, Listener, ManifestRedirect, Repository, TokenFields};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{End, Larder, NAME, TAG, blob, hub_with, image, manifest, prepare, pull};

/// Case 25: what token servers reply with.
#[tokio::test]
async fn every_form_of_token_reply_is_understood() {
    let image = image(700, &[100_000]);
    for (fields, expires_in) in [
        (TokenFields::Token, ExpiresIn::Lifetime),
        (TokenFields::AccessToken, ExpiresIn::Absent),
        (TokenFields::Both, ExpiresIn::Literal(json!(0))),
        (TokenFields::Token, ExpiresIn::Literal(json!("300"))),
        (TokenFields::AccessToken, ExpiresIn::Literal(json!(1.5))),
        (TokenFields::Token, ExpiresIn::Literal(json!(-1))),
    ] {
        let hub = hub_with(&image).await;
        hub.configure(|config| (config.token.fields, config.token.expires_in) = (fields, expires_in.clone()));
        let larder = Larder::of(&hub).await;
        pull(&larder, NAME, TAG).await;
        assert!(hub.requests().on(Listener::Token).count() <= 4, "{expires_in:?}: {:?}", hub.requests().lines());
    }
}

/// Case 25: a token is asked for once, and again when it is refused.
#[tokio::test]
async fn a_token_is_used_until_it_is_refused() {
    let image = image(701, &[100_000, 1_000, 2_000]);
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "freshness.tags = '0s'").await;
    pull(&larder, NAME, TAG).await;
    let tokens = || hub.requests().on(Listener::Token).count();
    assert_eq!(tokens(), 1);
    hub.revoke_tokens();
    pull(&larder, NAME, TAG).await;
    pull(&larder, NAME, TAG).await;
    assert_eq!(tokens(), 2);
}

/// Case 25: what is refused with a fresh token is refused; nobody goes in circles.
#[tokio::test]
async fn a_scope_that_is_not_granted_ends_in_a_denial_and_no_loop() {
    let image = image(702, &[1_000]);
    let hub = prepare(&image).private(NAME, &["somebody"]).start().await.unwrap();
    let larder = Larder::of(&hub).await;
    for target in [manifest(TAG), blob(image.layers()[0].digest())] {
        hub.reset_records();
        let answer = larder.get(&target).await;
        assert_eq!(answer.error(), (403, "DENIED".to_owned()));
        assert!(hub.requests().count() <= 5, "{:?}", hub.requests().lines());
    }
}

/// Case 22: an upstream's challenge is between it and the mirror.
#[tokio::test]
async fn no_challenge_of_an_upstream_reaches_a_client() {
    let image = image(703, &[1_000]);
    let hub = prepare(&image).auth(Auth::Basic).start().await.unwrap();
    let larder = Larder::of(&hub).await;
    for challenge in [None, Some(vec![]), Some(vec!["Negotiate".to_owned()]), Some(vec!["Bearer".to_owned()])] {
        hub.configure(|config| config.challenge = challenge.clone());
        let answer = larder.get(manifest(TAG)).await;
        assert!(matches!(answer.status(), 403 | 502), "{challenge:?}: {answer:?}");
        // This also looks for WWW-Authenticate.
        answer.error_code();
    }
}

/// Case 25: the grammar of challenges (RFC 9110, section 11.3) as registries write it.
#[tokio::test]
async fn challenges_are_read_in_every_form_that_registries_write() {
    let image = image(704, &[1_000]);
    for form in [
        r#"bearer REALM="{realm}",SERVICE="registry.docker.io",scope="repository:library/app:pull,push""#,
        r#"Basic realm="x", Bearer realm="{realm}" , service="registry.docker.io""#,
        r#"Bearer realm="{realm}",service=registry.docker.io,error="invalid_token""#,
        r#"Bearer service="registry.docker.io",scope="",realm="{realm}""#,
    ] {
        let hub = hub_with(&image).await;
        let realm = format!("{}/token", hub.url_of(Listener::Token));
        hub.configure(|config| config.challenge = Some(vec![form.replace("{realm}", &realm)]));
        let larder = Larder::of(&hub).await;
        assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str(), "{form}");
        let scopes = hub.requests().on(Listener::Token);
        assert!(scopes.records().iter().all(|record| !record.query.contains("push")), "only pulling is asked for");
    }
}

/// Security rule 5; case 26: credentials are for the registry, not for where it sends one.
#[tokio::test]
async fn credentials_stay_at_the_registry_on_redirects_and_on_resumption() {
    let image = image(705, &[4 << 20]);
    let layer = image.layers()[0].digest();
    for auth in [Auth::Bearer, Auth::Basic] {
        let hub = prepare(&image).auth(auth).user("larder", "canary-password").private(NAME, &["larder"]).start().await.unwrap();
        let larder = Larder::with(
            &hub,
            "upstreams.'docker.io' = { username = 'larder', password = 'canary-password', open_to_all = true }",
        )
        .await;
        hub.fault(Fault::on(Listener::Cdn).once().cut_at(1 << 20));
        hub.fault(Fault::on(Listener::Cdn).skip(1).once().status(403));
        let download = larder.download(blob(layer)).await;
        assert_eq!((download.end, &download.digest), (End::Complete, layer), "{auth:?}");
        assert_eq!(hub.requests().on(Listener::Cdn).count(), 3);
        assert_eq!(hub.auth_leaks().lines(), Vec::<String>::new());
        pull(&larder, NAME, TAG).await;
    }
}

/// Cases 26 and 27: registry.k8s.io redirects manifests, and not always once.
#[tokio::test]
async fn redirected_manifests_are_followed_verified_and_cached_under_the_name_that_was_asked() {
    let image = image(706, &[100_000]);
    for redirect in [
        ManifestRedirect { hops: 1, absolute: false },
        ManifestRedirect { hops: 2, absolute: true },
        ManifestRedirect { hops: 3, absolute: false },
    ] {
        let hub = hub_with(&image).await;
        hub.configure(|config| config.redirect_manifests = Some(redirect));
        let larder = Larder::with(&hub, "freshness.tags = '0s'").await;
        assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str(), "{redirect:?}");
        hub.stop_listening().await;
        assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str());
    }
    let hub = hub_with(&image).await;
    hub.configure(|config| config.redirect_manifests = Some(ManifestRedirect { hops: 50, absolute: false }));
    let larder = Larder::of(&hub).await;
    assert_eq!(larder.get(manifest(TAG)).await.error(), (502, "UNAVAILABLE".to_owned()));
    assert!(hub.requests().on(Listener::Registry).count() < 20);
}

/// Security rule 3: a realm elsewhere gets nothing, and the error names it.
#[tokio::test]
async fn a_realm_that_is_not_the_upstreams_own_is_never_asked() {
    let image = image(707, &[1_000]);
    let trap = Hub::builder().address(Listener::Token, ([127, 0, 0, 2], 0)).start().await.unwrap();
    let elsewhere = format!("{}/token", trap.url_of(Listener::Token));
    let hub = prepare(&image).user("larder", "canary-password").start().await.unwrap();
    let own = hub.url_of(Listener::Token).replace("http://", "");
    let larder =
        Larder::with(&hub, "upstreams.'docker.io' = { username = 'larder', password = 'canary-password', open_to_all = true }")
            .await;
    for (realm, host) in [
        (elsewhere.clone(), "127.0.0.2"),
        (elsewhere.replace("http://", "https://"), "127.0.0.2"),
        ("http://169.254.169.254/token".to_owned(), "169.254.169.254"),
        ("https://evil.example/token".to_owned(), "evil.example"),
        (format!("http://user@{own}/token"), "127.0.0.1"),
        (format!("ftp://{own}/token"), "127.0.0.1"),
    ] {
        hub.configure(|config| config.challenge = Some(vec![format!("Bearer realm=\"{realm}\",service=\"s\"")]));
        let answer = larder.get(manifest(TAG)).await;
        assert_eq!(answer.error(), (502, "UNAVAILABLE".to_owned()), "{realm}");
        let message = answer.json()["errors"][0]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(host) && message.contains("realm"), "{message}");
    }
    assert_eq!(trap.traffic(Listener::Token).accepted, 0);
    assert_eq!(hub.requests().on(Listener::Token).count(), 0);
}

/// Security rule 3: nor is one that the upstream's own token server redirects to.
#[tokio::test]
async fn a_token_server_that_sends_one_elsewhere_is_not_followed() {
    let image = image(708, &[1_000]);
    let trap = Hub::builder().address(Listener::Token, ([127, 0, 0, 2], 0)).start().await.unwrap();
    let hub = hub_with(&image).await;
    hub.configure(|config| config.token.redirect = Some(format!("{}/token", trap.url_of(Listener::Token))));
    let larder = Larder::of(&hub).await;
    assert_eq!(larder.get(manifest(TAG)).await.error(), (403, "DENIED".to_owned()));
    assert_eq!(trap.traffic(Listener::Token).accepted, 0);
}

/// Security rule 6; fault matrix, 15: a redirect leads to no address inside, and round in no circle.
#[tokio::test]
async fn a_redirect_to_where_none_may_lead_is_not_followed() {
    let image = image(709, &[1_000]);
    let layer = image.layers()[0].digest();
    let trap = Hub::builder().address(Listener::Cdn, ([127, 0, 0, 2], 0)).start().await.unwrap();
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    let own = format!("{}/v2/{NAME}/blobs/{layer}", hub.url());
    for location in [
        format!("{}/x", trap.url_of(Listener::Cdn)),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://[::ffff:7f00:2]/".to_owned(),
        "http://localhost:6379/".to_owned(),
        "file:///etc/passwd".to_owned(),
        own,
    ] {
        let fault =
            hub.fault(Fault::on(Listener::Registry).path_contains(layer).with_header("authorization").redirect(&location));
        let answer = larder.get(blob(layer)).await;
        assert_eq!(answer.error(), (502, "UNAVAILABLE".to_owned()), "{location}");
        assert!(fault.fired() <= 10);
        hub.clear_faults();
    }
    assert_eq!(trap.traffic(Listener::Cdn).accepted, 0);
    pull(&larder, NAME, TAG).await;
}

/// Where an operator has said so, a redirect may lead inside; credentials stay behind all the same.
#[tokio::test]
async fn a_redirect_to_an_origin_that_the_operator_trusts_is_followed() {
    let image = image(710, &[100_000]);
    let hub = prepare(&image).address(Listener::Cdn, ([127, 0, 0, 2], 0)).start().await.unwrap();
    let larder = Larder::of(&hub).await;
    assert_eq!(larder.get(blob(image.layers()[0].digest())).await.error(), (502, "UNAVAILABLE".to_owned()));
    let trusting =
        Larder::with(&hub, &format!("upstreams.'docker.io'.trusted_redirects = [{:?}]", hub.url_of(Listener::Cdn))).await;
    pull(&trusting, NAME, TAG).await;
    assert_eq!(hub.auth_leaks().count(), 0);
}

/// Security rule 15: a token for one repository is never sent for another.
#[tokio::test]
async fn a_token_is_for_one_repository() {
    let (one, two) = (image(711, &[1_000]), image(712, &[1_000]));
    let hub = hub_with(&one).await;
    hub.put(Repository::new("library/other").tag(TAG, &two));
    let larder = Larder::of(&hub).await;
    pull(&larder, NAME, TAG).await;
    pull(&larder, "library/other", TAG).await;
    let tokens_of = |name: &str| {
        let requests = hub.requests().on(Listener::Registry).path_contains(name).with_header("authorization");
        let tokens = requests.records().iter().map(|record| record.headers.get("authorization").unwrap().to_owned());
        tokens.collect::<std::collections::HashSet<_>>()
    };
    let (app, other) = (tokens_of("library/app"), tokens_of("library/other"));
    assert!(!app.is_empty() && !other.is_empty() && app.is_disjoint(&other));
    assert_eq!(hub.requests().status(401).count(), 1);
}

/// Fault matrix, 38: the file that a password was read from is gone. Who runs goes on; it is said what the next start would say.
#[tokio::test]
async fn a_password_file_that_vanishes_under_way_is_told_and_costs_nothing_until_the_next_start() {
    const NOT_ACCEPTED: &str = "the configuration would not be accepted as it is now";
    let image = image(716, &[1_000]);
    let hub = prepare(&image).user("ada", "canary").private(NAME, &["ada"]).start().await.unwrap();
    let builder = Larder::builder().upstream("docker.io", &hub);
    let file = builder.file("password", "canary\n");
    let account = format!("upstreams.'docker.io' = {{ username = 'ada', password_file = {file:?}, open_to_all = true }}");
    let mut larder = builder.config(&account).start().await;
    std::fs::remove_file(&file).unwrap();
    larder.signal(Signal::HUP);
    larder.until_logged(NOT_ACCEPTED).await;
    let log = larder.log();
    let line = log.lines().find(|line| line.contains(NOT_ACCEPTED)).unwrap();
    assert!(line.contains("password") && line.contains("larder.toml"), "{line}");
    assert!(!log.contains("canary"), "{log}");
    assert_eq!(pull(&larder, NAME, TAG).await, image.manifest().digest.as_str(), "it has the password still");

    std::fs::write(&file, "canary\n").unwrap();
    larder.signal(Signal::HUP);
    larder.until_logged("the configuration is as it was").await;
    std::fs::write(&file, "another\n").unwrap();
    larder.signal(Signal::HUP);
    larder.until_logged("that holds from the next start on").await;

    std::fs::remove_file(&file).unwrap();
    larder.stop(Signal::TERM);
    let refused = larder.tool(&["serve"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(refused.said.contains("larder.toml:") && refused.said.contains("cannot read"), "{}", refused.said);
}
