//! The configuration as an operator meets it: the example that documents it, what a file and variables make of it, and every
//! finding with its place and its words.

use std::fs;
use std::path::Path;
use std::time::Duration;

use larder::config::{Config, Fallback, KEYS, Kind, Lifetime, LogFormat, MaxSize, Table, UpstreamConfig};
use proptest::prelude::*;
use tempfile::TempDir;

const EXAMPLE: &str = include_str!("../config.example.toml");
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nTGFyZGVy\n-----END CERTIFICATE-----\n";
const HOME: (&str, &str) = ("HOME", "/home/ada");

/// A folder with a configuration file and the files it names.
struct Folder(TempDir);

impl Folder {
    fn with(config: &str) -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        folder.file("larder.toml", config);
        folder
    }

    fn file(&self, name: &str, content: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder");
        fs::write(path, content).expect("a file");
    }

    fn load(&self, variables: &[(&str, &str)]) -> Result<Config, String> {
        load(Some(&self.0.path().join("larder.toml")), variables).map_err(|text| text.replace(&self.path(), "."))
    }

    fn path(&self) -> String {
        self.0.path().display().to_string()
    }
}

fn load(file: Option<&Path>, variables: &[(&str, &str)]) -> Result<Config, String> {
    let environment = variables.iter().chain([&HOME]).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(file, environment).map_err(|error| error.to_string())
}

fn default_config() -> Config {
    load(None, &[]).expect("no configuration is a configuration")
}

fn config(text: &str) -> Config {
    Folder::with(text).load(&[]).unwrap_or_else(|findings| panic!("{text}\n{findings}"))
}

/// What is wrong with a file of this content, and nothing else is.
fn findings(text: &str) -> String {
    Folder::with(text).load(&[]).expect_err(text)
}

fn upstream<'a>(config: &'a Config, name: &str) -> &'a UpstreamConfig {
    config.upstreams.iter().find(|upstream| upstream.name.as_str() == name).unwrap_or_else(|| panic!("no {name}"))
}

// --- the example ---

/// What stands above a value that is not the default.
const NO_DEFAULT: &str = "# (An example; there is no default.)";

/// The setting that is commented out in a line: `# [table]` or `# key = value`.
fn uncommented(line: &str) -> Option<&str> {
    let setting = line.strip_prefix("# ")?;
    let key = setting.split_once(" = ").map_or("", |(key, _)| key);
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    (is_key || setting.starts_with('[')).then_some(setting)
}

