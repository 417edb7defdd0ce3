//! The layer as a whole, against servers on loopback that behave as registries, token servers and CDNs do at their worst.

mod addresses;
mod answers;
mod auth;
mod realms;
mod redirects;
mod secrecy;
mod server;
mod tls;
mod tokens;

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt;

use super::clients::Proxies;
use super::*;
use server::{Reply, Seen, Server, serve};

/// The content of every blob and manifest.
const CONTENT: &[u8] = b"0123456789";

/// A configuration for the registry at `url` with deadlines that a test can wait for.
fn config(url: &str) -> RegistryConfig {
    RegistryConfig {
        name: "r.example.org".parse().unwrap(),
        url: url.parse().unwrap(),
        credential: None,
        realm: None,
        trusted_redirects: Vec::new(),
        ca: Vec::new(),
        rate: Arc::new(Rate::new(NonZeroU32::new(10_000).unwrap())),
        resolve_timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(5),
        headers_timeout: Duration::from_secs(10),
        stall_timeout: Duration::from_secs(10),
        user_agent: "larder/test".to_owned(),
    }
}

fn with_credential(config: RegistryConfig) -> RegistryConfig {
    RegistryConfig { credential: Some(("user".to_owned(), crate::util::Secret::new("password"))), ..config }
}

/// `Authorization` made of [`with_credential`]'s.
const BASIC: &str = "Basic dXNlcjpwYXNzd29yZA==";

fn trusting(config: RegistryConfig, servers: &[&Server]) -> RegistryConfig {
    let trusted_redirects = servers.iter().map(|server| server.url().parse::<url::Url>().unwrap().origin()).collect();
    RegistryConfig { trusted_redirects, ..config }
}

fn registry(config: RegistryConfig) -> Registry {
    registry_seen_by(config, Arc::new(Notes::default()))
}

fn registry_seen_by(config: RegistryConfig, notes: Arc<Notes>) -> Registry {
    Registry::with_proxies(config, notes, Proxies::none()).unwrap()
}

fn question(repository: &str, target: Target, method: Method) -> Question {
    Question { repository: repository.parse().unwrap(), target, method, caller: Caller::Larder }
}

fn manifest(repository: &str) -> Question {
    question(repository, Target::Manifest("latest".parse().unwrap()), Method::Get)
}

fn blob(method: Method) -> Question {
    question("a/b", Target::Blob(Digest::sha256(CONTENT)), method)
}

/// Asks and reads the whole body.
async fn fetch(registry: &Registry, question: Question) -> Result<(Head, Vec<u8>), UpstreamError> {
    let Answer { head, body } = registry.ask(question).await?;
    let chunks: Vec<Bytes> = body.try_collect().await?;
    Ok((head, chunks.concat()))
}

async fn fetch_error(registry: &Registry, question: Question) -> UpstreamError {
    fetch(registry, question).await.expect_err("this cannot be answered")
}

/// An observer that writes everything down.
#[derive(Default)]
struct Notes {
    asked: Mutex<Vec<(&'static str, &'static str, u16)>>,
    received: Mutex<u64>,
    limits: Mutex<Vec<RateLimit>>,
}

impl Observer for Notes {
    fn asked(&self, _: &UpstreamName, kind: &'static str, method: &'static str, outcome: Outcome, _: Duration) {
        self.asked.lock().unwrap().push((kind, method, outcome.status()));
    }

    fn received(&self, _: &UpstreamName, bytes: u64) {
        *self.received.lock().unwrap() += bytes;
    }

    fn rate_limit(&self, _: &UpstreamName, limit: &RateLimit) {
        self.limits.lock().unwrap().push(limit.clone());
    }

    fn unasked(&self, _: &UpstreamName, _: Unasked) {}
}

/// A registry and its token server in one: `/token` gives `t1`, `t2`, ...; anything else wants one of the tokens in `valid`.
struct TokenRegistry {
    server: Server,
    valid: Arc<Mutex<Vec<String>>>,
}

impl TokenRegistry {
    /// `scope` makes the challenge's scope out of the repository; `token` the reply out of the token.
    fn new(scope: fn(&str) -> String, token: fn(&str) -> Reply) -> Self {
        let valid = Arc::new(Mutex::new(Vec::new()));
        let known = Arc::clone(&valid);
        let given = Mutex::new(0);
        let server = serve(move |seen: &Seen| {
            if seen.path() == "/token" {
                let mut given = given.lock().unwrap();
                *given += 1;
                known.lock().unwrap().push(format!("t{given}"));
                return token(&format!("t{given}"));
            }
            let authorized = seen.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
            if authorized.is_some_and(|token| known.lock().unwrap().iter().any(|valid| valid == token)) {
                return Reply::new(200).body(CONTENT);
            }
            let host = seen.header("host").unwrap();
            let scope = scope(seen.repository());
            Reply::new(401)
                .header("www-authenticate", &format!(r#"Bearer realm="http://{host}/token",service="s",scope="{scope}""#))
        });
        Self { server, valid }
    }

    /// The usual one: plain scopes, tokens of five minutes.
    fn plain() -> Self {
        Self::new(
            |repository| format!("repository:{repository}:pull"),
            |token| Reply::json(&format!(r#"{{"token":"{token}","expires_in":300}}"#)),
        )
    }

    /// As if all tokens had ended, whatever they said.
    fn revoke(&self) {
        self.valid.lock().unwrap().clear();
    }

    /// What came in, in short: `401` for a request without authorization, the token of one with it, `token` for a token request.
    fn log(&self) -> Vec<String> {
        let short = |seen: &Seen| match seen.header("authorization") {
            _ if seen.path() == "/token" => "token".to_owned(),
            None => "bare".to_owned(),
            Some(value) => value.trim_start_matches("Bearer ").to_owned(),
        };
        self.server.seen().iter().map(short).collect()
    }
}

/// Waits for something that is going to happen, and fails if it does not.
async fn eventually(what: &str, happened: impl Fn() -> bool) {
    let waiting = async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect(what);
}

/// Turns the runtime's clock forward while nothing else is going on.
async fn let_pass(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}
