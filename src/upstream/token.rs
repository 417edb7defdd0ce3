//! Tokens: asked for once for all who wait, kept for as long as the token server says, renewed before they end. A token is kept
//! under the repository and the grant that it was given for, and is never sent for another; the credential is the upstream's only one.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use reqwest::Method;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use serde::Deserialize;
use tokio::time::{Instant, timeout};

use super::answer::{check_coding, error_code, retry_after};
use super::error::{Party, Phase, UpstreamError};
use super::grant::Grant;
use super::redirect::{Hop, Reach};
use super::wire::{self, Request, Wire};
use crate::oci::RepositoryName;
use crate::util::SingleFlight;

/// The longest reply of a token server that is read.
const REPLY_MAX_BYTES: usize = 64 * 1024;
/// How long a token lives that says nothing, or less (distribution's token specification, `expires_in`).
const LIFE_MIN: Duration = Duration::from_secs(60);
/// No token is trusted for longer, whatever it says.
const LIFE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The part of a token's life after which a new one is fetched, while the old one still serves.
const RENEW_AT: f64 = 0.85;
/// The most memory spent on tokens per upstream, in bytes: thousands of ordinary ones, and a repository has one or two.
const KEPT_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The tokens of one upstream.
pub(super) struct Tokens {
    wire: Arc<Wire>,
    /// The `Authorization` of token requests; none if the upstream is asked anonymously.
    credential: Option<HeaderValue>,
    kept: Cache<Key, Token>,
    flights: SingleFlight<Key, Result<Token, UpstreamError>>,
}

/// What a token was given for.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    repository: RepositoryName,
    grant: Grant,
}

/// A token, as the `Authorization` that it makes. Its `Debug` does not show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) authorization: HeaderValue,
    renew_at: Instant,
    expires_at: Instant,
}

/// A token server's reply. Which of the two names it uses for the token is its own choice.
#[derive(Deserialize)]
struct Reply {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<serde_json::Value>,
}