fn all_uncommented() -> String {
    EXAMPLE.lines().map(|line| uncommented(line).unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// The table that a line begins, if it does.
fn heading(line: &str) -> Option<Table> {
    let name = line.strip_prefix('[')?.strip_suffix(']')?;
    if name.starts_with("upstreams.") {
        return Some(Table::Upstream);
    }
    if name.starts_with("tags.") {
        return Some(Table::Tags);
    }
    let table = KEYS.iter().map(|key| key.table).find(|table| matches!(table, Table::Named(known) if *known == name));
    Some(table.unwrap_or_else(|| panic!("[{name}] is no table")))
}

#[test]
fn the_example_as_it_is_changes_nothing() {
    assert_eq!(config(EXAMPLE), default_config());
}

#[test]
fn the_example_holds_every_key_with_its_description_and_default() {
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    for key in KEYS {
        let about = format!("# {}", key.about);
        let mut table = Table::Top;
        let documented = lines.iter().enumerate().any(|(index, line)| {
            table = heading(uncommented(line).unwrap_or(line)).unwrap_or(table);
            let (has_no_default, setting) = match lines.get(index + 1) {
                Some(next) if *next == NO_DEFAULT => (true, lines.get(index + 2)),
                next => (false, next),
            };
            let Some((name, value)) = setting.and_then(|line| uncommented(line)).and_then(|setting| setting.split_once(" = "))
            else {
                return false;
            };
            (table, *line, name) == (key.table, about.as_str(), key.name)
                && has_no_default == (key.default == Fallback::Absent)
                && key.default_as_toml().is_none_or(|default| default == value)
        });
        assert!(documented, "config.example.toml lacks {key:?}, in these words and with this default");
    }
}

#[test]
fn the_example_with_everything_uncommented_is_valid_and_its_defaults_are_the_defaults() {
    let folder = Folder::with(&all_uncommented());
    folder.file("secrets/docker.io", "canary\n");
    for name in ["tls/cert.pem", "tls/key.pem", "tls/ca.pem"] {
        folder.file(name, CERTIFICATE);
    }
    let all = folder.load(&[("CACHE_DIRECTORY", "/var/cache/larder")]).expect("the example is valid");
    let default = load(None, &[("CACHE_DIRECTORY", "/var/cache/larder")]).expect("no configuration is a configuration");

    // What has no default, or is said to be an example, differs; take that away and nothing is left that does.
    let tls = all.tls.clone().expect("TLS is in the example");
    assert_eq!((tls.cert, tls.key), (folder.0.path().join("tls/cert.pem"), folder.0.path().join("tls/key.pem")));
    let mut rest = all.clone();
    rest.tls = None;
    let rules = std::mem::take(&mut rest.freshness.rules);
    assert_eq!(
        rules.iter().map(|rule| rule.pattern.to_string()).collect::<Vec<_>>(),
        ["docker.io/**:{semver}", "harbor.example.org/**"]
    );
    assert_eq!(
        (rules[0].fresh_for, rules[1].stale_for),
        (Some(Lifetime::Forever), Some(Lifetime::For(Duration::from_secs(3600))))
    );
    rest.upstreams = default.upstreams.clone();
    assert_eq!(rest, default);

    // Where an upstream's table shows defaults, they are those of an upstream of which nothing is said.
    let plain = config("[upstreams.\"registry.example.org\"]");
    assert_eq!(upstream(&all, "registry.example.org"), upstream(&plain, "registry.example.org"));

    let hub = upstream(&all, "docker.io").credential.as_ref().expect("an account");
    assert_eq!((hub.username.as_str(), hub.password.expose()), ("example", "canary"));
    let harbor = upstream(&all, "harbor.example.org");
    assert_eq!(harbor.ca.as_deref(), Some(CERTIFICATE.as_bytes()));
    assert_eq!(harbor.realm.as_ref().map(url::Url::as_str), Some("https://harbor.example.org/service/token"));
    assert_eq!(harbor.aliases.iter().map(|alias| alias.as_str()).collect::<Vec<_>>(), ["harbor", "harbor.lan"]);
    assert!(all.upstreams.iter().all(|upstream| upstream.name.as_str() != "k8s.gcr.io"));
    assert!(!format!("{all:?}").contains("canary"), "what is debugged shows no password");
}

#[test]
fn lists_have_no_default_but_the_empty_one() {
    let lists = KEYS.iter().filter(|key| key.kind == Kind::List && key.default != Fallback::Computed);
    assert!(lists.map(|key| key.default).all(|default| default == Fallback::Value("")));
}

// --- what is meant ---

#[test]
fn without_any_configuration_the_public_registries_are_there() {
    let config = default_config();
    assert_eq!(config.listen.to_string(), "127.0.0.1:5050");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:5051");
    assert_eq!((config.cache.dir.as_path(), config.cache.max_size), (Path::new("/home/ada/.cache/larder"), MaxSize::Share(80)));
    assert!(!config.cache.prefetch && !config.offline);
    assert_eq!(config.freshness.general.fresh_for, Lifetime::For(Duration::from_secs(60)));
    assert_eq!((config.freshness.general.stale_for, config.freshness.missing), (Lifetime::Forever, Duration::from_secs(30)));
    assert_eq!((config.tls, config.log.format, config.log.level), (None, LogFormat::Text, tracing::Level::INFO));
    assert_eq!(config.timeouts.answer, Duration::from_secs(25));

    let defaults: Vec<_> =
        config.upstreams.iter().filter(|upstream| upstream.default).map(|upstream| upstream.name.as_str()).collect();
    assert_eq!(defaults, ["docker.io"]);
    for name in ["ghcr.io", "quay.io", "registry.k8s.io", "mcr.microsoft.com", "public.ecr.aws"] {
        assert!(config.upstreams.iter().any(|upstream| upstream.name.as_str() == name), "{name}");
    }
    assert!(config.upstreams.iter().all(|upstream| upstream.credential.is_none()));
}

#[test]
fn a_table_of_a_built_in_upstream_overrides_only_what_it_names() {
    let default = default_config();
    let config = config("[upstreams.\"Docker.io\"]\nrequests_per_second = 0x10");
    let mut expected = upstream(&default, "docker.io").clone();
    expected.requests_per_second = 16.try_into().expect("not zero");
    assert_eq!(*upstream(&config, "docker.io"), expected);
    assert_eq!(config.upstreams.len(), default.upstreams.len());
}

#[test]
fn the_token_server_of_docker_hub_is_pinned_for_docker_hub_only() {
    let realm = |text: &str| upstream(&config(text), "docker.io").realm.as_ref().map(ToString::to_string);
    let pinned = Some("https://auth.docker.io/token".to_owned());
    assert_eq!(realm(""), pinned);
    assert_eq!(realm("[upstreams.\"docker.io\"]\nurl = \"https://registry-1.docker.io/\""), pinned);
    assert_eq!(realm("[upstreams.\"docker.io\"]\nurl = \"http://127.0.0.1:5500\""), None);
    let other = "[upstreams.\"docker.io\"]\nurl = \"https://hub.lan\"\nrealm = \"https://auth.lan/token?x=y\"";
    assert_eq!(realm(other).as_deref(), Some("https://auth.lan/token?x=y"));
}

#[test]
fn variables_override_the_file() {
    let folder = Folder::with(
        "[cache]\nmax_size = \"1GB\"\ndir = \"store\"\n[upstreams.\"hub.lan:5000\"]\naliases = [\"a\"]\ndefault = false\nrequests_per_second = 7",
    );
    let config = folder
        .load(&[
            ("LARDER_LISTEN", "[::]:80"),
            ("LARDER_CACHE__MAX_SIZE", "2GiB"),
            ("LARDER_LIMITS__MAX_CONNECTIONS", "10"),
            ("LARDER_UPSTREAMS__HUB_LAN_5000__ALIASES", "b, c,"),
            ("LARDER_UPSTREAMS__HUB_LAN_5000__DEFAULT", "true"),
            ("LARDER_UPSTREAMS__QUAY_IO__USERNAME", "ada"),
            ("LARDER_UPSTREAMS__QUAY_IO__PASSWORD", "canary"),
            ("LARDER_UPSTREAMS__QUAY_IO__OPEN_TO_ALL", "true"),
        ])
        .expect("valid");
    assert_eq!(config.listen.to_string(), "[::]:80");
    assert_eq!(config.cache.max_size, MaxSize::Bytes(2 << 30));
    assert_eq!(config.cache.dir, folder.0.path().join("store"), "a path in the file is relative to it");
    assert_eq!(config.limits.max_connections.get(), 10);
    let hub = upstream(&config, "hub.lan:5000");
    assert_eq!(hub.aliases.iter().map(|alias| alias.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    assert!(hub.default && !upstream(&config, "docker.io").default);
    assert_eq!((hub.url.as_str(), hub.requests_per_second.get()), ("https://hub.lan:5000/", 7));
    assert!(upstream(&config, "quay.io").credential.is_some());
}

#[test]
fn a_path_in_a_variable_is_as_it_is() {
    let config = Folder::with("").load(&[("LARDER_CACHE__DIR", "relative/dir")]).expect("valid");
    assert_eq!(config.cache.dir, Path::new("relative/dir"));
}

#[test]
fn of_a_disabled_upstream_nothing_else_is_looked_at() {
    let text = "[upstreams.\"quay.io\"]\nenabled = false\nusername = \"ada\"\npassword_file = \"gone\"\n[upstreams.\"my.lan\"]\naliases = [\"quay.io\"]";
    let config = config(text);
    assert!(config.upstreams.iter().all(|upstream| upstream.name.as_str() != "quay.io"));
    assert_eq!(upstream(&config, "my.lan").aliases[0].as_str(), "quay.io", "its name is free for others");
}

// --- what is refused, and in which words ---

#[test]
fn every_finding_names_its_place_and_says_what_to_write() {
    const NO_HINT: &str = "";
    for (text, expected, hint) in [
        (
            "[cache]\n\n  max_sise = \"1GB\"",
            "./larder.toml:3:3: unknown key `max_sise` in [cache]; did you mean `max_size`?",
            NO_HINT,
        ),
        (
            "[cache]\nzzz = 1",
            "./larder.toml:2:1: unknown key",
            "there is `dir`, `max_size`, `min_free`, `finish_unread`, `verify_within` and `prefetch`",
        ),
        (
            "max_size = \"1GB\"",
            "./larder.toml:1:1: unknown key `max_size` before the first table; did you mean `cache.max_size`?",
            NO_HINT,
        ),
        ("[cach]\ndir = \"x\"", "./larder.toml:1:1: unknown table [cach]; did you mean `cache`?", NO_HINT),
        ("cache = \"/x\"", "./larder.toml:1:9: `cache` is a table, not a string", NO_HINT),
        ("listen = 5050", "./larder.toml:1:10: `listen` is a string, in quotes, not a whole number", NO_HINT),
        ("listen = \":5050\"", "./larder.toml:1:10: `listen`: \":5050\" is no address", "0.0.0.0:5050"),
        (
            "listen = \"127.0.0.1:5051\"",
            "./larder.toml:1:10: health and metrics cannot share 127.0.0.1:5051",
            "addresses of their own",
        ),
        ("[cache]\nmax_size = 5", "./larder.toml:2:12: `cache.max_size` is a string, in quotes, not a whole number", NO_HINT),
        (
            "[cache]\nfinish_unread = \"50%\"",
            "./larder.toml:2:17: `cache.finish_unread`: \"50%\" is a share where a size is meant, as in 50GB or 50GiB",
            NO_HINT,
        ),
        ("[cache]\nmax_size = \"50\"", "./larder.toml:2:12: `cache.max_size`: \"50\" lacks a unit", "50GB, 50GiB or 80%"),
        (
            "[freshness]\nrefuse_stale = [\"timeouts\"]",
            "./larder.toml:2:17: `freshness.refuse_stale`: \"timeouts\" is none of the words for it; did you mean `timeout`?",
            NO_HINT,
        ),
        ("[tags.\"alpine\"]\nfresh_for = \"1m\"", "./larder.toml:1:7: this means no repository", "UPSTREAM/REPOSITORY:TAG"),
        ("[tags.\"quai.io/**\"]", "./larder.toml:1:7: no upstream is called `quai.io`", "did you mean `quay.io`?"),
        (
            "[tags.\"quay.io/**\"]\nfresh = \"1m\"",
            "./larder.toml:2:1: unknown key `fresh` in [tags.\"quay.io/**\"]; did you mean `fresh_for`?",
            NO_HINT,
        ),
        ("[freshness]\ntags = \"5 min\"", "./larder.toml:2:8: `freshness.tags`: \"5 min\" is no duration", "90s, 1h30m or 250ms"),
        ("[freshness]\nmissing = \"2m\"", "./larder.toml:2:11: `freshness.missing`: \"2m\" is longer than 60s", NO_HINT),
        ("[tls]\ncert = \"x\"", "./larder.toml:2:8: `tls.cert` needs `tls.key` beside it", NO_HINT),
        ("[log]\nlevel = \"verbose\"", "./larder.toml:2:9: `log.level`: \"verbose\" is none of the words", "`warn`"),
        (
            "[limits]\nmax_connections = 0",
            "./larder.toml:2:19: `limits.max_connections`: \"0\" is no whole number from 1",
            NO_HINT,
        ),
        (
            "[limits]\nmax_connections = -1",
            "./larder.toml:2:19: `limits.max_connections`: \"-1\" is no whole number from 1",
            NO_HINT,
        ),
        ("[timeouts]\nstall = \"0s\"", "./larder.toml:2:9: `timeouts.stall`: must be longer than nothing", NO_HINT),
        ("[upstreams.docker.io]\nurl = \"x\"", "./larder.toml:1:12: a name with dots needs quotes", "[upstreams.\"docker.io\"]"),
        (
            "[[upstreams]]\nurl = \"x\"",
            "./larder.toml:1:1: `upstreams` is a table per upstream, [upstreams.\"NAME\"], not a list",
            NO_HINT,
        ),
        ("[upstreams.\"a b\"]", "./larder.toml:1:12: this is no name of an upstream", NO_HINT),
        ("[upstreams.\"X.lan\"]\n[upstreams.\"x.lan\"]", "./larder.toml:2:12: upstream `x.lan` is there twice", NO_HINT),
        ("[upstreams.\"1.2.3.999\"]", "./larder.toml:1:12: `1.2.3.999` cannot be made into a URL", "give this upstream a `url`"),
        ("[upstreams.\"x.lan\"]\nurl = \"x.lan\"", "./larder.toml:2:7: `upstreams.\"x.lan\".url`: is no URL", "https://"),
        (
            "[upstreams.\"x.lan\"]\ndefault = \"yes\"",
            "./larder.toml:2:11: `upstreams.\"x.lan\".default` is true or false",
            NO_HINT,
        ),
        (
            "[upstreams.\"x.lan\"]\naliases = [\"ok\", 3]",
            "./larder.toml:2:18: `upstreams.\"x.lan\".aliases` is a list of strings",
            NO_HINT,
        ),
        (
            "[upstreams.\"x.lan\"]\naliases = [\"docker.io\"]",
            "./larder.toml:2:12: `docker.io` means upstream `docker.io` already, which is built in",
            "enabled = false",
        ),
        (
            "[upstreams.\"registry-1.docker.io\"]",
            "./larder.toml:1:12: `registry-1.docker.io` means upstream `docker.io` already",
            "`aliases`",
        ),
        (
            "[upstreams.\"x.lan\"]\naliases = [\"a\"]\n[upstreams.\"y.lan\"]\naliases = [\"A\"]",
            "./larder.toml:4:12: `a` means upstream `x.lan` already",
            NO_HINT,
        ),
        (
            "[upstreams.\"x.lan\"]\nhosts = [\"H\"]\n[upstreams.\"y.lan\"]\nhosts = [\"h\"]",
            "./larder.toml:4:10: `h` means upstream `x.lan` already",
            NO_HINT,
        ),
        (
            "[upstreams.\"x.lan\"]\ndefault = true\n[upstreams.\"a.lan\"]\ndefault = true",
            "./larder.toml:4:11: upstream `x.lan` is the default already",
            NO_HINT,
        ),
        ("[upstreams.\"docker.io\"]\nenabled = false", "./larder.toml:2:11: then no upstream is the default", "default = true"),
        ("[upstreams.\"docker.io\"]\ndefault = false", "./larder.toml:2:11: then no upstream is the default", "default = true"),
        (
            "[upstreams.\"x.lan\"]\nrequests_per_second = 0",
            "./larder.toml:2:23: `upstreams.\"x.lan\".requests_per_second`: \"0\" is no",
            NO_HINT,
        ),
        (
            "[upstreams.\"x.lan\"]\ntrusted_redirects = [\"http://a/b\"]",
            "./larder.toml:2:22: `upstreams.\"x.lan\".trusted_redirects`: is more than an origin",
            NO_HINT,
        ),
        ("[upstreams.\"x.lan\"]\nca_file = \"gone.pem\"", "./larder.toml:2:11: cannot read ./gone.pem: No such file", NO_HINT),
        (
            "[upstreams.\"x.lan\"]\nca_file = \"larder.toml\"",
            "./larder.toml:2:11: ./larder.toml does not hold certificates in PEM",
            NO_HINT,
        ),
    ] {
        let found = findings(text);
        assert!(found.starts_with(expected) && found.contains(hint), "{text}\n{found}");
        assert_eq!(found.lines().count(), 1, "one finding a line\n{text}\n{found}");
    }
}

#[test]
fn credentials_are_whole_and_meant_for_all_and_never_in_the_clear() {
    let hub = |rest: &str| format!("[upstreams.\"hub.lan\"]\n{rest}");
    let open = "\nopen_to_all = true";
    for (text, expected) in [
        ("username = \"ada\"", "./larder.toml:2:12: `username` needs a `password` or a `password_file` beside it"),
        ("password = \"canary\"", "./larder.toml:2:12: `password` needs a `username` beside it"),
        ("password_file = \"x\"", "./larder.toml:2:17: `password_file` needs a `username` beside it"),
        (
            "username = \"ada\"\npassword_file = \"x\"\npassword = \"canary\"",
            "./larder.toml:3:17: give either `password` or `password_file`, not both",
        ),
        ("username = \"ada\"\npassword_file = \"x\"", "./larder.toml:3:17: cannot read ./x: No such file"),
        ("username = \"a:b\"\npassword = \"canary\"", "./larder.toml:2:12: `upstreams.\"hub.lan\".username`: holds a colon"),
        (
            "username = \"ada\"\npassword = \"canary\\n\"",
            "./larder.toml:3:12: `upstreams.\"hub.lan\".password`: holds a control character",
        ),
        ("username = \"ada\"\npassword = [\"canary\"]", "./larder.toml:3:12: `upstreams.\"hub.lan\".password` is a string"),
        (
            "url = \"https://ada:canary@hub.lan\"",
            "./larder.toml:2:7: `upstreams.\"hub.lan\".url`: holds a user name or a password",
        ),
        (
            "aliases = [\"https://ada:canary@hub.lan\"]",
            "./larder.toml:2:12: `upstreams.\"hub.lan\".aliases`: holds what is no name of an upstream",
        ),
        ("url = \"https://ada:canary@hub .lan\"", "./larder.toml:2:7: `upstreams.\"hub.lan\".url`: is no URL"),
        ("url = \"http://hub.lan\"\nusername = \"ada\"\npassword = \"canary\"", "./larder.toml:2:7: `url` is plain http"),
        (
            "endpoints = [\"https://mirror.lan\", \"http://eu.hub.lan\"]\nusername = \"ada\"\npassword = \"canary\"",
            "./larder.toml:2:36: `endpoints` is plain http",
        ),
        ("realm = \"http://auth.lan\"\nusername = \"ada\"\npassword = \"canary\"", "./larder.toml:2:9: `realm` is plain http"),
    ] {
        let found = findings(&(hub(text) + open));
        assert!(found.starts_with(expected), "{text}\n{found}");
        assert_eq!(found.lines().count(), 1, "{text}\n{found}");
        assert!(!found.contains("canary"), "a finding shows no password\n{found}");
    }
    assert_eq!(
        findings(&hub("username = \"ada\"\npassword = \"canary\"")),
        "./larder.toml:2:12: everyone who can reach Larder can then read what this credential can read; clients do not \
         authenticate to Larder. Write `open_to_all = true` beside it if that is meant"
    );
    assert!(!findings("[upstreams.\"https://ada:canary@hub.lan\"]").contains("canary"));
    let loopback = config(&(hub("url = \"http://127.0.0.1:5000\"\nusername = \"ada\"\npassword = \"canary\"") + open));
    assert!(upstream(&loopback, "hub.lan").credential.is_some(), "on this machine, nobody listens in");
    let elsewhere =
        "endpoints = [\"http://mirror.example.org\", \"https://hub.lan/\"]\nusername = \"ada\"\npassword = \"canary\"";
    let elsewhere = config(&(hub(elsewhere) + open));
    let endpoints: Vec<_> = upstream(&elsewhere, "hub.lan").endpoints.iter().map(url::Url::as_str).collect();
    assert_eq!(
        endpoints,
        ["http://mirror.example.org/"],
        "it gets no account, and what is the upstream's own URL is no other place"
    );
}

#[test]
fn everything_is_found_in_one_go_in_the_order_of_the_file() {
    let folder = Folder::with(
        "lissen = 1\n[cache]\nmax_size = \"0%\"\n[timeouts]\nstall = 5\n[upstreams.\"ghcr.io\"]\nusername = \"ada\"",
    );
    let found = folder.load(&[("LARDER_LOG__LEVEL", "loud"), ("LARDER_CACHE_DIR", "/x")]).expect_err("much is wrong");
    let places: Vec<_> = found.lines().map(|line| line.split(": ").next().expect("a place")).collect();
    assert_eq!(
        places,
        [
            "./larder.toml:1:1",
            "./larder.toml:3:12",
            "./larder.toml:5:9",
            "./larder.toml:7:12",
            "LARDER_CACHE_DIR",
            "LARDER_LOG__LEVEL"
        ],
        "{found}"
    );
}

#[test]
fn values_of_variables_are_checked_like_those_of_the_file() {
    for (variable, value, expected) in [
        ("LARDER_CACHE__MAX_SIZE", "big", "LARDER_CACHE__MAX_SIZE: `cache.max_size`: \"big\" is no size"),
        (
            "LARDER_UPSTREAMS__GHCR_IO__DEFAULT",
            "yes",
            "LARDER_UPSTREAMS__GHCR_IO__DEFAULT: `upstreams.\"ghcr.io\".default`: \"yes\" is neither true nor false",
        ),
        (
            "LARDER_LIMITS__MAX_CONNECTIONS",
            "",
            "LARDER_LIMITS__MAX_CONNECTIONS: `limits.max_connections`: \"\" is no whole number",
        ),
        (
            "LARDER_UPSTREAMS__GHCR_IO__ALIASES",
            "ok,no/t",
            "LARDER_UPSTREAMS__GHCR_IO__ALIASES: `upstreams.\"ghcr.io\".aliases`: holds what is no name",
        ),
        ("LARDER_TLS__KEY", "", "LARDER_TLS__KEY: `tls.key`: is empty"),
    ] {
        let found = load(None, &[(variable, value)]).expect_err(variable);
        assert!(found.starts_with(expected), "{found}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
}

#[test]
fn a_syntax_error_is_shown_with_its_line_and_a_caret() {
    let found = findings("[cache]\nmax_size = 50 GB\n");
    let lines: Vec<&str> = found.lines().collect();
    assert!(lines[0].starts_with("./larder.toml:2:1"), "{found}");
    assert_eq!(lines[1..3], ["  |", "2 | max_size = 50 GB"], "{found}");
    assert!(lines[3].starts_with("  | ") && lines[3].ends_with('^'), "{found}");
}

#[test]
fn a_syntax_error_never_shows_a_password() {
    for text in [
        "[upstreams.\"ghcr.io\"]\npassword = \"canary",
        "[upstreams.\"ghcr.io\"]\npassword = canary\n",
        "[upstreams.\"ghcr.io\"]\npassword = \"\"\"\ncanary\\q\"\"\"\n",
        "[upstreams.\"ghcr.io\"]\npasswrd = \"canary",
        "[upstreams.\"ghcr.io\"]\nurl = \"https://ada:canary@ghcr.io",
        "upstreams.\"ghcr.io\" = { username = \"ada\", PASSWORD = 'canary }",
    ] {
        let found = findings(text);
        assert!(found.contains("larder.toml:") && !found.contains("canary"), "{found}");
    }
}

#[test]
fn a_file_that_is_not_there_or_is_no_text_is_an_error() {
    let found = load(Some(Path::new("no/such.toml")), &[]).expect_err("there is no file");
    assert!(found.starts_with("no/such.toml: cannot be read: No such file"), "{found}");
    let folder = Folder::with("");
    fs::write(folder.0.path().join("larder.toml"), b"listen = \"\xff\"").expect("a file");
    assert!(folder.load(&[]).expect_err("no text").starts_with("./larder.toml: cannot be read: "));
}

// --- whatever is written ---

proptest! {
    /// A slip of the hand gives a configuration or findings that name places within the file, and never a panic.
    #[test]
    fn no_slip_makes_it_panic(at in any::<prop::sample::Index>(), length in 0..12usize, insert in "\\PC{0,3}|[\\[\\]\"'=.#{},\n\t]{0,3}") {
        let text = all_uncommented().replace("not-a-real-password", "canary");
        let mut characters: Vec<char> = text.chars().collect();
        let start = at.index(characters.len());
        let end = (start + length).min(characters.len());
        characters.splice(start..end, insert.chars());
        let text: String = characters.into_iter().collect();
        if let Err(findings) = Folder::with(&text).load(&[]) {
            let lines = text.lines().count() + 1;
            for line in findings.lines().filter_map(|line| line.strip_prefix("./larder.toml:")) {
                let number: usize = line.split(':').next().and_then(|number| number.parse().ok()).expect("a line number");
                prop_assert!((1..=lines).contains(&number), "{}", findings);
            }
            prop_assert!(!findings.contains("canary"), "{}", findings);
        }
    }
}
