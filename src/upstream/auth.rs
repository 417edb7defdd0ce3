//! How one upstream is authenticated to: what is sent with the first try, and what after a challenge. It remembers what the registry
//! asked for, so that most questions need no challenge, and it never makes more than one new attempt for a question.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use moka::sync::Cache;
use reqwest::header::{HeaderMap, HeaderValue};
use url::Url;

use super::Target;
use super::challenge::{Demand, demand};
use super::error::{Refusal, UpstreamError};
use super::grant::Grant;
use super::realm;
use super::settings::RegistryConfig;
use super::token::Tokens;
use super::wire::Wire;
use crate::oci::RepositoryName;

/// The most memory spent on repositories with unusual scopes, in bytes: what a scope says is the upstream's choice.
const PECULIAR_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The authentication of one upstream.
pub(super) struct Authenticator {
    upstream: Url,
    pinned_realm: Option<Url>,
    /// The header that the credential makes. To the registry itself it goes only after a Basic challenge of the registry itself.
    credential: Option<HeaderValue>,
    tokens: Arc<Tokens>,
    habit: Mutex<Habit>,
    /// Repositories that are asked for with another scope than the plain right to pull.
    peculiar: Cache<(RepositoryName, Purpose), Grant>,
}

/// What the registry has been seen to ask for.
#[derive(Clone)]
enum Habit {
    /// Nothing, so far.
    Unknown,
    Basic,
    /// The plain right to pull, from this token server.
    Bearer {
        realm: Url,
        service: Option<String>,
    },
}

/// Some registries want another right for tag lists than for content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Purpose {
    Content,
    Listing,
}

/// What one try was, or is to be, authorized with.
pub(super) enum Authorization {
    /// Nothing. If a guessed grant has just been denied, it and the denial: the registry may ask for another one.
    Nothing {
        denied: Option<(Grant, UpstreamError)>,
    },
    Basic(HeaderValue),
    /// `fresh` if the token was fetched for this very try.
    Bearer {
        header: HeaderValue,
        grant: Grant,
        fresh: bool,
    },
}

impl Authorization {
    pub(super) fn header(&self) -> Option<&HeaderValue> {
        match self {
            Self::Nothing { .. } => None,
            Self::Basic(header) | Self::Bearer { header, .. } => Some(header),
        }
    }
}

impl Authenticator {
    pub(super) fn new(config: &RegistryConfig, wire: Arc<Wire>) -> Self {
        let credential = config.credential.as_ref().map(|(user, password)| {
            let text = STANDARD.encode(format!("{user}:{}", password.expose()));
            let mut header = HeaderValue::from_str(&format!("Basic {text}")).expect("base64 is made of header characters");
            header.set_sensitive(true);
            header
        });
        Self {
            upstream: config.url.clone(),
            pinned_realm: config.realm.clone(),
            tokens: Arc::new(Tokens::new(wire, credential.clone())),
            credential,
            habit: Mutex::new(Habit::Unknown),
            peculiar: Cache::builder()
                .max_capacity(PECULIAR_MAX_BYTES)
                .weigher(|(repository, _): &(RepositoryName, Purpose), grant: &Grant| {
                    u32::try_from(repository.as_str().len() + grant.weight()).unwrap_or(u32::MAX)
                })
                .build(),
        }
    }

    /// What to send with the first try, by what is known of this registry.
    ///
    /// # Errors
    /// The token server's, if it is down, limiting or refused. A token that it merely denies is not an error yet.
    pub(super) async fn first(&self, repository: &RepositoryName, target: &Target) -> Result<Authorization, UpstreamError> {
        let key = (repository.clone(), Purpose::of(target));
        let peculiar = self.peculiar.get(&key);
        let grant = match (peculiar, self.habit()) {
            (Some(grant), _) => grant,
            (None, Habit::Bearer { realm, service }) => Grant::new(realm, service, None, repository),
            (None, Habit::Basic) => return Ok(self.credential.clone().map_or(Authorization::nothing(), Authorization::Basic)),
            (None, Habit::Unknown) => return Ok(Authorization::nothing()),
        };
        match self.tokens.get(repository, &grant, None).await {
            Ok((token, fresh)) => Ok(Authorization::Bearer { header: token.authorization, grant, fresh }),
            Err(error @ UpstreamError::Denied { .. }) => {
                self.peculiar.invalidate(&key);
                Ok(Authorization::Nothing { denied: Some((grant, error)) })
            }
            Err(error) => {
                // The registry may have moved to another token server: the next question asks the registry itself again.
                self.peculiar.invalidate(&key);
                self.set_habit(Habit::Unknown);
                Err(error)
            }
        }
    }

