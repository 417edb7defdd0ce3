//! What the operator decides: one TOML file, overlaid by `LARDER_…` environment variables, checked as a whole before anything
//! starts. It reads small files (the configuration, passwords, certificates) and never opens a socket or touches the cache.

mod address;
mod built_in;
mod cache_dir;
mod credential;
mod duration;
mod environment;
mod error;
mod file;
mod freshness;
mod keys;
mod pattern;
mod reserve;
mod settings;
mod size;
mod suggest;
mod upstream;
mod upstreams;
mod value;

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use address::AddressError;
pub use duration::DurationError;
pub use error::{ConfigError, Finding, Place, Problem};
pub use freshness::{Failure, Failures, FreshnessConfig, Lifetime, TagPolicy, TagRule};
pub use keys::{Fallback, KEYS, Key, Kind, Table};
pub use pattern::{PatternError, TagPattern};
pub use reserve::{Reserve, ReserveError};
pub use size::{MaxSize, SizeError};
pub use suggest::Hint;
pub use upstream::{Credential, UpstreamConfig};
pub use value::ValueError;

use settings::{Section, SectionReader, Settings};

/// Everything that can be configured, checked. What each key does for an operator is said in [`KEYS`].
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where clients are served.
    pub listen: SocketAddr,
    /// Whether no upstream is asked for anything.
    pub offline: bool,
    pub admin: AdminConfig,
    pub cache: CacheConfig,
    pub freshness: FreshnessConfig,
    /// Clients are served over TLS if this is there, and in plain HTTP otherwise.
    pub tls: Option<TlsConfig>,
    pub log: LogConfig,
    pub limits: LimitsConfig,
    pub timeouts: TimeoutsConfig,
    /// Every upstream there is, ordered by name. Exactly one is the default; no name, alias or host belongs to two of them.
    pub upstreams: Vec<UpstreamConfig>,
}

/// The listener of health and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    pub listen: SocketAddr,
}

/// The disk cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    pub dir: PathBuf,
    pub max_size: MaxSize,
    /// What is left of the file system to others.
    pub min_free: MaxSize,
    /// Bytes that may be missing of a blob which nobody reads, for it to be fetched all the same.
    pub finish_unread: u64,
    /// Zero: what is cached is never read again for its own sake.
    pub verify_within: Duration,
    /// Whether the content of a manifest is fetched when the manifest is.
    pub prefetch: bool,
}

/// The files of the server's certificate. Both could be opened when the configuration was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM, the server's own certificate first.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    pub level: tracing::Level,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line, for machines.
    Json,
}

/// Bounds on what clients may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    pub max_connections: NonZeroUsize,
    pub max_connections_per_client: NonZeroUsize,
    /// To an upstream, for one blob that nobody waits for in several places.
    pub connections_per_blob: NonZeroUsize,
    /// That cost an upstream a question, in a second, from one client address.
    pub misses_per_client: NonZeroU32,
}

/// How long Larder waits, per phase. None is zero, none is over an hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeoutsConfig {
    /// From a name to its addresses.
    pub resolve: Duration,
    /// TCP and TLS together, once an address is known.
    pub connect: Duration,
    /// Until the header of an upstream's answer.
    pub headers: Duration,
    /// Everything before a client gets its first header: tokens, redirects and repeated tries included.
    pub answer: Duration,
    /// Without a byte of a body.
    pub stall: Duration,
    /// Until what is cached is served although it is stale.
    pub revalidation: Duration,
}

impl TimeoutsConfig {
    /// How long one question to an upstream may take, all told. A tag costs two at the most, and a fifth of the time that a client
    /// waits is left for serving what is cached instead.
    pub fn patience(&self) -> Duration {
        self.answer.mul_f64(0.4)
    }

    /// How long a question may wait for its turn by our own limits: whoever asks it is still there to hear of it then.
    pub fn queue(&self) -> Duration {
        self.patience().mul_f64(0.8)
    }
}

impl Config {
    /// Reads `file`, if there is one, lays the `LARDER_…` variables of `environment` over it and checks the result.
    /// With neither, that is the default configuration: Docker Hub and the other well-known public registries.
    ///
    /// `environment` is the whole environment of the process: the default of `cache.dir` depends on it as well.
    ///
    /// # Errors
    ///
    /// Everything that could be found wrong at once, each finding with the place where it stands.
    pub fn load(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let environment: Vec<(String, String)> = environment.into_iter().collect();
        let mut settings = Settings::default();
        if let Some(path) = file {
            file::read(path, &mut settings);
        }
        environment::overlay(&environment, &mut settings);
        let config = Self::build(&mut settings, &environment);
        settings.finish()?;
        Ok(config)
    }

