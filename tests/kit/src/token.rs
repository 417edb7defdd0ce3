//! The token server: hands out opaque tokens for what a user may read, as distribution's token specification says.
//! Remembers the tokens, which the registry looks up; GET only.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::config::{ExpiresIn, TokenFields};
use crate::digest::hex;
use crate::http::{Reply, Request};
use crate::state::State;

/// What a token stands for.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    /// `None`: anonymous.
    pub(crate) user: Option<String>,
    /// Repositories that may be read with it.
    readable: BTreeSet<String>,
    expires_at: Instant,
}

impl Grant {
    pub(crate) fn may_read(&self, repository: &str) -> bool {
        self.readable.contains(repository)
    }
}

/// The tokens that were issued.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<HashMap<String, Grant>>);

impl Tokens {
    /// What this token stands for, while it lives.
    pub(crate) fn look_up(&self, token: &str) -> Option<Grant> {
        let grants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let grant = grants.get(token)?;
        (grant.expires_at > Instant::now()).then(|| grant.clone())
    }

    /// Makes every token invalid.
    pub(crate) fn revoke_all(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn issue(&self, user: Option<String>, readable: BTreeSet<String>, life: Duration) -> String {
        let mut random = [0; 32];
        getrandom::fill(&mut random).expect("the operating system has random numbers");
        let token = hex(&random);
        let grant = Grant { user, readable, expires_at: Instant::now() + life };
        let mut grants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        grants.insert(token.clone(), grant);
        token
    }
}

/// Answers a request to the token server.
pub(crate) async fn answer(state: &State, request: &Request) -> Reply {
    let config = state.config();
    if request.decoded_path() != "/token" {
        return Reply::error(404, "NOT_FOUND", "tokens are at /token");
    }
    if request.method != "GET" {
        return Reply::error(405, "UNSUPPORTED", "ask for tokens with GET");
    }
    if let Some(location) = &config.token.redirect {
        return Reply::redirect(location);
    }
    let user = match (request.headers.get("authorization"), request.basic_credential()) {
        (None, _) => None,
        (Some(_), Some((user, password))) if config.password_is_right(&user, &password) => Some(user),
        (Some(_), _) => {
            return Reply::error(401, "UNAUTHORIZED", "incorrect username or password")
                .header("WWW-Authenticate", "Basic realm=\"token\"");
        }
    };

    let mut readable = BTreeSet::new();
    for scope in request.parameters("scope") {
        for name in scope.split(' ').filter_map(repository_to_pull) {
            // A token is issued all the same, with fewer rights.
            let exists = !config.hide_unknown || matches!(state.backend.has_repository(&name).await, Ok(true));
            if exists && config.may_read(user.as_deref(), &name) {
                readable.insert(name);
            }
        }
    }

    let life = config.token.lifetime;
    let token = state.tokens.issue(user, readable, life);
    let mut body = Map::new();
    if matches!(config.token.fields, TokenFields::Token | TokenFields::Both) {
        body.insert("token".to_owned(), token.clone().into());
    }
    if matches!(config.token.fields, TokenFields::AccessToken | TokenFields::Both) {
        body.insert("access_token".to_owned(), token.into());
    }
    let expires_in = match &config.token.expires_in {
        ExpiresIn::Lifetime => Some(life.as_secs().into()),
        ExpiresIn::Absent => None,
        ExpiresIn::Literal(value) => Some(value.clone()),
    };
    body.extend(expires_in.map(|value: Value| ("expires_in".to_owned(), value)));
    let issued_at = config.token.issued_at.clone();
    body.extend(issued_at.map(|value| ("issued_at".to_owned(), value.into())));
    Reply::json(200, &Value::Object(body))
}

/// The repository of a scope `repository:NAME:ACTIONS` whose actions include `pull`. The name may contain colons.
fn repository_to_pull(scope: &str) -> Option<String> {
    let (name, actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
    let pulls = actions.split(',').any(|action| action == "pull" || action == "*");
    pulls.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_name_a_repository_and_actions() {
        for (scope, expected) in [
            ("repository:library/app:pull", Some("library/app")),
            ("repository:a:5000/b:push,pull", Some("a:5000/b")),
            ("repository:a:push", None),
            ("registry:catalog:*", None),
            ("aws", None),
        ] {
            assert_eq!(repository_to_pull(scope).as_deref(), expected, "{scope}");
        }
    }
}
