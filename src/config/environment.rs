//! The environment overlay: `LARDER_CACHE__MAX_SIZE` says `cache.max_size`, whatever the file says. Variables without the prefix
//! are none of its business; with it, a variable that is no setting is an error and never ignored.

use super::built_in;
use super::error::{Place, Problem};
use super::keys::{self, KEYS, Key, Kind, Table};
use super::settings::{Located, Section, Setting, Settings};
use super::suggest::Hint;
use crate::oci::UpstreamName;

const PREFIX: &str = "LARDER_";
/// Between the levels of a key's path.
const LEVEL: &str = "__";
/// What follows the prefix in the variables of an upstream.
const UPSTREAMS: &str = "UPSTREAMS__";

/// Says what the variables say.
pub(super) fn overlay(environment: &[(String, String)], settings: &mut Settings) {
    for (variable, value) in environment {
        let Some(path) = variable.strip_prefix(PREFIX) else {
            continue;
        };
        let place = Place::Variable(variable.as_str().into());
        match resolve(path, value, settings) {
            Ok(Some((section, key))) => settings.say(section, key, setting(key, value, &place)),
            Ok(None) => {}
            Err(problem) => settings.note(place, problem),
        }
    }
}

fn setting(key: &Key, value: &str, place: &Place) -> Setting {
    let located = |text: &str| Located { value: text.to_owned(), place: place.clone() };
    match key.kind {
        Kind::Text | Kind::Flag | Kind::Number => Setting::One(located(value)),
        Kind::List => Setting::Many(value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(located).collect()),
    }
}

/// The key that a variable names, `path` being its name without the prefix; `None` for one that is not meant for us.
fn resolve(path: &str, value: &str, settings: &Settings) -> Result<Option<(Section, &'static Key)>, Problem> {
    if let Some((name, key_name)) = path.strip_prefix(UPSTREAMS).and_then(|rest| rest.rsplit_once(LEVEL)) {
        let upstream = upstream_written(name, settings)?;
        let keys = || keys::in_table(Table::Upstream).map(|key| (key.name.to_ascii_uppercase(), key));
        return match keys().find(|(known, _)| known == key_name) {
            Some((_, key)) => Ok(Some((Section::Upstream(upstream), key))),
            None => {
                let known: Vec<_> = keys().map(|(known, _)| known).collect();
                let hint = Hint::among(key_name, known.iter().map(String::as_str));
                Err(Problem::UnknownVariable(hint.within(&format!("{PREFIX}{UPSTREAMS}{name}{LEVEL}"))))
            }
        };
    }
    match fixed().find(|(known, ..)| known == path) {
        Some((_, section, key)) => Ok(Some((section, key))),
        None if is_service_link(path, value) => Ok(None),
        None => {
            let mut known: Vec<_> = fixed().map(|(known, ..)| known).collect();
            known.push(format!("{UPSTREAMS}NAME{LEVEL}KEY"));
            Err(Problem::UnknownVariable(Hint::among(path, known.iter().map(String::as_str)).within(PREFIX)))
        }
    }
}

/// The keys outside the upstreams' tables, with the names of their variables (without the prefix).
fn fixed() -> impl Iterator<Item = (String, Section, &'static Key)> {
    KEYS.iter().filter_map(|key| {
        let name = key.name.to_ascii_uppercase();
        match key.table {
            Table::Top => Some((name, Section::Top, key)),
            Table::Named(table) => Some((format!("{}{LEVEL}{name}", table.to_ascii_uppercase()), Section::Named(table), key)),
            Table::Upstream | Table::Tags => None,
        }
    })
}

/// The declared or built-in upstream whose name is written so in a variable.
fn upstream_written(written: &str, settings: &Settings) -> Result<UpstreamName, Problem> {
    let mut known: Vec<UpstreamName> = settings.declared.keys().cloned().chain(built_in::names()).collect();
    known.sort();
    known.dedup();
    let meant: Vec<_> = known.iter().filter(|name| as_written(name) == written).cloned().collect();
    match meant.as_slice() {
        [] => {
            let known: Vec<_> = known.iter().map(as_written).collect();
            let hint = Hint::among(written, known.iter().map(String::as_str));
            Err(Problem::UnknownUpstream { name: written.escape_debug().to_string(), hint })
        }
        [name] => Ok(name.clone()),
        several => Err(Problem::AmbiguousUpstream(several.iter().map(ToString::to_string).collect())),
    }
}

/// An upstream's name in upper case, with `_` for every character that is neither a letter nor a digit.
fn as_written(name: &UpstreamName) -> String {
    let upper = |character: char| if character.is_ascii_alphanumeric() { character.to_ascii_uppercase() } else { '_' };
    name.as_str().chars().map(upper).collect()
}