    /// What is wrong is noted in `settings`, and a default stands in for it so that the rest can be checked.
    fn build(settings: &mut Settings, environment: &[(String, String)]) -> Self {
        let config = Self {
            listen: settings.section(Section::Top).value("listen", value::socket_address),
            offline: settings.section(Section::Top).value("offline", value::flag),
            admin: admin(settings.section(Section::Named("admin"))),
            cache: cache(settings.section(Section::Named("cache")), environment),
            freshness: freshness(settings),
            tls: tls(settings.section(Section::Named("tls"))),
            log: log(settings.section(Section::Named("log"))),
            limits: limits(settings.section(Section::Named("limits"))),
            timeouts: timeouts(settings.section(Section::Named("timeouts"))),
            upstreams: upstreams::build(settings),
        };
        check_patterns(&config, settings);
        if config.listen == config.admin.listen && config.listen.port() != 0 {
            settings.note_at_one_of(
                &[(Section::Named("admin"), "listen"), (Section::Top, "listen")],
                Problem::SameAddress(config.listen),
            );
        }
        config
    }
}

fn admin(mut section: SectionReader<'_>) -> AdminConfig {
    AdminConfig { listen: section.value("listen", value::socket_address) }
}

fn cache(mut section: SectionReader<'_>, environment: &[(String, String)]) -> CacheConfig {
    CacheConfig {
        dir: section.path("dir").map_or_else(|| cache_dir::usual(environment), |dir| dir.value),
        max_size: section.value("max_size", value::max_size),
        min_free: section.value("min_free", value::max_size),
        finish_unread: section.value("finish_unread", value::bytes),
        verify_within: section.value("verify_within", value::duration),
        prefetch: section.value("prefetch", value::flag),
    }
}

fn freshness(settings: &mut Settings) -> FreshnessConfig {
    let mut rules: Vec<_> = std::mem::take(&mut settings.patterns);
    // What is said of fewer tags is laid over what is said of more.
    rules.sort_by_cached_key(|(pattern, _)| (pattern.narrowness(), pattern.to_string()));
    let rules = rules.into_iter().map(|(pattern, place)| {
        let rule = freshness::rule(pattern.clone(), &mut settings.section(Section::Tags(pattern.to_string())));
        settings.patterns.push((pattern, place));
        rule
    });
    let rules = rules.collect();
    let mut section = settings.section(Section::Named("freshness"));
    FreshnessConfig {
        general: freshness::general(&mut section),
        rules,
        missing: section.value("missing", value::at_most_a_minute),
    }
}

/// A pattern that names an upstream which is not there means no tag.
fn check_patterns(config: &Config, settings: &mut Settings) {
    for (pattern, place) in std::mem::take(&mut settings.patterns) {
        if let Some(name) = pattern.upstream().filter(|name| config.upstreams.iter().all(|upstream| upstream.name != *name)) {
            let known = config.upstreams.iter().map(|upstream| upstream.name.as_str());
            let hint = Hint::among(name.as_str(), known);
            settings.note(place, Problem::PatternOfNone { name: name.to_string(), hint });
        }
    }
}

fn tls(mut section: SectionReader<'_>) -> Option<TlsConfig> {
    let says_both = section.says("cert") && section.says("key");
    let (cert, key) = (section.path("cert"), section.path("key"));
    if !says_both {
        let (given, missing, place) = match (cert, key) {
            (Some(cert), _) => ("cert", "key", cert.place),
            (None, Some(key)) => ("key", "cert", key.place),
            (None, None) => return None,
        };
        section.note(place, Problem::LonelyTls { given, missing });
        return None;
    }
    let (cert, key) = (cert?, key?);
    for file in [&cert, &key] {
        if let Err(error) = std::fs::File::open(&file.value) {
            section.note(file.place.clone(), Problem::FileUnreadable { file: file.value.clone(), error });
        }
    }
    Some(TlsConfig { cert: cert.value, key: key.value })
}

fn log(mut section: SectionReader<'_>) -> LogConfig {
    LogConfig { format: section.value("format", value::log_format), level: section.value("level", value::log_level) }
}

fn limits(mut section: SectionReader<'_>) -> LimitsConfig {
    LimitsConfig {
        max_connections: section.value("max_connections", value::count),
        max_connections_per_client: section.value("max_connections_per_client", value::count),
        connections_per_blob: section.value("connections_per_blob", value::count),
        misses_per_client: section.value("misses_per_client", value::count),
    }
}

fn timeouts(mut section: SectionReader<'_>) -> TimeoutsConfig {
    TimeoutsConfig {
        resolve: section.value("resolve", value::timeout),
        connect: section.value("connect", value::timeout),
        headers: section.value("headers", value::timeout),
        answer: section.value("answer", value::timeout),
        stall: section.value("stall", value::timeout),
        revalidation: section.value("revalidation", value::timeout),
    }
}
