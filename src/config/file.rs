//! The configuration file: from TOML to settings with their places. It checks that keys exist and have the right TOML type, and
//! nothing about their values.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Place, Problem};
use super::keys::{self, KEYS, Key, Kind, Table};
use super::pattern::TagPattern;
use super::settings::{Located, Section, Setting, Settings};
use super::suggest::{Hint, nearest};
use crate::oci::UpstreamName;

/// Says what the file at `path` says. A file with a syntax error says nothing else.
pub(super) fn read(path: &Path, settings: &mut Settings) {
    let path: Arc<Path> = path.into();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return settings.note(Place::File(path), Problem::Unreadable(error)),
    };
    let mut file = File { path, text: &text, settings };
    let (table, errors) = DeTable::parse_recoverable(&text);
    if errors.is_empty() {
        file.top(table.get_ref());
    }
    for error in errors {
        file.syntax_error(error.message(), error.span().unwrap_or_default());
    }
}

/// A file being read.
struct File<'a> {
    path: Arc<Path>,
    text: &'a str,
    settings: &'a mut Settings,
}

type Entry<'a, 'i> = (&'a Spanned<std::borrow::Cow<'i, str>>, &'a Spanned<DeValue<'i>>);

impl File<'_> {
    fn top(&mut self, table: &DeTable<'_>) {
        for (name, value) in table {
            let known = keys::table_names().into_iter().find(|known| *known == name.get_ref());
            match (known, value.get_ref()) {
                (Some(known), DeValue::Table(table)) => self.section(&Section::Named(known), table),
                (None, DeValue::Table(table)) if name.get_ref() == "upstreams" => self.upstreams(table),
                (None, DeValue::Table(table)) if name.get_ref() == "tags" => self.patterns(table),
                (None, DeValue::Table(_)) if keys::in_table(Table::Top).all(|key| key.name != name.get_ref()) => {
                    let hint = Hint::among(name.get_ref(), keys::table_names().into_iter().chain(["tags", "upstreams"]));
                    let name = name.get_ref().to_string();
                    self.note(value.span(), Problem::UnknownTable { name, hint });
                }
                (Some(_), other) => self.wrong_type(name.get_ref(), "a table", other, value.span()),
                (None, other) if name.get_ref() == "upstreams" => {
                    self.wrong_type("upstreams", "a table per upstream, [upstreams.\"NAME\"]", other, value.span());
                }
                (None, other) if name.get_ref() == "tags" => {
                    self.wrong_type("tags", "a table per pattern, [tags.\"PATTERN\"]", other, value.span());
                }
                (None, _) => self.entry(&Section::Top, (name, value)),
            }
        }
    }

    fn upstreams(&mut self, table: &DeTable<'_>) {
        for (name, value) in table {
            let DeValue::Table(table) = value.get_ref() else {
                let path = format!("upstreams.{}", name.get_ref().escape_debug());
                self.wrong_type(&path, "a table", value.get_ref(), value.span());
                continue;
            };
            let Ok(upstream) = name.get_ref().parse::<UpstreamName>() else {
                self.note(name.span(), Problem::BadUpstreamName);
                continue;
            };
            if let Some(unquoted) = unquoted_name(name.get_ref(), table) {
                self.note(name.span(), Problem::UnquotedName(unquoted));
                continue;
            }
            let place = self.place(name.span().start);
            if self.settings.declared.insert(upstream.clone(), place).is_some() {
                self.note(name.span(), Problem::UpstreamTwice(upstream.to_string()));
            }
            self.section(&Section::Upstream(upstream), table);
        }
    }

    fn patterns(&mut self, table: &DeTable<'_>) {
        for (text, value) in table {
            let DeValue::Table(table) = value.get_ref() else {
                let path = format!("tags.{}", text.get_ref().escape_debug());
                self.wrong_type(&path, "a table", value.get_ref(), value.span());
                continue;
            };
            match text.get_ref().parse::<TagPattern>() {
                Ok(pattern) => {
                    let place = self.place(text.span().start);
                    self.settings.patterns.push((pattern, place));
                    self.section(&Section::Tags(text.get_ref().to_string()), table);
                }
                Err(error) => self.note(text.span(), Problem::BadPattern(error)),
            }
        }
    }

    fn section(&mut self, section: &Section, table: &DeTable<'_>) {
        for entry in table {
            self.entry(section, entry);
        }
    }

    fn entry(&mut self, section: &Section, (name, value): Entry<'_, '_>) {
        match keys::in_table(section.table()).find(|key| key.name == name.get_ref()) {
            Some(key) => match self.setting(key.kind, value) {
                Ok(setting) => self.settings.say(section.clone(), key, setting),
                Err(misfit) => {
                    let expected = match key.kind {
                        Kind::Text => "a string, in quotes",
                        Kind::Flag => "true or false, without quotes",
                        Kind::Number => "a whole number, without quotes",
                        Kind::List => "a list of strings, as in [\"one\", \"two\"]",
                    };
                    self.wrong_type(&section.path_of(key.name), expected, misfit.get_ref(), misfit.span());
                    self.settings.say(section.clone(), key, Setting::Misfit);
                }
            },
            None => {
                let hint = hint_for_key(name.get_ref(), section.table());
                let key = name.get_ref().to_string();
                self.note(name.span(), Problem::UnknownKey { key, table: section.whereabouts(), hint });
            }
        }
    }

    /// What a value says, or the value (or item of a list) that is of another type.
    fn setting<'v, 'i>(&self, kind: Kind, value: &'v Spanned<DeValue<'i>>) -> Result<Setting, &'v Spanned<DeValue<'i>>> {
        let one = |text: String| Ok(Setting::One(Located { value: text, place: self.place(value.span().start) }));
        match (kind, value.get_ref()) {
            (Kind::Text, DeValue::String(text)) => one(text.to_string()),
            (Kind::Flag, DeValue::Boolean(flag)) => one(flag.to_string()),
            // A number out of range stays as it is written: it is refused together with other bad values.
            (Kind::Number, DeValue::Integer(number)) => one(u64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| number.to_string(), |number| number.to_string())),
            (Kind::List, DeValue::Array(items)) => items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Ok(Located { value: text.to_string(), place: self.place(item.span().start) }),
                    _ => Err(item),
                })
                .collect::<Result<_, _>>()
                .map(Setting::Many),
            _ => Err(value),
        }
    }

    fn note(&mut self, span: Range<usize>, problem: Problem) {
        let place = self.place(span.start);
        self.settings.note(place, problem);
    }

    fn wrong_type(&mut self, key: &str, expected: &'static str, found: &DeValue<'_>, span: Range<usize>) {
        let found = match found {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.note(span, Problem::WrongType { key: key.to_owned(), expected, found });
    }

    fn syntax_error(&mut self, message: &str, span: Range<usize>) {
        let place = self.place(span.start);
        let excerpt = match &place {
            Place::Character { line, column, .. } => self.excerpt(*line, *column),
            Place::File(_) | Place::Variable(_) => None,
        };
        self.settings.note(place, Problem::Syntax { message: message.to_owned(), excerpt });
    }

    /// The line with a caret below the column, unless a password might be in it: findings end up in logs.
    fn excerpt(&self, line: usize, column: usize) -> Option<String> {
        let shown = self.text.lines().nth(line - 1)?;
        if might_hold_a_password(shown) || ["\"\"\"", "'''"].iter().any(|mark| self.text.contains(mark)) {
            return None;
        }
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs are as wide as the terminal likes; as spaces, the caret stays below its character.
        let shown = shown.replace('\t', " ");
        Some(format!("{margin} |\n{number} | {shown}\n{margin} | {}^", " ".repeat(column - 1)))
    }

    /// The line and column (in characters) of a byte of the file.
    fn place(&self, byte: usize) -> Place {
        let before = self.text.get(..byte).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        Place::Character {
            file: Arc::clone(&self.path),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// Whether a line is other than a heading, or a key that is spelt right and has nothing to do with passwords or URLs. Of what
/// stands within a string of several lines, this tells nothing.
fn might_hold_a_password(line: &str) -> bool {
    let line = line.trim_start().to_ascii_lowercase();
    let key = line.split(|character: char| !character.is_ascii_alphanumeric() && character != '_').next();
    let is_harmless = (line.starts_with('[') && !line.contains('=')) || KEYS.iter().any(|known| Some(known.name) == key);
    !is_harmless || line.contains("password") || line.contains("://")
}

/// What an unknown key may have been meant to be: a key of its table, or the same key in the table where it belongs.
fn hint_for_key(name: &str, table: Table) -> Hint {
    let siblings = || keys::in_table(table).map(|key| key.name);
    let elsewhere = |key: &&Key| key.name == name && key.table != table;
    match (nearest(name, siblings()), KEYS.iter().find(elsewhere)) {
        (None, Some(key)) => Hint::DidYouMean(match key.table {
            Table::Top => format!("{name}` before the first table, not `{name}"),
            Table::Named(table) => format!("{table}.{name}"),
            Table::Upstream => format!("upstreams.\"NAME\".{name}"),
            Table::Tags => format!("tags.\"PATTERN\".{name}"),
        }),
        _ => Hint::among(name, siblings()),
    }
}

/// The whole name if `[upstreams.registry.example.org]` was written without quotes: TOML then nests a table per dot.
fn unquoted_name(first: &str, table: &DeTable<'_>) -> Option<String> {
    if first.contains('.') {
        return None;
    }
    let mut name = first.to_owned();
    let mut innermost = table;
    while let Some((part, DeValue::Table(inner))) = innermost.iter().next().map(|(part, value)| (part, value.get_ref())) {
        name = format!("{name}.{}", part.get_ref());
        innermost = inner;
    }
    (name != first).then_some(name)
}
