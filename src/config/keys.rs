//! Every key there is: its type, its default and one line on what it does. The parser, the environment overlay and the test of
//! `config.example.toml` all go by this table; it never holds a value that an operator gave.

use self::Fallback::{Absent, Computed, Value};
use self::Kind::{Flag, List, Number, Text};
use self::Table::{Named, Tags, Top, Upstream};

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub table: Table,
    pub name: &'static str,
    pub kind: Kind,
    pub default: Fallback,
    /// What it does for an operator. `config.example.toml` has this line, word for word, above the key.
    pub about: &'static str,
}

/// Where in the file a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Before any heading.
    Top,
    /// Under `[name]`.
    Named(&'static str),
    /// Under `[upstreams."NAME"]`.
    Upstream,
    /// Under `[tags."PATTERN"]`. These have no environment variables.
    Tags,
}

/// The TOML type of a key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Flag,
    Number,
    /// Of texts; in an environment variable they are separated by commas.
    List,
}

/// What holds when a key is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// This value, written as in an environment variable.
    Value(&'static str),
    /// A value that depends on something else, as `about` says.
    Computed,
    /// Nothing: what the key is about is then not done.
    Absent,
}

impl Key {
    /// The default as one would write it in the file, if it is a fixed value.
    pub fn default_as_toml(&self) -> Option<String> {
        let Fallback::Value(text) = self.default else {
            return None;
        };
        Some(match self.kind {
            Kind::Flag | Kind::Number => text.to_owned(),
            Kind::Text => format!("\"{text}\""),
            Kind::List => {
                let items = text.split(',').filter(|item| !item.is_empty()).map(|item| format!("\"{item}\""));
                format!("[{}]", items.collect::<Vec<_>>().join(", "))
            }
        })
    }
}

const fn key(table: Table, name: &'static str, kind: Kind, default: Fallback, about: &'static str) -> Key {
    Key { table, name, kind, default, about }
}

