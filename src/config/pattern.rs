//! Patterns of tags as operators write them: `docker.io/library/*:{semver}`. They say which tags are meant, and nothing of what
//! holds for them.

use std::fmt;
use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher};

use crate::oci::{Tag, UpstreamName};

/// In place of a tag: every version of three numbers, such as `1.2.3`, `v1.2.3` and `1.2.3-alpine`.
const SEMVER: &str = "{semver}";

/// Which tags are meant: `UPSTREAM/REPOSITORY` and `:TAG`, which may be left out for all tags. `*` stands for any characters other
/// than `/`, `**` for any at all, `?` for one, `{a,b}` for either.
#[derive(Clone)]
pub struct TagPattern {
    text: String,
    name: GlobMatcher,
    tag: TagPart,
}

#[derive(Clone)]
enum TagPart {
    Any,
    Semver,
    Glob(GlobMatcher),
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("means no repository: write UPSTREAM/REPOSITORY or UPSTREAM/REPOSITORY:TAG, as in docker.io/library/*:{SEMVER}")]
    NoRepository,
    #[error("is no pattern: {0}")]
    Glob(String),
}

impl TagPattern {
    /// Whether `tag` of the repository `name`, which begins with its upstream's, is meant.
    pub fn means(&self, name: &str, tag: &Tag) -> bool {
        let is_meant = match &self.tag {
            TagPart::Any => true,
            TagPart::Semver => is_semver(tag.as_str()),
            TagPart::Glob(glob) => glob.is_match(tag.as_str()),
        };
        is_meant && self.name.is_match(name)
    }

    /// The upstream that it names, if it is one by name.
    pub(super) fn upstream(&self) -> Option<UpstreamName> {
        let (upstream, _) = self.text.split_once('/')?;
        let is_name = !upstream.contains(['*', '?', '{', '[']);
        is_name.then(|| upstream.parse().ok()).flatten()
    }

    /// How much it says: the more of it stands for itself, the narrower it is.
    pub(super) fn narrowness(&self) -> usize {
        self.text.chars().filter(|character| !matches!(character, '*' | '?')).count()
    }
}

impl FromStr for TagPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let last_slash = text.rfind('/').ok_or(PatternError::NoRepository)?;
        let (name, tag) = match text[last_slash..].rfind(':') {
            Some(colon) => (&text[..last_slash + colon], Some(&text[last_slash + colon + 1..])),
            None => (text, None),
        };
        if name.starts_with('/') || name.ends_with('/') || tag.is_some_and(str::is_empty) {
            return Err(PatternError::NoRepository);
        }
        let glob = |text: &str| {
            let glob = GlobBuilder::new(text).literal_separator(true).build();
            glob.map(|glob| glob.compile_matcher()).map_err(|error| PatternError::Glob(error.kind().to_string()))
        };
        let tag = match tag {
            None => TagPart::Any,
            Some(SEMVER) => TagPart::Semver,
            Some(tag) => TagPart::Glob(glob(tag)?),
        };
        Ok(Self { text: text.to_owned(), name: glob(name)?, tag })
    }
}

/// Semantic Versioning 2.0.0, with the `v` that many put before it.
fn is_semver(tag: &str) -> bool {
    semver::Version::parse(tag.strip_prefix('v').unwrap_or(tag)).is_ok()
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl PartialEq for TagPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_say() {
        for (pattern, meant, others) in [
            ("docker.io/library/*", vec!["docker.io/library/alpine:3", "docker.io/library/a:b"], vec!["docker.io/x/y:3"]),
            ("docker.io/**", vec!["docker.io/library/alpine:3", "docker.io/a/b/c:d"], vec!["ghcr.io/a/b:c"]),
            ("docker.io/*:edge", vec![], vec!["docker.io/library/alpine:edge"]),
            ("*/corp/**:main", vec!["ghcr.io/corp/a/b:main", "quay.io/corp/x:main"], vec!["ghcr.io/corp/a:mainline"]),
            ("reg:5000/app", vec!["reg:5000/app:1", "reg:5000/app:latest"], vec!["reg:5000/apps:1"]),
            ("reg:5000/app:1.*", vec!["reg:5000/app:1.2"], vec!["reg:5000/app:12"]),
            ("ghcr.io/a/b:{main,edge}", vec!["ghcr.io/a/b:main", "ghcr.io/a/b:edge"], vec!["ghcr.io/a/b:dev"]),
            (
                "docker.io/**:{semver}",
                vec!["docker.io/library/x:1.2.3", "docker.io/a/b:v1.2.3", "docker.io/a/b:1.2.3-alpine3.20"],
                vec!["docker.io/a/b:1.2", "docker.io/a/b:latest", "docker.io/a/b:1.2.3.4", "docker.io/a/b:vv1.2.3"],
            ),
        ] {
            let parsed: TagPattern = pattern.parse().unwrap();
            let means = |image: &str| {
                let (name, tag) = image.rsplit_once(':').unwrap();
                parsed.means(name, &tag.parse().unwrap())
            };
            assert!(meant.iter().all(|image| means(image)), "{pattern}");
            assert!(!others.iter().any(|image| means(image)), "{pattern}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "docker.io", "docker.io/", "/x", "docker.io/x:", "docker.io:5000"] {
            assert_eq!(text.parse::<TagPattern>(), Err(PatternError::NoRepository), "{text}");
        }
        assert!(matches!("docker.io/{a:b".parse::<TagPattern>(), Err(PatternError::Glob(_))));
    }

    #[test]
    fn the_narrower_pattern_says_more() {
        let narrowness = |text: &str| text.parse::<TagPattern>().unwrap().narrowness();
        assert!(narrowness("**/*") < narrowness("docker.io/**"));
        assert!(narrowness("docker.io/**") < narrowness("docker.io/library/*"));
        assert!(narrowness("docker.io/library/*") < narrowness("docker.io/library/*:edge"));
        let upstream = |text: &str| text.parse::<TagPattern>().unwrap().upstream().map(|name| name.to_string());
        assert_eq!((upstream("docker.io/x").as_deref(), upstream("*/x")), (Some("docker.io"), None));
    }
}
