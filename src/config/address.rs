//! Addresses of others: URLs of registries and token servers, origins and hosts. Nothing is resolved, and no error repeats the
//! text of a URL, since people put passwords there.

use http::uri::Authority;
use url::{Host, Origin, Url};

use super::value::ValueError;

/// Why a text is not the address that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("is no URL: write it with its scheme, as in https://registry.example.org")]
    Malformed,
    #[error("is neither an https:// nor an http:// URL")]
    Scheme,
    #[error("holds a user name or a password: they belong into `username` and `password`")]
    Userinfo,
    #[error("holds a query, a part that begins with `?`")]
    Query,
    #[error("holds a fragment, a part that begins with `#`")]
    Fragment,
    #[error("ends in /v2, which Larder adds by itself")]
    ApiPath,
    #[error("is more than an origin: write scheme://host or scheme://host:port")]
    Path,
    #[error("is no host: write a name or an address, optionally with a port, as in ghcr.larder.example.org")]
    Host,
}

/// The URL of a registry. A path stands before its `/v2/` and is kept without a slash at its end (`/` if there is none).
pub(super) fn registry(text: &str) -> Result<Url, ValueError> {
    let mut url = http_url(text)?;
    no_query(&url)?;
    let path = url.path().trim_end_matches('/').to_owned();
    if path == "/v2" || path.ends_with("/v2") {
        return Err(ValueError::Address(AddressError::ApiPath));
    }
    url.set_path(&path);
    Ok(url)
}

/// The URL of a token server. Its query is kept: what a token request asks is added to it.
pub(super) fn realm(text: &str) -> Result<Url, ValueError> {
    http_url(text)
}

pub(super) fn origin(text: &str) -> Result<Origin, ValueError> {
    let url = http_url(text)?;
    no_query(&url)?;
    if url.path() == "/" { Ok(url.origin()) } else { Err(ValueError::Address(AddressError::Path)) }
}

/// A value of the `Host` header (RFC 9110, section 7.2), in lower case.
pub(super) fn host(text: &str) -> Result<String, ValueError> {
    let authority: Authority = text.parse().map_err(|_| ValueError::Address(AddressError::Host))?;
    let has_port = authority.as_str() != authority.host();
    if authority.host().is_empty() || text.contains('@') || (has_port && authority.port_u16().is_none()) {
        return Err(ValueError::Address(AddressError::Host));
    }
    Ok(text.to_ascii_lowercase())
}

/// Whether what is sent there stays on this machine (RFC 6761, section 6.3, for `localhost`).
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}

fn http_url(text: &str) -> Result<Url, ValueError> {
    let url = Url::parse(text).map_err(|_| ValueError::Address(AddressError::Malformed))?;
    let error = if !matches!(url.scheme(), "https" | "http") {
        AddressError::Scheme
    } else if !url.username().is_empty() || url.password().is_some() {
        AddressError::Userinfo
    } else if url.fragment().is_some() {
        AddressError::Fragment
    } else {
        return Ok(url);
    };
    Err(ValueError::Address(error))
}

fn no_query(url: &Url) -> Result<(), ValueError> {
    if url.query().is_some() { Err(ValueError::Address(AddressError::Query)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("the test gives a URL")
    }

    #[test]
    fn a_registry_may_have_a_path_before_its_api() {
        for (text, expected) in [
            ("https://registry.example.org", "https://registry.example.org/"),
            ("https://registry.example.org/", "https://registry.example.org/"),
            ("http://10.0.0.1:5000/mirror/", "http://10.0.0.1:5000/mirror"),
            ("https://h/a/b", "https://h/a/b"),
        ] {
            assert_eq!(registry(text), Ok(url(expected)), "{text}");
        }
    }

    #[test]
    fn what_is_more_or_less_than_a_registry_is_refused() {
        use AddressError::{ApiPath, Fragment, Malformed, Query, Scheme, Userinfo};
        for (text, error) in [
            ("", Malformed),
            ("registry.example.org", Malformed),
            ("https://", Malformed),
            ("registry.example.org:5000", Scheme),
            ("ftp://registry.example.org", Scheme),
            ("https://user@registry.example.org", Userinfo),
            ("https://:canary@registry.example.org", Userinfo),
            ("https://registry.example.org?x=y", Query),
            ("https://registry.example.org#x", Fragment),
            ("https://registry.example.org/v2/", ApiPath),
            ("https://registry.example.org/x/v2", ApiPath),
        ] {
            assert_eq!(registry(text), Err(ValueError::Address(error)), "{text}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port_only() {
        assert_eq!(
            origin("http://minio.lan:9000").map(|origin| origin.ascii_serialization()),
            Ok("http://minio.lan:9000".into())
        );
        assert_eq!(origin("https://CDN.lan:443/"), Ok(url("https://cdn.lan").origin()));
        assert_eq!(origin("https://cdn.lan/path"), Err(ValueError::Address(AddressError::Path)));
        assert_eq!(origin("https://cdn.lan?x"), Err(ValueError::Address(AddressError::Query)));
    }

    #[test]
    fn hosts_may_have_a_port() {
        for text in ["ghcr.larder.lan", "ghcr.larder.lan:5050", "10.0.0.1", "[::1]", "[::1]:5050"] {
            assert_eq!(host(text), Ok(text.to_owned()));
        }
        assert_eq!(host("GHCR.larder.lan"), Ok("ghcr.larder.lan".to_owned()));
        for text in ["", "http://x", "x/y", "user@x", "x y", ":5050", "x:", "x:99999", "x:y"] {
            assert_eq!(host(text), Err(ValueError::Address(AddressError::Host)), "{text:?}");
        }
    }

    #[test]
    fn loopback_is_told_from_what_looks_like_it() {
        for text in
            ["http://localhost:5000", "http://hub.localhost", "http://127.0.0.2", "http://[::1]:80", "http://[::ffff:127.0.0.1]"]
        {
            assert!(is_loopback(&url(text)), "{text}");
        }
        for text in
            ["http://localhost.example.org", "http://10.0.0.1", "http://notlocalhost", "http://[fe80::1]", "http://0.0.0.0"]
        {
            assert!(!is_loopback(&url(text)), "{text}");
        }
    }
}
