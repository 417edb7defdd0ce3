//! `larder pin` and `larder unpin`: what is never evicted, in the folder alone or by way of the server that has it.

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::banner::amount;
use super::errand::{self, Errand, Keeper, Undone, to_json};
use super::names;
use super::rm::count;
use crate::config::Config;
use crate::store::{Name, Pin, Pinned, PinnedBytes};

/// Names to pin; none to be told of all pins.
#[derive(Serialize, Deserialize)]
pub(super) struct SetPins {
    names: Vec<String>,
}

/// Names that are not to be pinned any more.
#[derive(Serialize, Deserialize)]
pub(super) struct Unpin {
    names: Vec<String>,
}

/// A pin, and what it keeps, or kept until now.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PinLine {
    name: String,
    contents: u64,
    bytes: u64,
}

pub(super) fn pin(file: Option<&Path>, json: bool, wanted: Vec<Name>) -> ExitCode {
    let errand = |config: &Config| {
        let wanted: Vec<Name> = wanted.into_iter().map(names::in_full).collect();
        for name in &wanted {
            let Pin { upstream, .. } = Pin::try_from(name.clone()).map_err(Undone::from)?;
            if !config.upstreams.iter().any(|known| known.name == upstream) {
                bail!(Undone::refused(format_args!(
                    "{name} can never come: there is no upstream {upstream} in the configuration"
                )));
            }
        }
        Ok(SetPins { names: wanted.iter().map(ToString::to_string).collect() })
    };
    errand::run(file, errand, |lines| print(&lines, json, "pinned"))
}

pub(super) fn unpin(file: Option<&Path>, json: bool, wanted: Vec<Name>) -> ExitCode {
    let names = wanted.into_iter().map(|name| names::in_full(name).to_string()).collect();
    errand::run(file, |_| Ok(Unpin { names }), |lines| print(&lines, json, "not pinned any more"))
}

impl Errand for SetPins {
    const PATH: &'static str = "/pin";
    type Answer = Vec<PinLine>;

    async fn run(self, keeper: &Keeper) -> Result<Vec<PinLine>, Undone> {
        let pinned = match pins(&self.names)? {
            none if none.is_empty() => keeper.store.pins().await?,
            pins => keeper.store.pin(pins).await?,
        };
        Ok(pinned.into_iter().map(PinLine::from).collect())
    }
}

impl Errand for Unpin {
    const PATH: &'static str = "/unpin";
    type Answer = Vec<PinLine>;

    async fn run(self, keeper: &Keeper) -> Result<Vec<PinLine>, Undone> {
        let pinned = keeper.store.unpin(pins(&self.names)?).await?;
        Ok(pinned.into_iter().map(PinLine::from).collect())
    }
}

fn pins(names: &[String]) -> Result<Vec<Pin>, Undone> {
    names::parse(names)?.into_iter().map(|name| Ok(Pin::try_from(name)?)).collect()
}

impl From<Pinned> for PinLine {
    fn from(Pinned { pin, keeps: PinnedBytes { bytes, contents } }: Pinned) -> Self {
        Self { name: pin.to_string(), contents, bytes }
    }
}

fn print(lines: &[PinLine], json: bool, state: &str) -> ExitCode {
    for line in lines {
        if json { println!("{}", to_json(line)) } else { println!("{}", told(line, state)) }
    }
    ExitCode::SUCCESS
}

fn told(PinLine { name, contents, bytes }: &PinLine, state: &str) -> String {
    match contents {
        0 => format!("{name}: {state}; nothing of it is cached"),
        contents => format!("{name}: {state}; {}, {}", count(*contents, "content"), amount(*bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_when_there_is_nothing_to_keep_yet() {
        let line = |contents, bytes| PinLine { name: "docker.io/a/b:1".to_owned(), contents, bytes };
        assert_eq!(told(&line(0, 0), "pinned"), "docker.io/a/b:1: pinned; nothing of it is cached");
        assert_eq!(told(&line(3, 2_000_000_000), "pinned"), "docker.io/a/b:1: pinned; 3 contents, 2.00 GB");
    }
}
