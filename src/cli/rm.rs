//! `larder rm`: removes images, repositories or contents from the cache by name, in the folder alone or by way of the server that has
//! it.

use std::path::Path;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::banner::amount;
use super::errand::{self, Errand, Keeper, Undone};
use super::names;
use crate::store::{Name, Removal};

/// What is to be removed.
#[derive(Serialize, Deserialize)]
pub(super) struct Rm {
    names: Vec<String>,
    dry_run: bool,
    force: bool,
}

/// What was removed, or would be.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Removed {
    images: Vec<String>,
    contents: u64,
    bytes: u64,
    shared_contents: u64,
    shared_bytes: u64,
    shared_with: Vec<String>,
    dry_run: bool,
}

pub(super) fn run(file: Option<&Path>, json: bool, wanted: Vec<Name>, dry_run: bool, force: bool) -> ExitCode {
    let names = wanted.into_iter().map(|name| names::in_full(name).to_string()).collect();
    errand::run(file, |_| Ok(Rm { names, dry_run, force }), |removed| errand::show(json, &removed, told))
}

impl Errand for Rm {
    const PATH: &'static str = "/rm";
    type Answer = Removed;

    async fn run(self, keeper: &Keeper) -> Result<Removed, Undone> {
        let Self { dry_run, force, .. } = self;
        let removal = keeper.store.remove_named(names::parse(&self.names)?, dry_run, force).await?;
        if let Some(server) = keeper.server.as_ref().filter(|_| !dry_run) {
            server.mirror.forget();
        }
        let Removal { images, contents, bytes, shared_contents, shared_bytes, shared_with } = removal;
        let texts = |names: Vec<Name>| names.iter().map(ToString::to_string).collect();
        let (images, shared_with) = (texts(images), texts(shared_with));
        Ok(Removed { images, contents, bytes, shared_contents, shared_bytes, shared_with, dry_run })
    }
}

fn told(removed: &Removed) -> String {
    let Removed { images, contents, bytes, shared_contents, shared_bytes, shared_with, dry_run } = removed;
    let go = if *dry_run { "would be removed" } else { "removed" };
    let mut text: String = images.iter().map(|image| format!("{image}\n")).collect();
    text += &format!("{}, {}: {} {go}\n", count(images.len() as u64, "image"), count(*contents, "content"), amount(*bytes));
    if *shared_contents > 0 {
        let stay = if *shared_contents == 1 { "stays" } else { "stay" };
        text += &format!(
            "{}, {}: {stay}, since they belong to {} as well\n",
            count(*shared_contents, "content"),
            amount(*shared_bytes),
            shared_with.join(", ")
        );
    }
    text
}

/// So many of them, in words.
pub(super) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_goes_and_what_stays() {
        let removed = Removed {
            images: vec!["docker.io/library/a:1".to_owned()],
            contents: 2,
            bytes: 3_000_000_000,
            shared_contents: 1,
            shared_bytes: 500_000_000,
            shared_with: vec!["docker.io/library/b:1".to_owned()],
            dry_run: true,
        };
        let expected = "docker.io/library/a:1\n1 image, 2 contents: 3.00 GB would be removed\n\
            1 content, 500 MB: stays, since they belong to docker.io/library/b:1 as well\n";
        assert_eq!(told(&removed), expected);
    }
}