/// Every key there is, in the order of `config.example.toml`.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key(Top, "listen", Text, Value("127.0.0.1:5050"), "The address and port on which clients are served."),

    key(Top, "offline", Flag, Value("false"), "Whether no upstream is asked for anything: what is cached is served, tags for ever."),

    key(Named("admin"), "listen", Text, Value("127.0.0.1:5051"), "The address and port of health and metrics. They are not for clients, nor for the world."),

    key(Named("cache"), "dir", Text, Computed, "The folder of the cache: by default the service manager's, else `larder` in the user's cache folder."),
    key(Named("cache"), "max_size", Text, Value("80%"), "The most the cache may hold: a size (50GB, 50GiB) or a share of the file system (80%)."),
    key(Named("cache"), "min_free", Text, Value("1GiB"), "What is left of the file system to others: a size, or a share of it. Rather than use that, Larder drops what it has, or passes through without keeping."),
    key(
        Named("cache"),
        "finish_unread",
        Text,
        Value("1GiB"),
        "A blob whose clients have all gone is fetched to its end if no more than this is missing, or it takes no more than a minute. Of others, what is there is kept for a day.",
    ),
    key(Named("cache"), "verify_within", Text, Value("30d"), "In which time all that is cached is read again and verified, a little at a time; 0s: never. What is wrong is dropped, and fetched again when it is asked for."),
    key(Named("cache"), "prefetch", Flag, Value("false"), "Whether a manifest that is pulled has its config and layers fetched at once, where the cache has free room for them. Whoever only looks at manifests (skopeo inspect, Renovate) then costs a whole image."),

    key(Named("freshness"), "tags", Text, Value("1m"), "How long a tag is served from the cache before the upstream is asked whether it moved; forever: it is not asked again."),
    key(Named("freshness"), "stale_while_revalidate", Text, Value("0s"), "How long after that a tag is still served at once, while the upstream is asked meanwhile."),
    key(Named("freshness"), "stale_for", Text, Value("forever"), "How long after it was last checked a tag is served while its upstream cannot be asked."),
    key(Named("freshness"), "refuse_stale", List, Value(""), "Failures of an upstream with which a stale tag is not served: unreachable, timeout, server-error, rate-limited, denied."),
    key(Named("freshness"), "keep_missing", Flag, Value("false"), "Whether a tag that the upstream has no more is served as it was last."),
    key(Named("freshness"), "missing", Text, Value("30s"), "How long it is remembered that an upstream does not have something, or denies it; at most 60s."),

    key(Named("tls"), "cert", Text, Absent, "The certificate chain (PEM) with which clients are served; needs `key`. Read again when it changes, and at a SIGHUP. Without it, plain HTTP is spoken."),
    key(Named("tls"), "key", Text, Absent, "The private key (PEM) of the certificate."),

    key(Named("log"), "format", Text, Value("text"), "How log lines look: text or json."),
    key(Named("log"), "level", Text, Value("info"), "The least important lines that are logged: error, warn, info, debug or trace."),

    key(Named("limits"), "max_connections", Number, Value("8192"), "Connections of clients at a time."),
    key(Named("limits"), "max_connections_per_client", Number, Value("1024"), "Connections at a time from one client address."),
    key(
        Named("limits"),
        "connections_per_blob",
        Number,
        Value("4"),
        "Connections to an upstream over which one blob may be fetched, as long as each of them makes it faster.",
    ),
    key(
        Named("limits"),
        "misses_per_client",
        Number,
        Value("25"),
        "Requests in a second from one client address that upstreams have to be asked for; twenty times that at once. What comes faster waits. What an upstream does not have counts fourfold.",
    ),

    key(Named("timeouts"), "resolve", Text, Value("3s"), "To find the addresses of an upstream's name. After that, those are tried that it had before."),
    key(Named("timeouts"), "connect", Text, Value("5s"), "To reach an upstream once its address is known: TCP and TLS together."),
    key(Named("timeouts"), "headers", Text, Value("15s"), "From the end of a request until the upstream's answer begins."),
    key(Named("timeouts"), "answer", Text, Value("25s"), "From a client's request until its answer begins, with tokens, redirects and repeated tries. One question about a manifest may take two fifths of it."),
    key(Named("timeouts"), "stall", Text, Value("20s"), "Without a byte of a body, before the connection is given up and replaced."),
    key(Named("timeouts"), "revalidation", Text, Value("1500ms"), "Until a tag that is cached is served although it is stale, while the upstream goes on being asked."),

    key(Upstream, "enabled", Flag, Value("true"), "Whether it is there at all: false takes a built-in upstream off the list."),
    key(Upstream, "url", Text, Computed, "Where the registry is, without the /v2/: by default https:// and the upstream's name."),
    key(Upstream, "endpoints", List, Value(""), "Other places where the same registry can be reached, tried in their order when it cannot be. The account is for those within the registrable domain of `url` only; others are asked anonymously."),
    key(Upstream, "offline", Flag, Value("false"), "Whether it is not asked for anything: what is cached is served, tags for ever."),
    key(Upstream, "default", Flag, Value("false"), "Whether it is meant by names without a registry. One upstream is: docker.io, when none says so."),
    key(Upstream, "aliases", List, Value(""), "Other names by which clients may ask for it, in `?ns=` or as the first part of a path."),
    key(Upstream, "hosts", List, Value(""), "Names of Larder itself (the Host header, with or without port) under which this upstream is the default."),
    key(Upstream, "username", Text, Absent, "The account with which it is asked; without one, it is asked anonymously."),
    key(Upstream, "password", Text, Absent, "The account's password or token."),
    key(Upstream, "password_file", Text, Absent, "A file that holds the password instead, read at the start."),
    key(Upstream, "open_to_all", Flag, Value("false"), "Says that everyone who can reach Larder may read what the account can read. An account needs it."),
    key(Upstream, "ca_file", Text, Absent, "Certificates (PEM) that are trusted for this upstream besides the usual ones."),
    key(Upstream, "realm", Text, Absent, "The one token server that is asked, whatever the registry's challenge says."),
    key(Upstream, "trusted_redirects", List, Value(""), "Origins (scheme://host[:port]) to which it may redirect though they are private or plain http."),
    key(Upstream, "requests_per_second", Number, Value("50"), "The most requests it is asked in a second."),
    key(Upstream, "concurrent_requests", Number, Value("100"), "The most requests that wait for the beginning of its answer at a time, three quarters of them for one client; more wait for their turn."),
    key(Upstream, "rate_limit_reserve", Text, Value("10%"), "How much of its limit on pulls is left to what is not cached: a number of pulls, or a share of the limit; 0: nothing."),

    key(Tags, "fresh_for", Text, Computed, "As `freshness.tags`, for the tags that the pattern means."),
    key(Tags, "stale_while_revalidate", Text, Computed, "As `freshness.stale_while_revalidate`."),
    key(Tags, "stale_for", Text, Computed, "As `freshness.stale_for`."),
    key(Tags, "refuse_stale", List, Computed, "As `freshness.refuse_stale`."),
    key(Tags, "keep_missing", Flag, Computed, "As `freshness.keep_missing`."),
];

/// The keys of one table, in their order.
pub(super) fn in_table(table: Table) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.table == table)
}

/// The names that head a table of fixed name, each once.
pub(super) fn table_names() -> Vec<&'static str> {
    let mut names: Vec<_> = KEYS
        .iter()
        .filter_map(|key| match key.table {
            Named(name) => Some(name),
            Top | Upstream | Tags => None,
        })
        .collect();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_there_twice_and_names_fit_the_environment() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..index].iter().all(|other| (other.table, other.name) != (key.table, key.name)), "{key:?}");
            // `__` is what separates the levels of a variable's name.
            assert!(
                !key.name.contains("__") && key.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{key:?}"
            );
        }
    }

    #[test]
    fn defaults_are_written_as_toml() {
        let default = |name| KEYS.iter().find(|key| key.name == name).and_then(Key::default_as_toml);
        assert_eq!(default("max_size").as_deref(), Some("\"80%\""));
        assert_eq!(default("max_connections").as_deref(), Some("8192"));
        assert_eq!(default("enabled").as_deref(), Some("true"));
        assert_eq!(default("aliases").as_deref(), Some("[]"));
        assert_eq!(default("username"), None);
    }
}
