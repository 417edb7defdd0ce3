//! What a token is asked for: which token server, for which service, with which scopes. It only ever asks to read, whatever
//! the challenge offers.

use std::sync::Arc;

use url::Url;

use crate::oci::RepositoryName;

/// The actions of a scope that read. `metadata_read` is what Azure's registry wants for tag lists.
const READING: [&str; 2] = ["pull", "metadata_read"];

/// A token request without its credential (distribution's token specification). Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Grant(Arc<Parts>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Parts {
    realm: Url,
    service: Option<String>,
    scopes: Vec<String>,
}

impl Grant {
    /// What to ask for after a challenge with this `scope`; without one, to pull from `repository`.
    pub(super) fn new(realm: Url, service: Option<String>, scope: Option<&str>, repository: &RepositoryName) -> Self {
        let mut scopes: Vec<_> = scope.unwrap_or_default().split_ascii_whitespace().map(reading).collect();
        if scopes.is_empty() {
            scopes.push(pull(repository));
        }
        Self(Arc::new(Parts { realm, service, scopes }))
    }

    pub(super) fn realm(&self) -> &Url {
        &self.0.realm
    }

    pub(super) fn service(&self) -> Option<&str> {
        self.0.service.as_deref()
    }

    /// About how many bytes it takes to keep this.
    pub(super) fn weight(&self) -> usize {
        let Parts { realm, service, scopes } = &*self.0;
        realm.as_str().len() + service.as_ref().map_or(0, String::len) + scopes.iter().map(String::len).sum::<usize>()
    }

    /// Whether this is just the right to pull from `repository`, so that the grant for another repository can be guessed from it.
    pub(super) fn is_plain(&self, repository: &RepositoryName) -> bool {
        matches!(self.0.scopes.as_slice(), [scope] if *scope == pull(repository))
    }

    /// The URL to ask, with the realm's own query kept.
    pub(super) fn url(&self) -> Url {
        let mut url = self.0.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.0.service {
                query.append_pair("service", service);
            }
            for scope in &self.0.scopes {
                query.append_pair("scope", scope);
            }
        }
        url
    }
}

fn pull(repository: &RepositoryName) -> String {
    format!("repository:{repository}:pull")
}

/// `scope` with its actions reduced to those that read. Only scopes of repositories are understood; others are left as they are.
/// The actions follow the last colon: a repository's name may have one itself, before a port.
fn reading(scope: &str) -> String {
    let is_repository = scope.starts_with("repository:") || scope.starts_with("repository(");
    match scope.rsplit_once(':') {
        Some((resource, actions)) if is_repository && resource.contains(':') => {
            let mut kept: Vec<_> = actions.split(',').filter(|action| READING.contains(action)).collect();
            if kept.is_empty() {
                kept.push("pull");
            }
            format!("{resource}:{}", kept.join(","))
        }
        _ => scope.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(scope: Option<&str>) -> Grant {
        let realm = "https://auth.example.org/token?tenant=1".parse().unwrap();
        Grant::new(realm, Some("r&d".to_owned()), scope, &"a/b".parse().unwrap())
    }

    #[test]
    fn scopes_are_reduced_to_reading() {
        for (offered, asked) in [
            (None, "repository:a/b:pull"),
            (Some(""), "repository:a/b:pull"),
            (Some("  "), "repository:a/b:pull"),
            (Some("repository:a/b:pull"), "repository:a/b:pull"),
            (Some("repository:a/b:pull,push"), "repository:a/b:pull"),
            (Some("repository:a/b:*"), "repository:a/b:pull"),
            (Some("repository:a/b:delete"), "repository:a/b:pull"),
            (Some("repository:a/b:metadata_read"), "repository:a/b:metadata_read"),
            (Some("repository:host:5000/a/b:push,pull"), "repository:host:5000/a/b:pull"),
            (Some("repository(plugin):a/b:pull,push"), "repository(plugin):a/b:pull"),
            (Some("aws"), "aws"),
            (Some("registry:catalog:*"), "registry:catalog:*"),
        ] {
            assert_eq!(grant(offered).0.scopes, [asked], "{offered:?}");
        }
        assert_eq!(
            grant(Some("repository:a/b:pull repository:c/d:push")).0.scopes,
            ["repository:a/b:pull", "repository:c/d:pull"]
        );
    }

    #[test]
    fn the_realms_own_query_is_kept_and_the_rest_is_escaped() {
        let url = grant(Some("repository:a/b:pull aws&x=y")).url();
        let pairs: Vec<_> = url.query_pairs().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(pairs, ["tenant=1", "service=r&d", "scope=repository:a/b:pull", "scope=aws&x=y"]);
    }

    #[test]
    fn only_the_plain_right_to_pull_can_be_guessed_from() {
        let (own, other) = ("a/b".parse().unwrap(), "c/d".parse().unwrap());
        assert!(grant(None).is_plain(&own) && !grant(None).is_plain(&other));
        assert!(!grant(Some("aws")).is_plain(&own));
        assert!(!grant(Some("repository:a/b:pull aws")).is_plain(&own));
    }
}
