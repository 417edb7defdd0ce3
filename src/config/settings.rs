//! What was said, where, and what is wrong with it, between reading and typing. A setting said twice holds as said last; this
//! module knows no key and no source, and never drops a finding.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Finding, Place, Problem};
use super::keys::{self, Fallback, Key, Table};
use super::pattern::TagPattern;
use super::value::{self, ValueError};
use crate::oci::UpstreamName;

/// A table of the configuration, with the name of its upstream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Section {
    Top,
    Named(&'static str),
    Upstream(UpstreamName),
    /// Of the pattern that is written so.
    Tags(String),
}

/// Something and where it was said. No `Debug`: it may be a password.
#[derive(Clone)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// The text of a value, or those of a list.
pub(super) enum Setting {
    One(Located<String>),
    Many(Vec<Located<String>>),
    /// Something of another type, as was noted.
    Misfit,
}

/// All that was said, and all that was found wrong so far.
#[derive(Default)]
pub(super) struct Settings {
    said: BTreeMap<(Section, &'static str), Setting>,
    /// The upstreams that have a table of their own, and where it begins.
    pub(super) declared: BTreeMap<UpstreamName, Place>,
    /// The patterns of tags that have a table of their own, and where it begins.
    pub(super) patterns: Vec<(TagPattern, Place)>,
    findings: Vec<Finding>,
}

/// One section's settings, to be read by name. What is not accepted is noted as a finding.
pub(super) struct SectionReader<'a> {
    settings: &'a mut Settings,
    section: Section,
}

// === impl Section ===

impl Section {
    pub(super) fn table(&self) -> Table {
        match self {
            Self::Top => Table::Top,
            Self::Named(name) => Table::Named(name),
            Self::Upstream(_) => Table::Upstream,
            Self::Tags(_) => Table::Tags,
        }
    }

    /// The full path of a key in this section, as TOML writes it.
    pub(super) fn path_of(&self, key: &str) -> String {
        match self {
            Self::Top => key.to_owned(),
            Self::Named(table) => format!("{table}.{key}"),
            Self::Upstream(name) => format!("upstreams.\"{name}\".{key}"),
            Self::Tags(pattern) => format!("tags.\"{}\".{key}", pattern.escape_debug()),
        }
    }

    /// Where its keys are, in words.
    pub(super) fn whereabouts(&self) -> String {
        match self {
            Self::Top => "before the first table".to_owned(),
            Self::Named(table) => format!("in [{table}]"),
            Self::Upstream(name) => format!("in [upstreams.\"{name}\"]"),
            Self::Tags(pattern) => format!("in [tags.\"{}\"]", pattern.escape_debug()),
        }
    }
}

// === impl Settings ===

impl Settings {
    pub(super) fn say(&mut self, section: Section, key: &'static Key, setting: Setting) {
        self.said.insert((section, key.name), setting);
    }

    pub(super) fn note(&mut self, place: Place, problem: Problem) {
        self.findings.push(Finding { place, problem });
    }

    /// Notes a problem at the first of the keys that was said. If none was, it is one of the defaults, which have none.
    pub(super) fn note_at_one_of(&mut self, keys: &[(Section, &'static str)], problem: Problem) {
        let place = keys.iter().find_map(|key| match self.said.get(key) {
            Some(Setting::One(located)) => Some(located.place.clone()),
            Some(Setting::Many(_) | Setting::Misfit) | None => None,
        });
        if let Some(place) = place {
            self.note(place, problem);
        }
    }

    pub(super) fn section(&mut self, section: Section) -> SectionReader<'_> {
        SectionReader { settings: self, section }
    }

    /// Fails if anything was noted.
    pub(super) fn finish(&mut self) -> Result<(), ConfigError> {
        ConfigError::of(std::mem::take(&mut self.findings)).map_or(Ok(()), Err)
    }
}

// === impl SectionReader ===

impl SectionReader<'_> {
    pub(super) fn note(&mut self, place: Place, problem: Problem) {
        self.settings.note(place, problem);
    }

    /// Whether `key` was said, whatever is said there.
    pub(super) fn says(&self, key: &'static str) -> bool {
        self.settings.said.contains_key(&(self.section.clone(), key))
    }

    /// The value of `key` if it was said and `parse` accepts it.
    pub(super) fn given<T>(&mut self, key: &'static str, parse: fn(&str) -> Result<T, ValueError>) -> Option<Located<T>> {
        match self.settings.said.get(&(self.section.clone(), key)) {
            Some(Setting::One(located)) => self.parsed(key, located.clone(), parse),
            Some(Setting::Many(_) | Setting::Misfit) | None => None,
        }
    }

    /// The value of `key`, or its default.
    pub(super) fn value<T>(&mut self, key: &'static str, parse: fn(&str) -> Result<T, ValueError>) -> T {
        match self.given(key, parse) {
            Some(located) => located.value,
            None => {
                let default = keys::in_table(self.section.table()).find(|entry| entry.name == key).map(|entry| entry.default);
                let Some(Fallback::Value(text)) = default else {
                    unreachable!("{} is a key with a fixed default", self.section.path_of(key));
                };
                parse(text).unwrap_or_else(|error| unreachable!("the default of {}: {error}", self.section.path_of(key)))
            }
        }
    }

    /// The items of the list `key`, if it was said.
    pub(super) fn list<T>(&mut self, key: &'static str, parse: fn(&str) -> Result<T, ValueError>) -> Option<Vec<Located<T>>> {
        match self.settings.said.get(&(self.section.clone(), key)) {
            Some(Setting::Many(items)) => {
                Some(items.clone().into_iter().filter_map(|item| self.parsed(key, item, parse)).collect())
            }
            Some(Setting::One(_) | Setting::Misfit) | None => None,
        }
    }

    /// The path `key`. In the file it is relative to the file's folder, in a variable to the working directory.
    pub(super) fn path(&mut self, key: &'static str) -> Option<Located<PathBuf>> {
        let Located { value, place } = self.given(key, value::text)?;
        let folder = match &place {
            Place::File(file) | Place::Character { file, .. } => file.parent(),
            Place::Variable(_) => None,
        };
        Some(Located { value: folder.unwrap_or(Path::new("")).join(value), place })
    }

    fn parsed<T>(
        &mut self,
        key: &str,
        Located { value, place }: Located<String>,
        parse: fn(&str) -> Result<T, ValueError>,
    ) -> Option<Located<T>> {
        match parse(&value) {
            Ok(value) => Some(Located { value, place }),
            Err(error) => {
                let key = self.section.path_of(key);
                self.note(place, Problem::BadValue { key, error });
                None
            }
        }
    }
}