/// Whether Kubernetes made this variable because a Service is called `larder` or `larder-…`: `LARDER_PORT=tcp://…`,
/// `LARDER_SERVICE_HOST`, `LARDER_PORT_5050_TCP_ADDR` and the like (Kubernetes, "Accessing the Service", environment variables).
fn is_service_link(path: &str, value: &str) -> bool {
    let words: Vec<&str> = path.split('_').collect();
    let has = |sequence: &[&str]| words.windows(sequence.len()).any(|window| window == sequence);
    has(&["SERVICE", "HOST"])
        || has(&["SERVICE", "PORT"])
        || (has(&["PORT"]) && (value.contains("://") || has(&["TCP"]) || has(&["UDP"]) || has(&["SCTP"])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(variable: &str, value: &str) -> String {
        let mut settings = Settings::default();
        overlay(&[(variable.to_owned(), value.to_owned())], &mut settings);
        settings.finish().expect_err("the variable is refused").to_string()
    }

    #[test]
    fn every_key_has_a_variable() {
        let settings = Settings::default();
        for key in KEYS.iter().filter(|key| key.table != Table::Tags) {
            let path = match key.table {
                Table::Top => key.name.to_ascii_uppercase(),
                Table::Named(table) => format!("{table}__{}", key.name).to_ascii_uppercase(),
                Table::Upstream => format!("UPSTREAMS__DOCKER_IO__{}", key.name.to_ascii_uppercase()),
                Table::Tags => unreachable!("no variable can be named after a pattern"),
            };
            let (section, resolved) =
                resolve(&path, "", &settings).unwrap_or_else(|problem| panic!("{path}: {problem}")).expect("it is meant for us");
            assert_eq!((section.table(), resolved.name), (key.table, key.name));
        }
    }

    #[test]
    fn names_of_upstreams_are_matched_as_they_can_be_written() {
        let mut settings = Settings::default();
        for name in ["my-hub.lan:5000", "a__b.lan", "x-y.lan", "x.y.lan"] {
            let name = name.parse().expect("a name");
            settings.declared.insert(name, Place::Variable("test".into()));
        }
        for (written, name) in [("MY_HUB_LAN_5000", "my-hub.lan:5000"), ("A__B_LAN", "a__b.lan"), ("GHCR_IO", "ghcr.io")] {
            let resolved =
                resolve(&format!("UPSTREAMS__{written}__URL"), "", &settings).unwrap_or_else(|problem| panic!("{problem}"));
            let (section, _) = resolved.expect("it is meant for us");
            assert_eq!(section, Section::Upstream(name.parse().expect("a name")));
        }
        let Err(problem) = resolve("UPSTREAMS__X_Y_LAN__URL", "", &settings) else {
            panic!("two upstreams are written so");
        };
        assert_eq!(problem.to_string(), "may mean x-y.lan and x.y.lan alike; set it in the file");
    }

    #[test]
    fn what_is_no_setting_is_refused_with_a_suggestion() {
        for (variable, meant) in [
            ("LARDER_CACHE_DIR", "LARDER_CACHE__DIR"),
            ("LARDER_CACHE__MAXSIZE", "LARDER_CACHE__MAX_SIZE"),
            ("LARDER_listen", "LARDER_LISTEN"),
            ("LARDER_LOG", "LARDER_LOG__LEVEL"),
            ("LARDER_UPSTREAMS__DOCKER_IO__PASWORD", "LARDER_UPSTREAMS__DOCKER_IO__PASSWORD"),
            ("LARDER_UPSTREAM__DOCKER_IO__PASSWORD", "LARDER_UPSTREAMS__NAME__KEY"),
            ("LARDER_UPSTREAMS__DOCKERIO__PASSWORD", "DOCKER_IO"),
        ] {
            let text = problem(variable, "canary");
            assert!(text.starts_with(&format!("{variable}: ")) && text.contains(&format!("did you mean `{meant}`?")), "{text}");
            assert!(!text.contains("canary"), "{text}");
        }
        assert!(problem("LARDER_", "").contains("`LARDER_CACHE__DIR`, "));
        assert!(problem("LARDER_UPSTREAMS__ZZZ__URL", "").contains(" `DOCKER_IO`, "));
    }

    #[test]
    fn links_of_kubernetes_are_passed_over() {
        for (variable, value) in [
            ("LARDER_PORT", "tcp://10.0.0.7:5050"),
            ("LARDER_SERVICE_HOST", "10.0.0.7"),
            ("LARDER_SERVICE_PORT_HTTP", "5050"),
            ("LARDER_PORT_5050_TCP_ADDR", "10.0.0.7"),
            ("LARDER_ADMIN_SERVICE_PORT", "5051"),
        ] {
            let mut settings = Settings::default();
            overlay(&[(variable.to_owned(), value.to_owned())], &mut settings);
            assert!(settings.finish().is_ok(), "{variable}");
        }
        assert!(problem("LARDER_PORT", "5050").contains("is no setting of Larder"));
    }

    #[test]
    fn other_variables_are_left_alone() {
        let mut settings = Settings::default();
        overlay(&[("LARDERX".to_owned(), "x".to_owned()), ("PATH".to_owned(), "/bin".to_owned())], &mut settings);
        assert!(settings.finish().is_ok());
    }
}
