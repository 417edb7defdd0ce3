//! What can be wrong with a configuration, and where. A message never holds a password, nor a URL, which might hold one.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::pattern::PatternError;
use super::suggest::Hint;
use super::value::ValueError;

/// A configuration that is refused: everything that was found wrong, in the order of the file and then of the variables.
/// Displayed as one finding a line (a syntax error shows the line it stands in below it).
#[derive(Debug)]
pub struct ConfigError {
    findings: Vec<Finding>,
}

/// One thing that is wrong.
#[derive(Debug)]
pub struct Finding {
    pub place: Place,
    pub problem: Problem,
}

/// Where something was said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the configuration file as a whole.
    File(Arc<Path>),
    /// At a character of the configuration file. Both numbers count from 1.
    Character { file: Arc<Path>, line: usize, column: usize },
    /// In the environment variable of this name.
    Variable(Arc<str>),
}

/// What is wrong. `key` is a key's full path, as in `upstreams."ghcr.io".url`.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("{message}{}", .excerpt.as_deref().map(|excerpt| format!("\n{excerpt}")).unwrap_or_default())]
    Syntax { message: String, excerpt: Option<String> },

    #[error("unknown key `{}` {table}; {hint}", .key.escape_debug())]
    UnknownKey { key: String, table: String, hint: Hint },
    #[error("unknown table [{}]; {hint}", .name.escape_debug())]
    UnknownTable { name: String, hint: Hint },
    #[error("a name with dots needs quotes: write [upstreams.\"{}\"]", .0.escape_debug())]
    UnquotedName(String),
    #[error("`{key}` is {expected}, not {found}")]
    WrongType { key: String, expected: &'static str, found: &'static str },
    #[error("`{key}`: {error}")]
    BadValue { key: String, error: ValueError },

    #[error("is no setting of Larder; {0}")]
    UnknownVariable(Hint),
    #[error("no upstream is written `{name}` here; {hint} (others are declared in the file, as [upstreams.\"NAME\"])")]
    UnknownUpstream { name: String, hint: Hint },
    #[error("may mean {} alike; set it in the file", .0.join(" and "))]
    AmbiguousUpstream(Vec<String>),

    #[error("health and metrics cannot share {0} with the clients: give `listen` and `admin.listen` addresses of their own")]
    SameAddress(SocketAddr),
    #[error("`tls.{given}` needs `tls.{missing}` beside it")]
    LonelyTls { given: &'static str, missing: &'static str },
    #[error("cannot read {}: {error}", .file.display())]
    FileUnreadable { file: PathBuf, error: io::Error },
    #[error("{} does not hold certificates in PEM", .0.display())]
    NoCertificates(PathBuf),
    #[error("the password in {}: {error}", .file.display())]
    BadPasswordFile { file: PathBuf, error: ValueError },

    #[error("this is no name of an upstream: a name is that of a host, optionally with a port")]
    BadUpstreamName,
    #[error("upstream `{0}` is there twice (upper and lower case do not differ)")]
    UpstreamTwice(String),
    #[error("`{0}` cannot be made into a URL: give this upstream a `url`")]
    NoUrl(String),
    #[error("`{claimed}` means upstream `{owner}` already")]
    ClaimedTwice { claimed: String, owner: String },
    #[error("`{claimed}` means upstream `{owner}` already, which is built in: set its `aliases`, or `enabled = false` there")]
    ClaimedByBuiltIn { claimed: String, owner: String },
    #[error("upstream `{0}` is the default already; only one can be")]
    SecondDefault(String),
    #[error("then no upstream is the default, for names without a registry: write `default = true` in another one")]
    NoDefault,

    #[error("this {0}")]
    BadPattern(PatternError),
    #[error("no upstream is called `{name}`, so that this means no tag; {hint}")]
    PatternOfNone { name: String, hint: Hint },

    #[error("give either `password` or `password_file`, not both")]
    TwoPasswords,
    #[error("`username` needs a `password` or a `password_file` beside it")]
    LonelyUsername,
    #[error("`{0}` needs a `username` beside it")]
    LonelyPassword(&'static str),
    #[error(
        "everyone who can reach Larder can then read what this credential can read; clients do not authenticate to Larder. \
         Write `open_to_all = true` beside it if that is meant"
    )]
    NotOpenToAll,
    #[error("`{0}` is plain http, so that the password would travel in the clear: write https")]
    CredentialInTheClear(String),
}

// === impl ConfigError ===

impl ConfigError {
    /// `None` if nothing was found.
    pub(super) fn of(mut findings: Vec<Finding>) -> Option<Self> {
        findings.sort_by(|left, right| left.place.cmp(&right.place));
        (!findings.is_empty()).then_some(Self { findings })
    }

    /// At least one.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.findings.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}: {}", finding.place, finding.problem)?;
        }
        Ok(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Character { file, line, column } => write!(f, "{}:{line}:{column}", file.display()),
            Self::Variable(name) => f.write_str(name),
        }
    }
}
