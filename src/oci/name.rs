//! Names of repositories and of the upstreams that hold them. Both are safe as path components and in URLs:
//! the grammar of the distribution specification leaves no room for `..`, an empty component or an escape.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest repository name, in bytes: the specification's advice for interoperability (spec.md, "Pulling manifests").
const REPOSITORY_MAX_BYTES: usize = 255;

/// A repository within an upstream, e.g. `library/alpine`. Cheap to clone.
///
/// Grammar: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*` (distribution-spec 1.1.1).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(Arc<str>);

/// The name under which clients know an upstream, e.g. `docker.io` or `localhost:5000`: a host name or a plain word, with an
/// optional port, in lower case. It is a key to look up, never an address to dial. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamName(Arc<str>);

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the name is longer than {0} bytes")]
    TooLong(usize),
    #[error("a repository name is made of components of lower-case letters and digits, separated by '.', '_', '__', '-' or '/'")]
    BadRepository,
    #[error("an upstream is named by a host, optionally with a port")]
    BadUpstream,
}

// === impl RepositoryName ===

impl RepositoryName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > REPOSITORY_MAX_BYTES {
            return Err(NameError::TooLong(REPOSITORY_MAX_BYTES));
        }
        if !text.split('/').all(is_component) {
            return Err(NameError::BadRepository);
        }
        Ok(Self(text.into()))
    }
}

/// Whether `text` is `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(text: &str) -> bool {
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    is_alphanumeric(first)
        && is_alphanumeric(last)
        && bytes
            .split(is_alphanumeric)
            .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-'))
}

// === impl UpstreamName ===

/// For look-ups by a text that nobody has checked: what is found under it is a name.
impl Borrow<str> for UpstreamName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl UpstreamName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UpstreamName {
    type Err = NameError;

    /// Host names do not tell upper from lower case, so the text is taken as lower case.
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > 255 {
            return Err(NameError::TooLong(255));
        }
        let text = text.to_ascii_lowercase();
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text.as_str(), None),
        };
        let label = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
                && !label.starts_with(['-', '_'])
        };
        let well_formed = host.split('.').all(label)
            && port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok());
        if well_formed { Ok(Self(text.into())) } else { Err(NameError::BadUpstream) }
    }
}

macro_rules! text_like {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &self.0)
            }
        }
    };
}

text_like!(RepositoryName);
text_like!(UpstreamName);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_the_specification_are_accepted() {
        for text in ["alpine", "library/alpine", "a/b/c/d", "my-org/my__app/x.y", "a---b", "0", "v2/v2"] {
            assert_eq!(text.parse::<RepositoryName>().map(|name| name.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn names_outside_the_grammar_are_refused() {
        for text in [
            "", "/", "a/", "/a", "a//b", "Alpine", "a/../b", "..", ".", "a..b", "a___b", "-a", "a-", "_a", "a b", "a\0", "é",
            "a.-b", "a/_tags", "%2e%2e",
        ] {
            assert!(text.parse::<RepositoryName>().is_err(), "{text:?} was taken for a repository");
        }
        assert_eq!("a".repeat(256).parse::<RepositoryName>(), Err(NameError::TooLong(255)));
    }

    #[test]
    fn upstreams_are_hosts_and_their_case_does_not_matter() {
        for (text, name) in
            [("docker.io", "docker.io"), ("GHCR.io", "ghcr.io"), ("localhost:5000", "localhost:5000"), ("hub", "hub")]
        {
            assert_eq!(text.parse::<UpstreamName>().map(|name| name.to_string()), Ok(name.to_owned()));
        }
        for text in
            ["", ".", "..", "a..b", "a/b", "host:", "host:99999", "host:1:2", "[::1]:5000", "-x", "_x", "a b", "user@host"]
        {
            assert!(text.parse::<UpstreamName>().is_err(), "{text:?} was taken for an upstream");
        }
    }

    proptest! {
        #[test]
        fn generated_names_are_accepted(text in "[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,5}){0,3}(/[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}){0,3}") {
            prop_assert!(text.parse::<RepositoryName>().is_ok());
        }

        #[test]
        fn whatever_is_accepted_is_safe_as_a_path(text in "[a-z./_\\-%0A\\\\]{0,24}") {
            if let Ok(name) = text.parse::<RepositoryName>() {
                prop_assert!(name.components().all(|part| !part.is_empty() && !part.starts_with(['.', '_', '-'])));
                prop_assert!(!text.contains("..") && !text.contains('\\') && !text.contains('%'));
            }
        }
    }
}
