//! Which upstream and repository a request means, for every way in which real clients address a mirror.
//! Upstreams are a closed list: a name in a request is a key to look up, never an address to dial.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::oci::{NameError, RepositoryName, UpstreamName};
use crate::upstream::Origin;
use crate::util::Hashing;

/// An upstream as the mirror sees it.
pub struct Upstream {
    pub name: UpstreamName,
    /// Other names that clients use for it.
    pub aliases: Vec<UpstreamName>,
    /// Values of `Host` under which bare names mean this upstream.
    pub hosts: Vec<String>,
    /// Whether it is asked without any credential, so that all it gives is public.
    pub is_anonymous: bool,
    /// The namespace that one-word names stand in (`library` on Docker Hub).
    pub official_namespace: Option<&'static str>,
    pub origin: Arc<dyn Origin>,
}

/// The closed list of upstreams.
pub struct Upstreams {
    by_name: HashMap<UpstreamName, Arc<Upstream>, Hashing>,
    by_host: HashMap<String, Arc<Upstream>, Hashing>,
    default: Arc<Upstream>,
}

/// How a request names a repository, as text that nobody has checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address<'a> {
    /// What stands before `/v2/` in the path.
    pub prefix: Option<&'a str>,
    /// What stands between `/v2/` and the endpoint.
    pub name: &'a str,
    /// `?ns=`.
    pub namespace: Option<&'a str>,
    /// The `Host` that was asked.
    pub host: Option<&'a str>,
}

/// A repository of an upstream.
#[derive(Clone)]
pub struct Place {
    pub upstream: Arc<Upstream>,
    pub repository: RepositoryName,
}

/// Why an address means no repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoutingError {
    #[error("no upstream is called {0:?} here; an operator can add it to the configuration")]
    UnknownUpstream(String),
    #[error("the request names two upstreams: {0} and {1}")]
    Conflict(UpstreamName, UpstreamName),
    #[error("{0:?} names an upstream but no repository in it")]
    NoRepository(String),
    #[error("{name:?} is not a repository name: {error}")]
    BadName { name: String, error: NameError },
}

impl Upstreams {
    /// The list made of `upstreams`; `default` is what bare names mean. Names, aliases and hosts must not be claimed twice: the
    /// configuration has seen to that, and here the first one wins.
    pub fn new(upstreams: Vec<Arc<Upstream>>, default: Arc<Upstream>) -> Self {
        let mut by_name = HashMap::<_, _, Hashing>::default();
        let mut by_host = HashMap::<_, _, Hashing>::default();
        for upstream in &upstreams {
            by_name.entry(upstream.name.clone()).or_insert_with(|| Arc::clone(upstream));
        }
        for upstream in &upstreams {
            for alias in &upstream.aliases {
                by_name.entry(alias.clone()).or_insert_with(|| Arc::clone(upstream));
            }
            for host in &upstream.hosts {
                by_host.entry(host.to_ascii_lowercase()).or_insert_with(|| Arc::clone(upstream));
            }
        }
        Self { by_name, by_host, default }
    }

    /// The upstream that clients call `name`, in upper or lower case.
    pub fn get(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.by_name.get(&*lower_case(name))
    }

    /// The upstream that clients call `name`.
    ///
    /// # Errors
    /// [`RoutingError::UnknownUpstream`] if there is none.
    pub fn named(&self, name: &str) -> Result<&Arc<Upstream>, RoutingError> {
        self.get(name).ok_or_else(|| RoutingError::UnknownUpstream(name.to_owned()))
    }

