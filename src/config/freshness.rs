//! How long what upstreams said of tags is taken as true, and what is served of it afterwards: in general, and for the tags that a
//! pattern means. Whether a tag is fresh is not decided here.

use std::time::Duration;

use super::pattern::TagPattern;
use super::settings::SectionReader;
use super::value;
use crate::oci::{RepositoryName, Tag, UpstreamName};

/// How long answers are reused without asking (RFC 9111, section 4.2), and what may be served when nobody can be asked (RFC 5861).
#[derive(Clone, Debug, PartialEq)]
pub struct FreshnessConfig {
    /// For tags that no rule means, and for listings.
    pub general: TagPolicy,
    /// In the order in which they are laid over each other.
    pub rules: Vec<TagRule>,
    /// Zero: absence is not remembered. At most a minute.
    pub missing: Duration,
}

/// What holds for a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagPolicy {
    /// Zero: the upstream is asked for every pull.
    pub fresh_for: Lifetime,
    /// How long after that it is served at once, and its upstream asked meanwhile.
    pub stale_while_revalidate: Duration,
    /// How long after it was last checked it is served when its upstream cannot be asked.
    pub stale_for: Lifetime,
    /// With these it is not served stale.
    pub refuse_stale: Failures,
    /// Whether it is served when its upstream says that it has it no more.
    pub keep_missing: bool,
}

/// What differs for the tags that a pattern means.
#[derive(Clone, Debug, PartialEq)]
pub struct TagRule {
    pub pattern: TagPattern,
    pub fresh_for: Option<Lifetime>,
    pub stale_while_revalidate: Option<Duration>,
    pub stale_for: Option<Lifetime>,
    pub refuse_stale: Option<Failures>,
    pub keep_missing: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    For(Duration),
    Forever,
}

/// The ways in which an upstream fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Failure {
    /// No name, no route, no connection, no TLS.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// A status of 500 and above, or an answer that is none.
    ServerError,
    /// A status of 429, or a limit that is nearly used up.
    RateLimited,
    /// A status of 401 or 403, of our own credential.
    Denied,
}

/// A set of ways to fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures(u8);

impl FreshnessConfig {
    /// What holds for `tag`.
    pub fn policy(&self, upstream: &UpstreamName, repository: &RepositoryName, tag: &Tag) -> TagPolicy {
        let mut policy = self.general;
        if self.rules.is_empty() {
            return policy;
        }
        let name = format!("{upstream}/{repository}");
        for rule in self.rules.iter().filter(|rule| rule.pattern.means(&name, tag)) {
            policy.fresh_for = rule.fresh_for.unwrap_or(policy.fresh_for);
            policy.stale_while_revalidate = rule.stale_while_revalidate.unwrap_or(policy.stale_while_revalidate);
            policy.stale_for = rule.stale_for.unwrap_or(policy.stale_for);
            policy.refuse_stale = rule.refuse_stale.unwrap_or(policy.refuse_stale);
            policy.keep_missing = rule.keep_missing.unwrap_or(policy.keep_missing);
        }
        policy
    }
}

impl Lifetime {
    /// Whether something of this `age` is within it.
    pub fn covers(self, age: Duration) -> bool {
        match self {
            Self::For(lifetime) => age < lifetime,
            Self::Forever => true,
        }
    }
}

impl Failures {
    pub fn contains(self, failure: Failure) -> bool {
        self.0 & (1 << failure as u8) != 0
    }
}

impl FromIterator<Failure> for Failures {
    fn from_iter<I: IntoIterator<Item = Failure>>(failures: I) -> Self {
        Self(failures.into_iter().fold(0, |set, failure| set | 1 << failure as u8))
    }
}

/// What holds in general, out of `[freshness]`.
pub(super) fn general(section: &mut SectionReader<'_>) -> TagPolicy {
    TagPolicy {
        fresh_for: section.value("tags", value::lifetime),
        stale_while_revalidate: section.value("stale_while_revalidate", value::duration),
        stale_for: section.value("stale_for", value::lifetime),
        refuse_stale: failures(section).unwrap_or_default(),
        keep_missing: section.value("keep_missing", value::flag),
    }
}

/// A rule out of `[tags."PATTERN"]`.
pub(super) fn rule(pattern: TagPattern, section: &mut SectionReader<'_>) -> TagRule {
    TagRule {
        pattern,
        fresh_for: section.given("fresh_for", value::lifetime).map(|given| given.value),
        stale_while_revalidate: section.given("stale_while_revalidate", value::duration).map(|given| given.value),
        stale_for: section.given("stale_for", value::lifetime).map(|given| given.value),
        refuse_stale: failures(section),
        keep_missing: section.given("keep_missing", value::flag).map(|given| given.value),
    }
}

fn failures(section: &mut SectionReader<'_>) -> Option<Failures> {
    Some(section.list("refuse_stale", value::failure)?.into_iter().map(|failure| failure.value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_laid_over_each_other() {
        let general = TagPolicy {
            fresh_for: Lifetime::For(Duration::from_secs(60)),
            stale_while_revalidate: Duration::ZERO,
            stale_for: Lifetime::Forever,
            refuse_stale: Failures::default(),
            keep_missing: false,
        };
        let rule = |pattern: &str| TagRule {
            pattern: pattern.parse().unwrap(),
            fresh_for: None,
            stale_while_revalidate: None,
            stale_for: None,
            refuse_stale: None,
            keep_missing: None,
        };
        let rules = vec![
            TagRule { keep_missing: Some(true), fresh_for: Some(Lifetime::Forever), ..rule("docker.io/**") },
            TagRule { fresh_for: Some(Lifetime::For(Duration::ZERO)), ..rule("docker.io/library/*:edge") },
        ];
        let config = FreshnessConfig { general, rules, missing: Duration::ZERO };
        let policy = |repository: &str, tag: &str| {
            config.policy(&"docker.io".parse().unwrap(), &repository.parse().unwrap(), &tag.parse().unwrap())
        };
        let edge = policy("library/alpine", "edge");
        assert_eq!((edge.keep_missing, edge.fresh_for), (true, Lifetime::For(Duration::ZERO)));
        assert_eq!(policy("library/alpine", "3").fresh_for, Lifetime::Forever);
        let other = config.policy(&"quay.io".parse().unwrap(), &"a/b".parse().unwrap(), &"edge".parse().unwrap());
        assert_eq!(other, general);
    }

    #[test]
    fn sets_of_failures_hold_what_was_put_in() {
        let set: Failures = [Failure::Denied, Failure::Timeout].into_iter().collect();
        let all = [Failure::Unreachable, Failure::Timeout, Failure::ServerError, Failure::RateLimited, Failure::Denied];
        assert_eq!(all.map(|failure| set.contains(failure)), [false, true, false, false, true]);
        assert!(all.iter().all(|failure| !Failures::default().contains(*failure)));
    }
}
