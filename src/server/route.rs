//! The paths of the registry API, read into values. Pure: it knows no upstream and asks nobody.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::mirror::{Address, Page};
use crate::oci::{Digest, DigestError, Reference, ReferenceError};

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/v2/`: whether this is a registry, under this prefix if there is one.
    Version { prefix: Option<String> },
    /// `/v2/_catalog`, which is not part of the specification and would list what others pull.
    Catalog,
    /// Something in a repository.
    In(RawAddress, Endpoint),
}

/// What is asked of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Manifest(Reference),
    Blob(Digest),
    Tags(Page),
    Referrers(Digest, Page),
    /// Anything below `blobs/uploads/`, whatever the method: it belongs to pushing.
    Upload,
}

/// How the request names the repository; see [`Address`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawAddress {
    pub(super) prefix: Option<String>,
    pub(super) name: String,
    pub(super) namespace: Option<String>,
}

/// Why a path is none of the registry API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RouteError {
    #[error("there is nothing here; the registry API is under /v2/")]
    NotTheApi,
    #[error("the path is not valid UTF-8 after percent-decoding")]
    BadEncoding,
    #[error("{0:?} is not a digest: {1}")]
    BadDigest(String, DigestError),
    #[error("{0:?} is not a reference: {1}")]
    BadReference(String, ReferenceError),
    #[error("`n` is not a number, or the query is longer than any that means something")]
    BadPage,
}

impl RawAddress {
    pub(super) fn with_host<'a>(&'a self, host: Option<&'a str>) -> Address<'a> {
        Address { prefix: self.prefix.as_deref(), name: &self.name, namespace: self.namespace.as_deref(), host }
    }
}

/// Reads the path and query of a request target.
pub(super) fn parse(path: &str, query: Option<&str>) -> Result<Route, RouteError> {
    let path = match path.as_bytes().contains(&b'%') {
        true => percent_decode_str(path).decode_utf8().map_err(|_| RouteError::BadEncoding)?,
        false => Cow::Borrowed(path),
    };
    let path = path.strip_prefix('/').unwrap_or(&path);
    let (first, rest) = first_segment(path);
    let (prefix, rest) = match (first, rest.map(first_segment)) {
        ("v2", _) => (None, rest),
        (prefix, Some(("v2", rest))) if !prefix.is_empty() => (Some(prefix.to_owned()), rest),
        _ => return Err(RouteError::NotTheApi),
    };
    let rest = match rest.unwrap_or_default() {
        "" => return Ok(Route::Version { prefix }),
        "_catalog" => return Ok(Route::Catalog),
        rest => rest,
    };
    // A name has slashes, so that a path is read from its end.
    let (rest, last) = rest.rsplit_once('/').ok_or(RouteError::NotTheApi)?;
    let (name, noun) = rest.rsplit_once('/').ok_or(RouteError::NotTheApi)?;
    let page = || Page::parse(query.unwrap_or_default()).ok_or(RouteError::BadPage);
    let (name, endpoint) = match (noun, last) {
        ("manifests", reference) => {
            let parsed = reference.parse().map_err(|error| RouteError::BadReference(reference.to_owned(), error));
            (name, Endpoint::Manifest(parsed?))
        }
        ("blobs", "uploads") => (name, Endpoint::Upload),
        ("blobs", digest) => (name, Endpoint::Blob(parse_digest(digest)?)),
        ("tags", "list") => (name, Endpoint::Tags(page()?)),
        ("referrers", digest) => (name, Endpoint::Referrers(parse_digest(digest)?, page()?)),
        ("uploads", _) => match name.rsplit_once('/') {
            Some((name, "blobs")) => (name, Endpoint::Upload),
            _ => return Err(RouteError::NotTheApi),
        },
        _ => return Err(RouteError::NotTheApi),
    };
    Ok(Route::In(RawAddress { prefix, name: name.to_owned(), namespace: namespace(query) }, endpoint))
}

/// What comes before the first slash, and what comes after it if there is one.
fn first_segment(path: &str) -> (&str, Option<&str>) {
    path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)))
}

fn parse_digest(text: &str) -> Result<Digest, RouteError> {
    text.parse().map_err(|error| RouteError::BadDigest(text.to_owned(), error))
}

/// The `ns` of a query. An empty one says nothing.
fn namespace(query: Option<&str>) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(query?.as_bytes());
    pairs.find_map(|(name, value)| (name == "ns" && !value.is_empty()).then(|| value.into_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn at(prefix: Option<&str>, name: &str, namespace: Option<&str>) -> RawAddress {
        RawAddress { prefix: prefix.map(str::to_owned), name: name.to_owned(), namespace: namespace.map(str::to_owned) }
    }

    fn parse_target(target: &str) -> Result<Route, RouteError> {
        match target.split_once('?') {
            Some((path, query)) => parse(path, Some(query)),
            None => parse(target, None),
        }
    }

    #[test]
    fn the_api_is_read() {
        let manifest = |reference: &str| Endpoint::Manifest(reference.parse().unwrap());
        let blob = || Endpoint::Blob(DIGEST.parse().unwrap());
        for (target, route) in [
            ("/v2/".to_owned(), Route::Version { prefix: None }),
            ("/v2".to_owned(), Route::Version { prefix: None }),
            ("/docker.io/v2/".to_owned(), Route::Version { prefix: Some("docker.io".to_owned()) }),
            ("/v2/?ns=docker.io".to_owned(), Route::Version { prefix: None }),
            ("/v2/_catalog?n=9".to_owned(), Route::Catalog),
            ("/v2/alpine/manifests/3.20".to_owned(), Route::In(at(None, "alpine", None), manifest("3.20"))),
            (
                format!("/v2/a/b/c/manifests/{DIGEST}?ns=reg%3A5000"),
                Route::In(at(None, "a/b/c", Some("reg:5000")), manifest(DIGEST)),
            ),
            (format!("/v2/a/blobs/{}", DIGEST.replace(':', "%3A")), Route::In(at(None, "a", None), blob())),
            (format!("/ghcr.io/v2/a/blobs/{DIGEST}"), Route::In(at(Some("ghcr.io"), "a", None), blob())),
            ("/v2/v2/manifests/v2".to_owned(), Route::In(at(None, "v2", None), manifest("v2"))),
            ("/v2/manifests/manifests/manifests".to_owned(), Route::In(at(None, "manifests", None), manifest("manifests"))),
            ("/v2/a/blobs/uploads/".to_owned(), Route::In(at(None, "a", None), Endpoint::Upload)),
            ("/v2/a/blobs/uploads/uuid?digest=x".to_owned(), Route::In(at(None, "a", None), Endpoint::Upload)),
            ("/v2/a/tags/list".to_owned(), Route::In(at(None, "a", None), Endpoint::Tags(Page::default()))),
            (
                "/v2/a/tags/list?n=99999999999999999999999&last=b&ns=".to_owned(),
                Route::In(at(None, "a", None), Endpoint::Tags(Page { size: Some(usize::MAX), rest: "last=b".to_owned() })),
            ),
            (
                format!("/v2/a/referrers/{DIGEST}?artifactType=a%2Fb"),
                Route::In(
                    at(None, "a", None),
                    Endpoint::Referrers(DIGEST.parse().unwrap(), Page { size: None, rest: "artifactType=a%2Fb".to_owned() }),
                ),
            ),
        ] {
            assert_eq!(parse_target(&target), Ok(route), "{target}");
        }
    }

    #[test]
    fn what_is_not_the_api_is_refused() {
        for target in
            ["", "/", "/v1/_ping", "/v2/alpine", "/v2/manifests/latest", "/v2/blobs/uploads/", "/a/b/v2/x/manifests/y", "//v2/"]
        {
            assert_eq!(parse_target(target), Err(RouteError::NotTheApi), "{target}");
        }
        assert_eq!(parse_target("/v2/%ff/manifests/x"), Err(RouteError::BadEncoding));
        for target in ["/v2/a/blobs/sha256:bad", "/v2/a/blobs/sha256:..%2f..%2fx", "/v2/a/blobs/latest", "/v2/a/referrers/x"] {
            assert!(parse_target(target).is_err(), "{target}");
        }
        for target in ["/v2/a/manifests/sha256:bad", "/v2/a/manifests/%00", "/v2/a/manifests/.x"] {
            assert!(matches!(parse_target(target), Err(RouteError::BadReference(..))), "{target}");
        }
        for target in [
            "/v2/a/tags/list?n=-1",
            "/v2/a/tags/list?n=x",
            "/v2/a/referrers/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855?n=x",
        ] {
            assert_eq!(parse_target(target), Err(RouteError::BadPage), "{target}");
        }
    }

    proptest! {
        #[test]
        fn no_target_makes_the_parser_panic(target in "\\PC{0,80}") {
            let _ = parse_target(&target);
            let _ = parse_target(&format!("/v2/{target}/manifests/{target}"));
        }

        #[test]
        fn escapes_never_panic(bytes: Vec<u8>) {
            let escaped: String = bytes.iter().map(|byte| format!("%{byte:02x}")).collect();
            let _ = parse_target(&format!("/v2/{escaped}/blobs/{escaped}?n={escaped}"));
        }
    }
}
