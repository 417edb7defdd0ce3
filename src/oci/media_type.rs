//! Media types of manifests, and the list of all of them that an upstream is always asked with.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// What upstreams are asked to answer with for a manifest: every kind that a registry may hold, newest first, then anything.
/// The list is always the same, so that one client's narrow `Accept` never decides what others get from the cache, and
/// so that registries which answer 404 to an `Accept` that misses the stored type have no cause to.
pub const MANIFEST_ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.oci.artifact.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v1+prettyjws, \
    application/vnd.docker.distribution.manifest.v1+json, \
    application/json, */*";

/// A media type `type/subtype` without parameters (RFC 6838 section 4.2). Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MediaType(Arc<str>);

/// The text is not a media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a media type of the form type/subtype")]
pub struct MediaTypeError;

impl MediaType {
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MediaType {
    type Err = MediaTypeError;

    /// Parameters (`; charset=utf-8`) are dropped: they are no part of what a manifest is, and clients compare the bare type.
    fn from_str(text: &str) -> Result<Self, MediaTypeError> {
        let bare = text.split(';').next().unwrap_or_default().trim();
        let restricted_name = |name: &str| {
            name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
                && name.len() <= 127
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
        };
        match bare.split_once('/') {
            Some((kind, subtype)) if restricted_name(kind) && restricted_name(subtype) => Ok(Self(bare.into())),
            _ => Err(MediaTypeError),
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_dropped_and_nonsense_is_refused() {
        let parsed: MediaType = "application/vnd.oci.image.index.v1+json; charset=utf-8".parse().unwrap();
        assert_eq!(parsed.as_str(), MediaType::OCI_INDEX);
        for text in ["", "text", "/", "a/", "/b", "a/b/c", "a b/c", "a/b\r\nx: y", ";"] {
            assert!(text.parse::<MediaType>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_accept_list_is_made_of_media_types() {
        for part in MANIFEST_ACCEPT.split(", ").filter(|part| *part != "*/*") {
            assert_eq!(part.parse::<MediaType>().map(|parsed| parsed.to_string()), Ok(part.to_owned()));
        }
    }
}
