//! `larder gc`: tells what the next evictions would take, or carries them out, in the folder alone or by way of the server that has
//! it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::banner::amount;
use super::errand::{self, Errand, Keeper, Undone};
use super::rm::count;
use crate::config::MaxSize;
use crate::store::Clearing;

/// How much is to be free.
#[derive(Serialize, Deserialize)]
pub(super) struct Gc {
    free: Free,
    dry_run: bool,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Free {
    Bytes(u64),
    /// Percent of what the cache may hold.
    Share(u8),
}

/// What was evicted, or would be, in order.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cleared {
    /// Bytes that the cache may take without evicting anything, before and after.
    free_before: u64,
    free_after: u64,
    /// Bytes of what fetches have left that were broken off.
    parts_bytes: u64,
    evicted: Vec<Content>,
    dry_run: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    digest: String,
    size: u64,
    /// The images that are incomplete without it.
    images: Vec<String>,
}

pub(super) fn run(file: Option<&Path>, json: bool, free: MaxSize, dry_run: bool) -> ExitCode {
    let free = match free {
        MaxSize::Bytes(bytes) => Free::Bytes(bytes),
        MaxSize::Share(percent) => Free::Share(percent),
    };
    errand::run(file, |_| Ok(Gc { free, dry_run }), |cleared| errand::show(json, &cleared, told))
}

impl Errand for Gc {
    const PATH: &'static str = "/gc";
    type Answer = Cleared;

    async fn run(self, keeper: &Keeper) -> Result<Cleared, Undone> {
        let free = match self.free {
            Free::Bytes(bytes) => bytes,
            Free::Share(percent) => keeper.store.stats().max_bytes / 100 * u64::from(percent),
        };
        let clearing = keeper.store.clear(free, self.dry_run).await?;
        let Clearing { parts_bytes, evicted, free_before, free_after } = clearing;
        let evicted = evicted.into_iter().map(|content| Content {
            digest: content.digest.to_string(),
            size: content.size,
            images: content.images.iter().map(ToString::to_string).collect(),
        });
        Ok(Cleared { free_before, free_after, parts_bytes, evicted: evicted.collect(), dry_run: self.dry_run })
    }
}

fn told(cleared: &Cleared) -> String {
    let Cleared { free_before, free_after, parts_bytes, evicted, dry_run } = cleared;
    let mut text = String::new();
    for Content { digest, size, images } in evicted {
        let images = if images.is_empty() { "no image".to_owned() } else { images.join(", ") };
        text += &format!("{digest}  {:>9}  {images}\n", amount(*size));
    }
    let images: BTreeSet<&String> = evicted.iter().flat_map(|content| &content.images).collect();
    let (go, are) = if *dry_run { ("would go", "would be") } else { ("gone", "are") };
    if *parts_bytes > 0 {
        text += &format!("{} of fetches that were broken off {go}\n", amount(*parts_bytes));
    }
    let bytes = evicted.iter().map(|content| content.size).sum();
    text += &format!(
        "{}, {}: {go}; {} {are} incomplete\n",
        count(evicted.len() as u64, "content"),
        amount(bytes),
        count(images.len() as u64, "image")
    );
    text += &format!("free: {}, before {}\n", amount(*free_after), amount(*free_before));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_goes_and_what_is_left_incomplete() {
        let content = |images: &[&str]| Content {
            digest: "sha256:ab".to_owned(),
            size: 1_500_000_000,
            images: images.iter().map(|image| (*image).to_owned()).collect(),
        };
        let evicted = vec![content(&["docker.io/a/b:1", "docker.io/a/b:2"]), content(&["docker.io/a/b:1"]), content(&[])];
        let cleared = Cleared { free_before: 0, free_after: 4_500_000_000, parts_bytes: 0, evicted, dry_run: true };
        let expected = "sha256:ab    1.50 GB  docker.io/a/b:1, docker.io/a/b:2\nsha256:ab    1.50 GB  docker.io/a/b:1\n\
            sha256:ab    1.50 GB  no image\n3 contents, 4.50 GB: would go; 2 images would be incomplete\n\
            free: 4.50 GB, before 0 B\n";
        assert_eq!(told(&cleared), expected);
    }
}