    /// What to send with the second and last try, after a 401 with `headers` to a try with `used`.
    ///
    /// # Errors
    /// [`UpstreamError::Denied`] if there is nothing else to send, [`Refusal::Realm`] if the challenge names a token server that
    /// this registry is not trusted to name, and the token server's own errors.
    pub(super) async fn after_challenge(
        &self,
        repository: &RepositoryName,
        target: &Target,
        used: Authorization,
        headers: &HeaderMap,
    ) -> Result<Authorization, UpstreamError> {
        let demanded = demand(headers);
        match (demanded, used) {
            (Some(Demand::Bearer { realm, service, scope }), used) => {
                let realm = self.trusted_realm(realm.as_deref())?;
                let grant = Grant::new(realm, service, scope.as_deref(), repository);
                self.bearer(repository, target, used, grant).await
            }
            // Harbor answers a token that has expired with a Basic challenge, others with none.
            (_, Authorization::Bearer { header, grant, fresh: false }) => {
                let used = Authorization::Bearer { header, grant: grant.clone(), fresh: false };
                self.bearer(repository, target, used, grant).await
            }
            (Some(Demand::Basic), Authorization::Nothing { .. } | Authorization::Bearer { .. }) => {
                let credential = self.credential.clone().ok_or(UpstreamError::denied(401))?;
                self.set_habit(Habit::Basic);
                Ok(Authorization::Basic(credential))
            }
            (Some(Demand::Basic) | None, _) => Err(UpstreamError::denied(401)),
        }
    }

    /// A token for the `grant` that the registry asked for, other than the one `used`.
    async fn bearer(
        &self,
        repository: &RepositoryName,
        target: &Target,
        used: Authorization,
        grant: Grant,
    ) -> Result<Authorization, UpstreamError> {
        let refused = match used {
            Authorization::Bearer { grant: same, fresh: true, .. } if same == grant => return Err(UpstreamError::denied(401)),
            Authorization::Nothing { denied: Some((same, denial)) } if same == grant => return Err(denial),
            Authorization::Bearer { header, grant: same, .. } if same == grant => Some(header),
            _ => None,
        };
        let (token, fresh) = self.tokens.get(repository, &grant, refused.as_ref()).await?;
        let key = (repository.clone(), Purpose::of(target));
        if grant.is_plain(repository) {
            self.peculiar.invalidate(&key);
            self.set_habit(Habit::Bearer { realm: grant.realm().clone(), service: grant.service().map(str::to_owned) });
        } else {
            self.peculiar.insert(key, grant.clone());
        }
        Ok(Authorization::Bearer { header: token.authorization, grant, fresh })
    }

    fn trusted_realm(&self, challenged: Option<&str>) -> Result<Url, Refusal> {
        realm::trusted(challenged, &self.upstream, self.pinned_realm.as_ref())
    }

    fn habit(&self) -> Habit {
        self.habit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_habit(&self, habit: Habit) {
        *self.habit.lock().unwrap_or_else(PoisonError::into_inner) = habit;
    }
}

impl Authorization {
    fn nothing() -> Self {
        Self::Nothing { denied: None }
    }
}

impl Purpose {
    fn of(target: &Target) -> Self {
        match target {
            Target::Tags { .. } => Self::Listing,
            Target::Manifest(_) | Target::Blob(_) | Target::Referrers { .. } => Self::Content,
        }
    }
}
