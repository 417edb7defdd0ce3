//! What an operator says about one upstream, and the checks that a registry is not built without. It reads no files.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderValue;
use url::{Host, Url};

use super::error::BuildError;
use super::rate::Rate;
use crate::oci::UpstreamName;
use crate::util::{Secret, same_party};

/// One upstream, as the operator configured it.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    pub name: UpstreamName,
    /// Where its `/v2/` is; a path before that is kept. Plain `http` is for those who said so here, and takes no credential
    /// unless the host is this machine itself.
    pub url: Url,
    /// User and password, sent as HTTP Basic to the token server, or to the registry itself if that is what it asks for.
    pub credential: Option<(String, Secret)>,
    /// The token server, whatever a challenge says. Without it, a challenge may name one on the same host or registrable domain.
    pub realm: Option<Url>,
    /// Origins that a redirect may lead to wherever they are: in plain http, or at private addresses.
    pub trusted_redirects: Vec<url::Origin>,
    /// PEM certificates trusted in addition to the system's. May be empty.
    pub ca: Vec<u8>,
    /// Is told of each request; those who wait for their turn by it do so before they ask.
    pub rate: Arc<Rate>,
    /// To find the addresses of a name.
    pub resolve_timeout: Duration,
    /// For TCP and TLS together, once an address is known.
    pub connect_timeout: Duration,
    /// For each request, from its start until the headers of its answer; also for a whole token exchange.
    pub headers_timeout: Duration,
    /// The longest time that a body may bring no byte.
    pub stall_timeout: Duration,
    pub user_agent: String,
}

impl RegistryConfig {
    /// The same registry at another place. Only within the same registrable domain it is asked with the credential, and trusted to
    /// belong to the same token server.
    pub fn at(&self, endpoint: Url) -> Self {
        let (credential, realm) =
            if same_party(&self.url, &endpoint) { (self.credential.clone(), self.realm.clone()) } else { (None, None) };
        Self { url: endpoint, credential, realm, ..self.clone() }
    }

    /// Refuses what could only fail, or leak, later.
    pub(super) fn check(&self) -> Result<(), BuildError> {
        let plain_url = |url: &Url| {
            matches!(url.scheme(), "http" | "https") && url.has_host() && !has_userinfo(url) && url.fragment().is_none()
        };
        if !plain_url(&self.url) || self.url.query().is_some() {
            return Err(BuildError::BadUrl);
        }
        if self.realm.as_ref().is_some_and(|realm| !plain_url(realm)) {
            return Err(BuildError::BadRealm);
        }
        if HeaderValue::from_str(&self.user_agent).is_err() {
            return Err(BuildError::BadUserAgent);
        }
        let mut receivers = std::iter::once(&self.url).chain(&self.realm);
        if self.credential.is_some() && !receivers.all(may_carry_secrets) {
            return Err(BuildError::CredentialInClear);
        }
        Ok(())
    }
}

/// Whether `url` names a user or a password.
pub(super) fn has_userinfo(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// Whether nobody on the way can read what is sent to `url`.
fn may_carry_secrets(url: &Url) -> bool {
    url.scheme() == "https"
        || match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_credential_and_the_realm_stay_within_the_domain() {
        let config = RegistryConfig {
            name: "r.example.org".parse().unwrap(),
            url: "https://r.example.org".parse().unwrap(),
            credential: Some(("user".to_owned(), Secret::new("password"))),
            realm: Some("https://auth.example.com/token".parse().unwrap()),
            trusted_redirects: Vec::new(),
            ca: Vec::new(),
            rate: Arc::new(Rate::new(std::num::NonZeroU32::MIN)),
            resolve_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            headers_timeout: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(1),
            user_agent: "larder/test".to_owned(),
        };
        for (endpoint, is_trusted) in [
            ("https://eu.example.org", true),
            ("https://r.example.org:5000/mirror", true),
            ("https://r.example.com", false),
            ("https://r.example.org.evil.example", false),
            ("http://10.0.0.1:5000", false),
        ] {
            let at = config.at(endpoint.parse().unwrap());
            assert_eq!((at.credential.is_some(), at.realm.is_some()), (is_trusted, is_trusted), "{endpoint}");
            assert_eq!(at.url, endpoint.parse().unwrap());
            assert!(at.check().is_ok());
        }
        let in_clear = config.at("http://eu.example.org".parse().unwrap());
        assert!(matches!(in_clear.check(), Err(BuildError::CredentialInClear)));
    }
}
