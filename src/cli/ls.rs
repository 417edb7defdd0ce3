//! `larder ls`: what is cached, by the names under which it can be pulled.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::banner::amount;
use super::{FAILED, fail, load};
use crate::store::{Image, Inspection};
use crate::util::{Clock, SystemClock};

pub(super) fn run(file: Option<&Path>, json: bool, names: &[String]) -> ExitCode {
    let config = match load(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let listed = Inspection::open(&config.cache.dir).and_then(|inspection| Ok((inspection.images()?, inspection.bytes()?)));
    let (mut images, bytes) = match listed {
        Ok(listed) => listed,
        Err(error) => return fail(error, FAILED),
    };
    images.retain(|image| names.is_empty() || names.iter().any(|name| is_below(&name_of(image), name)));
    let now = SystemClock.unix_millis();
    if json {
        images.iter().for_each(|image| println!("{}", object(image)));
    } else {
        print!("{}", table(&images, now));
        if names.is_empty() {
            let plural = if images.len() == 1 { "" } else { "s" };
            println!("{} image{plural}; in all {} of content", images.len(), amount(bytes));
        }
    }
    ExitCode::SUCCESS
}

/// The name by which it can be pulled.
fn name_of(image: &Image) -> String {
    let Image { upstream, repository, .. } = image;
    match &image.tag {
        Some(tag) => format!("{upstream}/{repository}:{tag}"),
        None => format!("{upstream}/{repository}@{}", image.digest),
    }
}

/// Whether `name` is what `prefix` names, or belongs to it: an upstream, a namespace, a repository or an image.
pub(super) fn is_below(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
}

fn object(image: &Image) -> serde_json::Value {
    json!({
        "name": name_of(image),
        "upstream": image.upstream.as_str(),
        "repository": image.repository.as_str(),
        "tag": image.tag.as_ref().map(ToString::to_string),
        "digest": image.digest.to_string(),
        "size": image.size,
        "missing": image.missing,
        "pinned": image.is_pinned,
        "stored_at": image.stored_at.map(|millis| millis / 1000),
        "pulled_at": image.pulled_at.map(|millis| millis / 1000),
        "checked_at": image.checked_at.map(|millis| millis / 1000),
    })
}

fn table(images: &[Image], now: i64) -> String {
    let mut rows = vec![["IMAGE", "DIGEST", "SIZE", "AGE", "PULLED", "CHECKED", "PIN"].map(str::to_owned)];
    rows.extend(images.iter().map(|image| {
        let size = match image.missing {
            0 => amount(image.size),
            missing => format!("{} ({missing} missing)", amount(image.size)),
        };
        let digest = image.digest.to_string();
        let short = digest.char_indices().nth("sha256:".len() + 12).map_or(&*digest, |(end, _)| &digest[..end]);
        [
            name_of(image).split('@').next().unwrap_or_default().to_owned(),
            short.to_owned(),
            size,
            age(image.stored_at, now),
            ago(image.pulled_at, now),
            ago(image.checked_at, now),
            if image.is_pinned { "pinned" } else { "" }.to_owned(),
        ]
    }));
    columns(&rows)
}

/// Rows as lines, with their cells below each other.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// How long ago that was, in the largest unit that there is one of.
pub(super) fn ago(at: Option<i64>, now: i64) -> String {
    match at {
        Some(at) => since(at, now).map_or_else(|| "just now".to_owned(), |since| format!("{since} ago")),
        None => "-".to_owned(),
    }
}

/// How old that is, likewise.
fn age(at: Option<i64>, now: i64) -> String {
    match at {
        Some(at) => since(at, now).unwrap_or_else(|| "new".to_owned()),
        None => "-".to_owned(),
    }
}

/// The time from `at` to `now`, both in milliseconds since 1970; `None` if it is less than a minute.
fn since(at: i64, now: i64) -> Option<String> {
    let since = Duration::from_millis(u64::try_from(now.saturating_sub(at)).unwrap_or(0)).as_secs();
    match since {
        0..60 => None,
        60..3600 => Some(format!("{} min", since / 60)),
        3600..86400 => Some(format!("{} h", since / 3600)),
        _ => Some(format!("{} d", since / 86400)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    fn image(tag: Option<&str>) -> Image {
        Image {
            upstream: "docker.io".parse().unwrap(),
            repository: "library/alpine".parse().unwrap(),
            tag: tag.map(|tag| tag.parse().unwrap()),
            digest: Digest::sha256(b"x"),
            size: 3_600_000_000,
            missing: 0,
            is_pinned: false,
            pulled_at: Some(0),
            stored_at: Some(-2 * 86_400_000),
            checked_at: None,
        }
    }

    #[test]
    fn a_name_is_below_what_it_belongs_to() {
        let name = name_of(&image(Some("3.20")));
        assert_eq!(name, "docker.io/library/alpine:3.20");
        for prefix in ["docker.io", "docker.io/", "docker.io/library", "docker.io/library/alpine", &name] {
            assert!(is_below(&name, prefix), "{prefix}");
        }
        for prefix in ["docker", "docker.io/lib", "docker.io/library/alp", "docker.io/library/alpine:3", "ghcr.io"] {
            assert!(!is_below(&name, prefix), "{prefix}");
        }
    }

    #[test]
    fn the_table_says_what_there_is() {
        let incomplete = Image { missing: 2, is_pinned: true, ..image(None) };
        let expected = "\
            IMAGE                          DIGEST               SIZE                 AGE  PULLED   CHECKED  PIN\n\
            docker.io/library/alpine:3.20  sha256:2d711642b726  3.60 GB              5 d  3 d ago  -\n\
            docker.io/library/alpine       sha256:2d711642b726  3.60 GB (2 missing)  5 d  3 d ago  -        pinned\n";
        assert_eq!(table(&[image(Some("3.20")), incomplete], 3 * 86_400_000 + 5), expected);
        assert_eq!(
            [(Some(0), 0), (Some(9), 0), (Some(0), 7_200_000), (Some(0), 130_000)].map(|(at, now)| ago(at, now)),
            ["just now", "just now", "2 h ago", "2 min ago"]
        );
        assert_eq!([Some(0), Some(-60_000), Some(9), None].map(|at| age(at, 0)), ["new", "1 min", "new", "-"]);
    }
}