    /// Each upstream once, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.by_name.iter().filter(|(name, upstream)| **name == upstream.name).map(|(_, upstream)| upstream)
    }

    pub fn default(&self) -> &Arc<Upstream> {
        &self.default
    }

    /// Which repository `address` means.
    ///
    /// What is said explicitly (prefix, `ns`, the first path element) must agree and counts once; the `Host` decides only what
    /// a bare name means.
    ///
    /// # Errors
    /// [`RoutingError`] if it means none, or two.
    pub fn route(&self, address: &Address<'_>) -> Result<Place, RoutingError> {
        let mut said: Option<&Arc<Upstream>> = None;
        let (first, rest) = match address.name.split_once('/') {
            Some((first, rest)) => (first, Some(rest)),
            None => (address.name, None),
        };
        let outside_path = [address.prefix, address.namespace];
        // A plain word is an upstream only where nobody else names one: `corp/app` may well be a repository of Docker Hub.
        let path_is_all = outside_path.iter().all(Option::is_none) && rest.is_some();
        let in_path = self.get(first).filter(|_| looks_like_host(first) || path_is_all);
        let outside_path = outside_path.map(|name| name.map(|name| self.named(name)).transpose());
        let [prefix, namespace] = outside_path;
        for upstream in [prefix?, namespace?, in_path].into_iter().flatten() {
            match said {
                Some(earlier) if earlier.name != upstream.name => {
                    return Err(RoutingError::Conflict(earlier.name.clone(), upstream.name.clone()));
                }
                _ => said = Some(upstream),
            }
        }
        let name = match (in_path, rest) {
            (Some(_), Some(rest)) => rest,
            (Some(_), None) => return Err(RoutingError::NoRepository(address.name.to_owned())),
            // Nobody else says which upstream, and this is a host that we do not know.
            (None, _) if said.is_none() && looks_like_host(first) && rest.is_some() => {
                return Err(RoutingError::UnknownUpstream(first.to_owned()));
            }
            (None, _) => address.name,
        };
        let upstream = said.or_else(|| self.by_host(address.host?)).unwrap_or(&self.default);
        let repository = match upstream.official_namespace {
            Some(namespace) if !name.contains('/') => format!("{namespace}/{name}").parse(),
            _ => name.parse(),
        };
        let repository = repository.map_err(|error| RoutingError::BadName { name: name.to_owned(), error })?;
        Ok(Place { upstream: Arc::clone(upstream), repository })
    }

    /// The upstream of a `Host`: one that was configured for it, or one whose own name it is (where DNS sends that name to us).
    fn by_host(&self, host: &str) -> Option<&Arc<Upstream>> {
        let host = &*lower_case(host);
        let without_port = host.rsplit_once(':').map_or(host, |(host, _)| host);
        self.by_host
            .get(host)
            .or_else(|| self.by_host.get(without_port))
            .or_else(|| self.get(host))
            .or_else(|| self.get(without_port))
    }
}

fn lower_case(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}

