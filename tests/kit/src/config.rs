//! Every switch of the kit, all of which may be turned while it runs.
//! Plain data with Docker Hub's behaviour as the default; it does nothing by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::listener::PerListener;

/// The switches. Durations are in milliseconds in JSON, where their names end in `_ms`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How the registry asks for credentials.
    pub auth: Auth,
    /// `service` of the challenge, and the realm of a Basic one.
    pub service: String,
    /// Sent as the `WWW-Authenticate` lines of a 401 instead of the true challenge; an empty list sends none.
    pub challenge: Option<Vec<String>>,
    /// Passwords by user name.
    pub users: BTreeMap<String, String>,
    /// The users who may read a repository, by its name. Everyone may read what is not listed.
    pub private: BTreeMap<String, BTreeSet<String>>,
    /// A repository that does not exist is answered as one that the client may not read, as Docker Hub does.
    pub hide_unknown: bool,
    /// The token server's replies.
    pub token: TokenReply,
    /// The limit on manifest GETs; `None`: no limit and no `ratelimit-*` headers.
    pub rate_limit: Option<RateLimit>,
    /// Blobs are answered with 307 to the CDN.
    pub redirect_blobs: bool,
    /// For how long a presigned URL is good.
    #[serde(rename = "presign_ttl_ms", with = "millis")]
    pub presign_ttl: Duration,
    /// Manifests are answered with 307, as registry.k8s.io does.
    pub redirect_manifests: Option<ManifestRedirect>,
    /// HEAD is answered at the registry; else 405.
    pub head: bool,
    /// Range is honoured, at the registry and the CDN; else 200 with everything.
    pub ranges: bool,
    /// Manifests and blobs have a `Content-Length`; else they are chunked.
    pub content_length: bool,
    /// Manifests and blobs have a `Docker-Content-Digest`.
    pub content_digest: bool,
    /// The referrers API is there; else 404.
    pub referrers: bool,
    /// An index whose type `Accept` does not name is 404, as at ghcr.io.
    pub accept_sensitive: bool,
    /// URLs by which clients are sent to a listener, such as `https://auth.docker.io`, instead of its address.
    pub public_urls: PerListener<Option<String>>,
    /// What the network between client and listener is like.
    pub network: PerListener<Network>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            auth: Auth::Bearer,
            service: "registry.docker.io".to_owned(),
            challenge: None,
            users: BTreeMap::new(),
            private: BTreeMap::new(),
            hide_unknown: false,
            token: TokenReply::default(),
            rate_limit: None,
            redirect_blobs: true,
            presign_ttl: Duration::from_secs(1200),
            redirect_manifests: None,
            head: true,
            ranges: true,
            content_length: true,
            content_digest: true,
            referrers: true,
            accept_sensitive: false,
            public_urls: PerListener::default(),
            network: PerListener::default(),
        }
    }
}

impl Config {
    /// This configuration with a JSON merge patch (RFC 7396) applied; `null` turns a switch back to its default.
    ///
    /// # Errors
    ///
    /// The patch names a switch that does not exist, or a value that does not fit.
    pub fn patched(&self, patch: Value) -> Result<Config, serde_json::Error> {
        let mut document = serde_json::to_value(self)?;
        merge(&mut document, patch);
        serde_json::from_value(document)
    }

    /// Whether `user` (`None`: anonymous) may read `repository`.
    pub(crate) fn may_read(&self, user: Option<&str>, repository: &str) -> bool {
        match self.private.get(repository) {
            None => true,
            Some(readers) => user.is_some_and(|user| readers.contains(user)),
        }
    }

    /// Whether this is a user's password.
    pub(crate) fn password_is_right(&self, user: &str, password: &str) -> bool {
        self.users.get(user).is_some_and(|right| right == password)
    }
}

/// How the registry asks for credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// It does not.
    None,
    /// By a token of the token server.
    Bearer,
    /// By user name and password, on every request.
    Basic,
}

/// What the token server replies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenReply {
    /// Which fields hold the token.
    pub fields: TokenFields,
    /// What the reply says of the token's life.
    pub expires_in: ExpiresIn,
    /// For how long the registry accepts the token in truth.
    #[serde(rename = "lifetime_ms", with = "millis")]
    pub lifetime: Duration,
    /// Sent as `issued_at` as it is.
    pub issued_at: Option<String>,
    /// Answers every token request with 307 to this URL.
    pub redirect: Option<String>,
}

impl Default for TokenReply {
    fn default() -> TokenReply {
        TokenReply {
            fields: TokenFields::Both,
            expires_in: ExpiresIn::Lifetime,
            lifetime: Duration::from_secs(300),
            issued_at: None,
            redirect: None,
        }
    }
}

/// Which fields of the reply hold the token (distribution's "Token Authentication Specification" allows each).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenFields {
    /// `token` alone.
    Token,
    /// `access_token` alone.
    AccessToken,
    /// Both, with the same value.
    Both,
}

/// What the reply's `expires_in` is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpiresIn {
    /// The token's true life in whole seconds.
    Lifetime,
    /// No such field.
    Absent,
    /// This JSON, whatever it is: `0`, `"300"`, `1.5`.
    Literal(Value),
}

/// A limit on the GETs of manifests, by user or, where anonymous, by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// How many are answered in a window.
    pub limit: u64,
    /// The window; it begins with the first GET in it.
    #[serde(rename = "window_ms", with = "millis", default = "six_hours")]
    pub window: Duration,
    /// `Retry-After` of the 429, in seconds; `None`: no such header.
    #[serde(default)]
    pub retry_after: Option<u64>,
}

impl RateLimit {
    /// `limit` GETs in Docker Hub's window of six hours.
    pub fn of(limit: u64) -> RateLimit {
        RateLimit { limit, window: six_hours(), retry_after: None }
    }

    /// With this `Retry-After` on the 429, in seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> RateLimit {
        RateLimit { retry_after: Some(seconds), ..self }
    }
}

fn six_hours() -> Duration {
    Duration::from_secs(21_600)
}

/// How manifests are redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestRedirect {
    /// How many redirects come before the manifest.
    pub hops: u32,
    /// Whether `Location` has scheme and authority; else it begins with a slash.
    #[serde(default)]
    pub absolute: bool,
}

/// The network between client and listener. The default adds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Passes before each answer begins.
    #[serde(rename = "latency_ms", with = "millis")]
    pub latency: Duration,
    /// Body bytes a second on each connection.
    pub connection_rate: Option<u64>,
    /// Body bytes a second on all connections together.
    pub total_rate: Option<u64>,
}

/// Durations as whole milliseconds in JSON.
pub(crate) mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// Applies a JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_patch_changes_what_it_names_and_nothing_else() {
        let patch = json!({
            "auth": "none",
            "rate_limit": {"limit": 3},
            "token": {"expires_in": {"literal": "300"}, "lifetime_ms": 50},
        });
        let config = Config::default().patched(patch).unwrap();
        let mut expected = Config { auth: Auth::None, rate_limit: Some(RateLimit::of(3)), ..Config::default() };
        expected.token.expires_in = ExpiresIn::Literal(json!("300"));
        expected.token.lifetime = Duration::from_millis(50);
        assert_eq!(config, expected);
    }

    #[test]
    fn null_turns_a_switch_back() {
        let limited = Config { rate_limit: Some(RateLimit::of(1)), ..Config::default() };
        let config = limited.patched(json!({"rate_limit": null})).unwrap();
        assert_eq!(config, Config::default());
    }

    #[test]
    fn an_unknown_switch_is_an_error() {
        let patch = json!({"redirect_blob": false});
        assert!(Config::default().patched(patch).is_err());
    }
}
