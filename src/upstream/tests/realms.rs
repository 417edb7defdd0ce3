//! Challenges that want the credential somewhere else.

use std::net::Ipv4Addr;

use super::server::serve_on;
use super::*;

/// A registry on 127.0.0.1 whose challenge names `realm`.
fn challenging(realm: String) -> Server {
    serve(move |_| Reply::new(401).header("www-authenticate", &format!(r#"Bearer realm="{realm}",service="s""#)))
}

#[tokio::test]
async fn no_request_is_made_to_an_evil_realm() {
    let trap = serve_on(Ipv4Addr::new(127, 0, 0, 2), None, |_| Reply::json(r#"{"token":"t"}"#));
    let port = trap.port();
    for realm in [
        format!("http://127.0.0.2:{port}/canary"),
        format!("http://localhost:{port}/canary"),
        format!("http://canary@127.0.0.2:{port}/"),
        format!("http://127.0.0.1:canary@127.0.0.2:{port}/"),
        format!("http://2130706434:{port}/canary"),
        format!("http://0x7f.2:{port}/canary"),
        format!("http://[::ffff:127.0.0.2]:{port}/canary"),
        format!("https://127.0.0.2:{port}/canary"),
        format!("//127.0.0.2:{port}/canary"),
        format!("http:\\\\\\\\127.0.0.2:{port}/canary"),
        format!("ftp://127.0.0.2:{port}/canary"),
        "https://evil.example/canary".to_owned(),
        "https://169.254.169.254/canary".to_owned(),
        "https://".to_owned(),
        String::new(),
    ] {
        let server = challenging(realm.clone());
        let error = fetch_error(&registry(with_credential(config(&server.url()))), manifest("a/b")).await;
        assert!(matches!(error, UpstreamError::Refused(Refusal::Realm { .. })), "{realm}: {error}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        assert_eq!(server.seen().len(), 1, "{realm}");
    }
    assert_eq!(trap.connections(), 0);
}

#[tokio::test]
async fn a_realm_with_user_names_on_the_registrys_own_host_is_refused_too() {
    let trap = serve(|_| Reply::json(r#"{"token":"t"}"#));
    let server = challenging(format!("http://canary:canary@127.0.0.1:{}/", trap.port()));
    let error = fetch_error(&registry(config(&server.url())), manifest("a/b")).await;
    assert!(matches!(&error, UpstreamError::Refused(Refusal::Realm { host, .. }) if host == "127.0.0.1"), "{error}");
    assert_eq!(trap.connections(), 0);
}

#[tokio::test]
async fn a_pinned_realm_is_asked_with_the_challenges_service_and_scope() {
    let trap = serve_on(Ipv4Addr::new(127, 0, 0, 2), None, |_| Reply::json(r#"{"token":"t"}"#));
    let pinned = serve_on(Ipv4Addr::new(127, 0, 0, 3), None, |_| Reply::json(r#"{"token":"t"}"#));
    let evil = trap.url();
    let server = serve(move |seen| match seen.header("authorization") {
        Some("Bearer t") => Reply::new(200).body(CONTENT),
        _ => Reply::new(401).header("www-authenticate", &format!(r#"Bearer realm="{evil}",service="s",scope="x""#)),
    });
    let realm = Some(format!("{}/token?tenant=1", pinned.url()).parse().unwrap());
    let registry = registry(RegistryConfig { realm, ..with_credential(config(&server.url())) });
    fetch(&registry, manifest("a/b")).await.unwrap();
    let asked = pinned.seen();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].target.as_str(), asked[0].header("authorization")), ("/token?tenant=1&service=s&scope=x", Some(BASIC)));
    assert_eq!(trap.connections(), 0);
}

#[tokio::test]
async fn a_credential_is_not_configured_for_the_clear() {
    let build = |url: &str, realm: Option<&str>| {
        let realm = realm.map(|realm| realm.parse().unwrap());
        let config = RegistryConfig { realm, ..with_credential(config(url)) };
        Registry::with_proxies(config, Arc::new(Notes::default()), Proxies::none()).err().map(|error| error.to_string())
    };
    let refused = Some(BuildError::CredentialInClear.to_string());
    assert_eq!(build("http://registry.lan/", None), refused);
    assert_eq!(build("http://10.0.0.1/", None), refused);
    assert_eq!(build("https://registry.lan/", Some("http://auth.lan/")), refused);
    assert_eq!(build("https://registry.lan/", Some("https://auth.lan/")), None);
    assert_eq!(build("http://localhost:5000/", None), None);
    assert_eq!(build("http://[::1]:5000/", None), None);
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    for url in [
        "ftp://r.example/",
        "https://user@r.example/",
        "https://u:p@r.example/",
        "https://r.example/?x",
        "data:x",
        "https://r.example/#x",
    ] {
        let built = Registry::with_proxies(config(url), Arc::new(Notes::default()), Proxies::none());
        assert!(matches!(built, Err(BuildError::BadUrl)), "{url}");
    }
    let config_with_agent = RegistryConfig { user_agent: "larder\n".to_owned(), ..config("https://r.example/") };
    let built = Registry::with_proxies(config_with_agent, Arc::new(Notes::default()), Proxies::none());
    assert!(matches!(built, Err(BuildError::BadUserAgent)));
    let realm = Some("https://user@auth.example/".parse().unwrap());
    let built = Registry::with_proxies(
        RegistryConfig { realm, ..config("https://r.example/") },
        Arc::new(Notes::default()),
        Proxies::none(),
    );
    assert!(matches!(built, Err(BuildError::BadRealm)));
}
