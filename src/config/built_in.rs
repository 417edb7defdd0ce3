//! The well-known public registries, there by name without any configuration. All are asked anonymously; an operator's table of
//! the same name overrides the keys that it names and nothing else.

use url::Url;

use crate::oci::UpstreamName;

/// The upstream that is the default when none says that it is.
pub(super) const DEFAULT: &str = "docker.io";

/// A registry that needs no configuration.
pub(super) struct BuiltIn {
    name: &'static str,
    /// Where it is, if that is not `https://` and its name.
    url: Option<&'static str>,
    aliases: &'static [&'static str],
    /// Its token server, where that is worth pinning or under another domain, so that a challenge alone would not be believed.
    realm: Option<&'static str>,
}

const fn at_its_name(name: &'static str) -> BuiltIn {
    BuiltIn { name, url: None, aliases: &[], realm: None }
}

#[rustfmt::skip]
const TABLE: &[BuiltIn] = &[
    BuiltIn {
        name: DEFAULT,
        url: Some("https://registry-1.docker.io"),
        aliases: &["index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"],
        realm: Some("https://auth.docker.io/token"),
    },
    at_its_name("ghcr.io"),
    // A front of ghcr.io, which sends everyone to that one's token server.
    BuiltIn { name: "lscr.io", url: None, aliases: &[], realm: Some("https://ghcr.io/token") },
    at_its_name("quay.io"),
    at_its_name("gcr.io"),
    at_its_name("mirror.gcr.io"),
    at_its_name("us-docker.pkg.dev"),
    at_its_name("europe-docker.pkg.dev"),
    at_its_name("asia-docker.pkg.dev"),
    at_its_name("registry.k8s.io"),
    at_its_name("k8s.gcr.io"),
    at_its_name("public.ecr.aws"),
    at_its_name("mcr.microsoft.com"),
    at_its_name("registry.gitlab.com"),
    at_its_name("nvcr.io"),
    at_its_name("docker.elastic.co"),
    at_its_name("registry.access.redhat.com"),
    at_its_name("registry.fedoraproject.org"),
    at_its_name("registry.opensuse.org"),
    at_its_name("container-registry.oracle.com"),
    at_its_name("icr.io"),
    at_its_name("cgr.dev"),
    at_its_name("xpkg.upbound.io"),
    at_its_name("codeberg.org"),
];

const WELL_FORMED: &str = "the table of built-in upstreams is well formed, as its test sees to";

/// The entry of `name`, if it is built in.
pub(super) fn find(name: &UpstreamName) -> Option<&'static BuiltIn> {
    TABLE.iter().find(|entry| entry.name == name.as_str())
}

/// The names of all of them.
pub(super) fn names() -> impl Iterator<Item = UpstreamName> {
    TABLE.iter().map(BuiltIn::name)
}

impl BuiltIn {
    fn name(&self) -> UpstreamName {
        self.name.parse().expect(WELL_FORMED)
    }

    pub(super) fn url(&self) -> Url {
        match self.url {
            Some(url) => Url::parse(url),
            None => Url::parse(&format!("https://{}", self.name)),
        }
        .expect(WELL_FORMED)
    }

    pub(super) fn aliases(&self) -> impl Iterator<Item = UpstreamName> {
        self.aliases.iter().map(|alias| alias.parse().expect(WELL_FORMED))
    }

    pub(super) fn realm(&self) -> Option<Url> {
        self.realm.map(|realm| Url::parse(realm).expect(WELL_FORMED))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::config::address;

    #[test]
    fn the_table_is_well_formed_and_nothing_is_claimed_twice() {
        let mut claimed = HashSet::new();
        for entry in TABLE {
            for name in entry.aliases().chain([entry.name()]) {
                assert!(claimed.insert(name.clone()), "{name} is claimed twice");
            }
            assert_eq!(
                address::registry(entry.url().as_str()),
                Ok(entry.url()),
                "{} has a URL as an operator may write it",
                entry.name
            );
            for url in entry.realm().into_iter().chain([entry.url()]) {
                assert_eq!(url.scheme(), "https", "{} is asked over TLS", entry.name);
            }
        }
        assert!(claimed.contains(&DEFAULT.parse::<UpstreamName>().expect("a name")));
    }
}