impl Tokens {
    pub(super) fn new(wire: Arc<Wire>, credential: Option<HeaderValue>) -> Self {
        let weigh = |key: &Key, token: &Token| {
            let bytes = key.repository.as_str().len() + key.grant.weight() + token.authorization.len();
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let kept = Cache::builder().max_capacity(KEPT_MAX_BYTES).weigher(weigh).build();
        Self { wire, credential, kept, flights: SingleFlight::new() }
    }

    /// A token for `grant` other than `refused`, which the registry did not take, and whether it has just been fetched.
    ///
    /// # Errors
    /// [`UpstreamError::Denied`] if the token server gives none; its own time-outs, limits and failures as what they are.
    pub(super) async fn get(
        self: &Arc<Self>,
        repository: &RepositoryName,
        grant: &Grant,
        refused: Option<&HeaderValue>,
    ) -> Result<(Token, bool), UpstreamError> {
        let key = Key { repository: repository.clone(), grant: grant.clone() };
        if let Some(token) = self.kept.get(&key).filter(|token| Some(&token.authorization) != refused) {
            let now = Instant::now();
            if now < token.renew_at {
                return Ok((token, false));
            }
            if now < token.expires_at {
                self.renew_behind(key, token.clone());
                return Ok((token, false));
            }
        }
        Ok((self.fetch_once(key, refused.cloned()).await?, true))
    }

    /// Fetches a new token while the old one is still used. If that fails there is no other try until the old one has expired.
    fn renew_behind(self: &Arc<Self>, key: Key, old: Token) {
        let tokens = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = tokens.fetch_once(key.clone(), None).await {
                tracing::debug!(upstream = %tokens.wire.upstream, %error, "a token was not renewed early");
                if tokens.kept.get(&key).as_ref() == Some(&old) {
                    tokens.kept.insert(key, Token { renew_at: old.expires_at, ..old });
                }
            }
        });
    }

    /// Fetches a token in place of the one `refused`, or waits for whoever is fetching it already.
    async fn fetch_once(self: &Arc<Self>, key: Key, refused: Option<HeaderValue>) -> Result<Token, UpstreamError> {
        let fetch = || {
            let (tokens, key) = (Arc::clone(self), key.clone());
            async move {
                // Somebody's flight may have landed between our look into the cache and our own flight.
                let is_good = |token: &Token| Instant::now() < token.renew_at && Some(&token.authorization) != refused.as_ref();
                if let Some(token) = tokens.kept.get(&key).filter(is_good) {
                    return Ok(token);
                }
                let token = tokens.fetch(&key.grant).await?;
                tokens.kept.insert(key, token.clone());
                Ok(token)
            }
        };
        let (token, _) = self.flights.run(key.clone(), fetch).await;
        token.unwrap_or_else(|| Err(UpstreamError::NoAnswer { reason: "the token request was given up".to_owned() }))
    }

    async fn fetch(&self, grant: &Grant) -> Result<Token, UpstreamError> {
        let host = grant.realm().host_str().unwrap_or_default();
        let at_token_server = |reason: String| format!("token server {host}: {reason}");
        let result = match timeout(self.wire.headers_timeout, self.exchange(grant)).await {
            Ok(Err(UpstreamError::Timeout { .. })) | Err(_) => Err(UpstreamError::Timeout { phase: Phase::Token }),
            Ok(Err(UpstreamError::Unreachable { reason })) => Err(UpstreamError::Unreachable { reason: at_token_server(reason) }),
            // The question had no answer either way.
            Ok(Err(UpstreamError::NoAnswer { reason } | UpstreamError::Broken { reason })) => {
                Err(UpstreamError::NoAnswer { reason: at_token_server(reason) })
            }
            Ok(result) => result,
        };
        if let Err(error) = &result {
            tracing::warn!(upstream = %self.wire.upstream, host, %error, "the token server gave no token");
        }
        result
    }

    /// One token request. Its redirects are not followed: they would take the credential to wherever they say.
    async fn exchange(&self, grant: &Grant) -> Result<Token, UpstreamError> {
        let hop = Hop { url: grant.url(), reach: Reach::Known };
        let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        headers.extend(self.credential.clone().map(|credential| (AUTHORIZATION, credential)));
        let asked_at = Instant::now();
        let mut response = self.wire.send(Request { kind: "token", method: Method::GET, hop: &hop, headers }).await?;
        match response.status().as_u16() {
            200 => {}
            429 => {
                let retry_after = retry_after(response.headers());
                return Err(UpstreamError::RateLimited { retry_after, by: Party::TokenServer });
            }
            status @ (408 | 500..) => return Err(UpstreamError::Status { status, by: Party::TokenServer }),
            status => {
                let code = error_code(&wire::small_body(response).await);
                return Err(UpstreamError::Denied { status, by: Party::TokenServer, code });
            }
        }
        check_coding(&hop.url, response.headers())?;
        let mut body = Vec::new();
        while let Some(chunk) = wire::next_chunk(&mut response, self.wire.stall_timeout).await? {
            if body.len() + chunk.len() > REPLY_MAX_BYTES {
                return Err(broken("its reply is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        parse(&body, asked_at)
    }
}

fn broken(reason: &str) -> UpstreamError {
    UpstreamError::Broken { reason: reason.to_owned() }
}

/// The token in a reply to a request made at `asked_at`. The parser's error is not kept: it could quote the token.
fn parse(body: &[u8], asked_at: Instant) -> Result<Token, UpstreamError> {
    let reply: Reply = serde_json::from_slice(body).map_err(|_| broken("its reply is not a token"))?;
    let given = |token: Option<String>| token.filter(|token| !token.is_empty());
    let token = given(reply.token).or(given(reply.access_token)).ok_or_else(|| broken("its reply has no token"))?;
    let mut authorization = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| broken("its token has characters that no token may have"))?;
    authorization.set_sensitive(true);
    let life = life(reply.expires_in.as_ref());
    Ok(Token { authorization, renew_at: asked_at + life.mul_f64(RENEW_AT), expires_at: asked_at + life })
}

/// `expires_in` in seconds. Token servers write it as a number, as a fraction, as text, as 0, or not at all.
fn life(expires_in: Option<&serde_json::Value>) -> Duration {
    let seconds = match expires_in {
        Some(serde_json::Value::Number(number)) => number.as_f64(),
        Some(serde_json::Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    let sane = seconds.filter(|seconds: &f64| !seconds.is_nan()).map(|seconds| seconds.min(LIFE_MAX.as_secs_f64()));
    let said = sane.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    said.unwrap_or(LIFE_MIN).clamp(LIFE_MIN, LIFE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_lives_as_long_as_it_says_within_reason() {
        for (expires_in, seconds) in [
            ("", 60),
            (r#","expires_in":300"#, 300),
            (r#","expires_in":300.9"#, 300),
            (r#","expires_in":"300""#, 300),
            (r#","expires_in":0"#, 60),
            (r#","expires_in":10"#, 60),
            (r#","expires_in":-5"#, 60),
            (r#","expires_in":null"#, 60),
            (r#","expires_in":"soon""#, 60),
            (r#","expires_in":"NaN""#, 60),
            (r#","expires_in":[]"#, 60),
            (r#","expires_in":1e300"#, 86_400),
            (r#","expires_in":"inf""#, 86_400),
            (r#","expires_in":18446744073709551615"#, 86_400),
        ] {
            let now = Instant::now();
            let token = parse(format!(r#"{{"token":"t"{expires_in}}}"#).as_bytes(), now).unwrap();
            assert_eq!((token.expires_at - now).as_secs(), seconds, "{expires_in}");
            assert!(token.renew_at < token.expires_at);
        }
    }

    #[tokio::test]
    async fn either_name_will_do_and_nothing_else() {
        let now = Instant::now();
        for body in [
            r#"{"token":"t"}"#,
            r#"{"access_token":"t"}"#,
            r#"{"token":"","access_token":"t"}"#,
            r#"{"token":null,"access_token":"t","refresh_token":"x"}"#,
            r#"{"token":"t","access_token":"other"}"#,
        ] {
            assert_eq!(parse(body.as_bytes(), now).unwrap().authorization, "Bearer t", "{body}");
        }
        for body in [
            "",
            "{}",
            "[]",
            r#"{"token":""}"#,
            r#"{"token":7}"#,
            "{\"token\":\"canary\\r\\nx: y\"}",
            "canary",
            r#"{"token":"canary"#,
        ] {
            let error = parse(body.as_bytes(), now).unwrap_err();
            assert!(!format!("{error:?} {error}").contains("canary"), "{error:?}");
        }
        let shown = format!("{:?}", parse(br#"{"token":"canary"}"#, now));
        assert!(!shown.contains("canary"), "{shown}");
    }
}
