//! How people name what is cached: the names that `larder ls` prints, and the first parts of them. Nothing in here knows whether
//! there is anything of that name.

use std::fmt;
use std::str::FromStr;

use crate::oci::{Digest, DigestError, Reference, ReferenceError, RepositoryName, UpstreamName};

/// A name for something cached, or for much of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// All from there, e.g. `docker.io`.
    Upstream(UpstreamName),
    /// All of the repository, and of those whose names continue it, e.g. `docker.io/library` or `docker.io/library/alpine`.
    Repository { upstream: UpstreamName, repository: RepositoryName },
    /// E.g. `docker.io/library/alpine:3.20`.
    Image { upstream: UpstreamName, repository: RepositoryName, reference: Reference },
    /// One content, wherever it is from, e.g. `sha256:…`.
    Content(Digest),
}

/// A promise that what it names is not evicted, now or when it comes: an image, or a repository with those whose names continue it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pin {
    pub upstream: UpstreamName,
    pub repository: RepositoryName,
    /// `None` for the whole repository.
    pub reference: Option<Reference>,
}

/// Why a text names nothing that could be cached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("{text:?} is no name of something cached: {reason}")]
    Malformed { text: String, reason: String },
    #[error("{0} cannot be pinned: an image can be (docker.io/library/alpine:3.20), or a repository (docker.io/library/alpine)")]
    NotForPins(Name),
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        parse(text.trim_end_matches('/')).map_err(|reason| NameError::Malformed { text: text.to_owned(), reason })
    }
}

fn parse(text: &str) -> Result<Name, String> {
    // An upstream's port has five digits at the most, so that no digest is one.
    if let Ok(digest) = text.parse() {
        return Ok(Name::Content(digest));
    }
    let (upstream, path) = match text.split_once('/') {
        Some((upstream, path)) => (upstream, Some(path)),
        None => (text, None),
    };
    let upstream = upstream.parse::<UpstreamName>().map_err(|error| error.to_string())?;
    let Some(path) = path else { return Ok(Name::Upstream(upstream)) };
    let (repository, reference) = match (path.split_once('@'), path.split_once(':')) {
        (Some((repository, digest)), _) => {
            (repository, Some(Reference::Digest(digest.parse().map_err(|error: DigestError| error.to_string())?)))
        }
        (None, Some((repository, tag))) => {
            (repository, Some(Reference::Tag(tag.parse().map_err(|error: ReferenceError| error.to_string())?)))
        }
        (None, None) => (path, None),
    };
    let repository = repository.parse::<RepositoryName>().map_err(|error| error.to_string())?;
    Ok(match reference {
        Some(reference) => Name::Image { upstream, repository, reference },
        None => Name::Repository { upstream, repository },
    })
}

impl TryFrom<Name> for Pin {
    type Error = NameError;

    fn try_from(name: Name) -> Result<Self, NameError> {
        match name {
            Name::Repository { upstream, repository } => Ok(Self { upstream, repository, reference: None }),
            Name::Image { upstream, repository, reference } => Ok(Self { upstream, repository, reference: Some(reference) }),
            name @ (Name::Upstream(_) | Name::Content(_)) => Err(NameError::NotForPins(name)),
        }
    }
}

impl From<Pin> for Name {
    fn from(Pin { upstream, repository, reference }: Pin) -> Self {
        match reference {
            Some(reference) => Self::Image { upstream, repository, reference },
            None => Self::Repository { upstream, repository },
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream(upstream) => upstream.fmt(f),
            Self::Repository { upstream, repository } => write!(f, "{upstream}/{repository}"),
            Self::Image { upstream, repository, reference: Reference::Tag(tag) } => write!(f, "{upstream}/{repository}:{tag}"),
            Self::Image { upstream, repository, reference: Reference::Digest(digest) } => {
                write!(f, "{upstream}/{repository}@{digest}")
            }
            Self::Content(digest) => digest.fmt(f),
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Name::from(self.clone()).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_printed() {
        let digest = Digest::sha256(b"x");
        for text in [
            "docker.io",
            "localhost:5000",
            "docker.io/library",
            "localhost:5000/a/b",
            "docker.io/library/alpine:3.20",
            &format!("localhost:5000/a@{digest}"),
            &digest.to_string(),
        ] {
            let name: Name = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
            let is_for_pins = matches!(name, Name::Repository { .. } | Name::Image { .. });
            assert_eq!(Pin::try_from(name.clone()).map(Name::from).ok(), is_for_pins.then_some(name));
        }
        assert_eq!("docker.io/library/".parse::<Name>().unwrap().to_string(), "docker.io/library");
        assert!(matches!("docker.io".parse(), Ok(Name::Upstream(_))));
        assert!(matches!("docker.io/a:b".parse(), Ok(Name::Image { reference: Reference::Tag(_), .. })));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "/", "docker.io//x", "docker.io/A", "docker.io/a:", "docker.io/a@latest", "docker.io/a@sha256:12", "a b"]
        {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
    }
}