/// The rule of every client (`distribution/reference`): a first path element with a dot or a colon, or `localhost`, is a host.
fn looks_like_host(element: &str) -> bool {
    element.contains(['.', ':']) || element == "localhost"
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.upstream.name, self.repository)
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;

    use super::*;
    use crate::upstream::{Answer, Question, UpstreamError};

    struct Nowhere;

    impl Origin for Nowhere {
        fn ask(&self, _: Question) -> BoxFuture<'static, Result<Answer, UpstreamError>> {
            panic!("routing asks nobody")
        }
    }

    fn upstream(name: &str, aliases: &[&str], hosts: &[&str]) -> Arc<Upstream> {
        Arc::new(Upstream {
            name: name.parse().unwrap(),
            aliases: aliases.iter().map(|alias| alias.parse().unwrap()).collect(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            is_anonymous: true,
            official_namespace: (name == "docker.io").then_some("library"),
            origin: Arc::new(Nowhere),
        })
    }

    fn upstreams() -> Upstreams {
        let hub = upstream("docker.io", &["index.docker.io", "registry-1.docker.io"], &[]);
        let list = vec![
            Arc::clone(&hub),
            upstream("ghcr.io", &[], &["ghcr.mirror.lan"]),
            upstream("reg:5000", &[], &[]),
            upstream("corp", &[], &[]),
        ];
        Upstreams::new(list, hub)
    }

    /// `prefix name ns host`, `-` for none.
    fn route(text: &str) -> Result<String, RoutingError> {
        let words: Vec<_> = text.split(' ').map(|word| (word != "-").then_some(word)).collect();
        let address = Address { prefix: words[0], name: words[1].unwrap(), namespace: words[2], host: words[3] };
        upstreams().route(&address).map(|place| format!("{place:?}"))
    }

    #[test]
    fn every_way_to_address_a_mirror_leads_to_the_same_place() {
        for (address, place) in [
            // Bare names mean the default; one word means the official namespace.
            ("- alpine - -", "docker.io/library/alpine"),
            ("- library/alpine - -", "docker.io/library/alpine"),
            ("- grafana/grafana - -", "docker.io/grafana/grafana"),
            // containerd
            ("- library/alpine docker.io -", "docker.io/library/alpine"),
            ("- library/alpine index.docker.io -", "docker.io/library/alpine"),
            ("- library/alpine registry-1.docker.io -", "docker.io/library/alpine"),
            ("- org/app ghcr.io -", "ghcr.io/org/app"),
            ("- app reg:5000 -", "reg:5000/app"),
            // Podman, helm, BuildKit, override_path
            ("- docker.io/alpine - -", "docker.io/library/alpine"),
            ("- docker.io/library/x docker.io -", "docker.io/library/x"),
            ("- docker.io/library/x index.docker.io -", "docker.io/library/x"),
            ("- ghcr.io/org/app - -", "ghcr.io/org/app"),
            ("- reg:5000/app - -", "reg:5000/app"),
            ("- corp/app - -", "corp/app"),
            ("- corp - -", "docker.io/library/corp"),
            ("- corp/app docker.io -", "docker.io/corp/app"),
            // hosts.toml paths, Docker ≥ 25
            ("docker.io library/x docker.io -", "docker.io/library/x"),
            ("ghcr.io org/app - -", "ghcr.io/org/app"),
            ("docker.io docker.io/library/x docker.io -", "docker.io/library/x"),
            // Host
            ("- org/app - ghcr.mirror.lan:5050", "ghcr.io/org/app"),
            ("- org/app - ghcr.io", "ghcr.io/org/app"),
            ("- docker.io/library/x - ghcr.mirror.lan", "docker.io/library/x"),
            ("- library/x docker.io ghcr.mirror.lan", "docker.io/library/x"),
            ("- alpine - localhost:5050", "docker.io/library/alpine"),
            // A dot in a name is no host once the upstream is known.
            ("- my.org/app ghcr.io -", "ghcr.io/my.org/app"),
        ] {
            assert_eq!(route(address).as_deref(), Ok(place), "{address}");
        }
    }

    #[test]
    fn what_means_no_place_is_refused() {
        let unknown = |name: &str| Err(RoutingError::UnknownUpstream(name.to_owned()));
        assert_eq!(route("- x 169.254.169.254 -"), unknown("169.254.169.254"));
        assert_eq!(route("- x [::ffff:169.254.169.254] -"), unknown("[::ffff:169.254.169.254]"));
        assert_eq!(route("- x 2852039166 -"), unknown("2852039166"));
        assert_eq!(route("- x http://evil/ -"), unknown("http://evil/"));
        assert_eq!(route("- evil.example/x - -"), unknown("evil.example"));
        assert_eq!(route("- 10.0.0.1:80/x - -"), unknown("10.0.0.1:80"));
        assert_eq!(route("- localhost/x - -"), unknown("localhost"));
        assert_eq!(route("nowhere x - -"), unknown("nowhere"));
        assert!(matches!(route("- docker.io/library/x ghcr.io -"), Err(RoutingError::Conflict(..))));
        assert!(matches!(route("ghcr.io x docker.io -"), Err(RoutingError::Conflict(..))));
        assert!(matches!(route("- ghcr.io - -"), Err(RoutingError::NoRepository(_))));
        for name in ["Upper", "a/../b", "..", "a//b", "a%2f"] {
            assert!(matches!(route(&format!("- {name} docker.io -")), Err(RoutingError::BadName { .. })), "{name}");
        }
    }
}
