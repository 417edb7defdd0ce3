//! One upstream: its table, or what is built in, made into what the upstream layer needs. Whether it gets along with the other
//! upstreams is not decided here.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::{Origin, Url};

use super::address;
use super::built_in;
use super::credential;
use super::error::{Place, Problem};
use super::reserve::Reserve;
use super::settings::{Located, Section, SectionReader, Settings};
use super::value;
use crate::oci::UpstreamName;
use crate::util::{Secret, same_party};

/// A registry at the other end.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamConfig {
    pub name: UpstreamName,
    /// http or https, with neither userinfo nor query nor fragment. A path stands before `/v2/` and has no slash at its end.
    pub url: Url,
    /// Other places where it is, in the order in which they are asked; as `url` in form, and none of them is `url`.
    pub endpoints: Vec<Url>,
    /// Whether nothing is asked of it.
    pub offline: bool,
    /// Whether names without a registry mean this one.
    pub default: bool,
    /// Other names of it.
    pub aliases: Vec<UpstreamName>,
    /// Values of the `Host` header under which this one is the default, in lower case. One without a port is meant for any port.
    pub hosts: Vec<String>,
    /// Never there with a `url` or `realm` of plain http, unless that is on this machine; nor with such an endpoint that it is for.
    pub credential: Option<Credential>,
    /// Whether clients that do not authenticate may read what `credential` can read. Always true if there is one.
    pub open_to_all: bool,
    /// Certificates in PEM, at least one, to be trusted besides the usual ones.
    pub ca: Option<Vec<u8>>,
    /// The token server to ask, whatever a challenge says.
    pub realm: Option<Url>,
    pub trusted_redirects: Vec<Origin>,
    pub requests_per_second: NonZeroU32,
    pub concurrent_requests: NonZeroUsize,
    pub rate_limit_reserve: Reserve,
}

/// An account at an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    pub username: String,
    pub password: Secret,
}

/// An upstream whose claims are not yet checked against those of others.
pub(super) struct Draft {
    /// `default` is false throughout.
    pub(super) config: UpstreamConfig,
    pub(super) says_default: Option<Located<bool>>,
    /// Where each of `config.aliases` was said; built-in ones were said nowhere.
    pub(super) alias_places: Vec<Option<Place>>,
    /// Where each of `config.hosts` was said.
    pub(super) host_places: Vec<Place>,
}

/// What became of an upstream's settings.
pub(super) enum Outcome {
    Drafted(Box<Draft>),
    /// Taken off the list, and where that was said.
    Disabled(Place),
    /// Too much is wrong with it, as was noted.
    Unusable,
}

/// Reads the settings of upstream `name`, for which `declared` is where its table begins. Of one that is disabled, nothing
/// else is looked at: its password file need not exist.
pub(super) fn read(name: UpstreamName, declared: Option<&Place>, settings: &mut Settings) -> Outcome {
    let known = built_in::find(&name);
    let mut section = settings.section(Section::Upstream(name.clone()));
    if let Some(Located { value: false, place }) = section.given("enabled", value::flag) {
        return Outcome::Disabled(place);
    }

    let given_url = section.given("url", address::registry);
    let usual_url = match known {
        Some(known) => Some(known.url()),
        None => address::registry(&format!("https://{name}")).ok(),
    };
    let (url, url_place) = match (given_url, usual_url) {
        (Some(given), _) => (given.value, Some(given.place)),
        (None, Some(url)) => (url, None),
        (None, None) => {
            if let Some(place) = declared {
                section.note(place.clone(), Problem::NoUrl(name.to_string()));
            }
            return Outcome::Unusable;
        }
    };
    let given_realm = section.given("realm", address::realm);
    let realm_place = given_realm.as_ref().map(|realm| realm.place.clone());
    // What is built in belongs to the registry that is built in, not to another one under its name.
    let usual_realm = known.filter(|known| known.url() == url).and_then(|known| known.realm());
    let realm = given_realm.map(|realm| realm.value).or(usual_realm);

    let mut endpoints = section.list("endpoints", address::registry).unwrap_or_default();
    endpoints.retain(|endpoint| endpoint.value != url);
    let credential = credential::read(&mut section);
    let open_to_all = section.value("open_to_all", value::flag);
    if let Some(credential) = &credential {
        if !open_to_all {
            section.note(credential.place.clone(), Problem::NotOpenToAll);
        }
        let mut receivers = vec![("url", &url, url_place)];
        receivers.extend(realm.as_ref().map(|realm| ("realm", realm, realm_place)));
        let trusted = endpoints.iter().filter(|endpoint| same_party(&endpoint.value, &url));
        receivers.extend(trusted.map(|endpoint| ("endpoints", &endpoint.value, Some(endpoint.place.clone()))));
        for (key, url, place) in receivers {
            if url.scheme() == "http" && !address::is_loopback(url) {
                let place = place.unwrap_or_else(|| credential.place.clone());
                section.note(place, Problem::CredentialInTheClear(key.to_owned()));
            }
        }
    }

    let (aliases, alias_places) = match section.list("aliases", value::upstream_name) {
        Some(given) => given.into_iter().map(|alias| (alias.value, Some(alias.place))).unzip(),
        None => known.into_iter().flat_map(|known| known.aliases()).map(|alias| (alias, None)).unzip(),
    };
    let (hosts, host_places) =
        section.list("hosts", address::host).unwrap_or_default().into_iter().map(|host| (host.value, host.place)).unzip();
    let says_default = section.given("default", value::flag);
    let trusted = section.list("trusted_redirects", address::origin).unwrap_or_default();
    let config = UpstreamConfig {
        name,
        url,
        endpoints: endpoints.into_iter().map(|endpoint| endpoint.value).collect(),
        offline: section.value("offline", value::flag),
        default: false,
        aliases,
        hosts,
        credential: credential.map(|credential| credential.value),
        open_to_all,
        ca: certificates(&mut section),
        realm,
        trusted_redirects: trusted.into_iter().map(|origin| origin.value).collect(),
        requests_per_second: section.value("requests_per_second", value::count),
        concurrent_requests: section.value("concurrent_requests", value::count),
        rate_limit_reserve: section.value("rate_limit_reserve", value::reserve),
    };
    Outcome::Drafted(Box::new(Draft { config, says_default, alias_places, host_places }))
}

/// The content of `ca_file`, if it is what it should be.
fn certificates(section: &mut SectionReader<'_>) -> Option<Vec<u8>> {
    let Located { value: file, place } = section.path("ca_file")?;
    match read_certificates(&file) {
        Ok(pem) => Some(pem),
        Err(problem) => {
            section.note(place, problem);
            None
        }
    }
}

fn read_certificates(file: &Path) -> Result<Vec<u8>, Problem> {
    let pem = std::fs::read(file).map_err(|error| Problem::FileUnreadable { file: file.to_owned(), error })?;
    match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if !certificates.is_empty() => Ok(pem),
        Ok(_) | Err(_) => Err(Problem::NoCertificates(file.to_owned())),
    }
}
