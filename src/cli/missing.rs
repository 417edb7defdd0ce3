//! `larder missing`: what was asked for and could not be had, for whoever is to bring it.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::ls::{ago, columns, is_below};
use super::{FAILED, fail, load};
use crate::oci::Reference;
use crate::store::{Inspection, Kind, Wanted};
use crate::util::{Clock, SystemClock};

pub(super) fn run(file: Option<&Path>, json: bool, names: &[String]) -> ExitCode {
    let config = match load(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let mut wanted = match Inspection::open(&config.cache.dir).and_then(|inspection| inspection.wanted()) {
        Ok(wanted) => wanted,
        Err(error) => return fail(error, FAILED),
    };
    wanted.retain(|wanted| names.is_empty() || names.iter().any(|name| is_below(&name_of(wanted), name)));
    if json {
        wanted.iter().for_each(|wanted| println!("{}", object(wanted)));
    } else if wanted.is_empty() {
        println!("nothing is missing");
    } else {
        print!("{}", table(&wanted, SystemClock.unix_millis()));
    }
    ExitCode::SUCCESS
}

/// The name by which it was asked for.
fn name_of(wanted: &Wanted) -> String {
    let Wanted { upstream, repository, reference, .. } = wanted;
    match reference {
        Reference::Tag(tag) => format!("{upstream}/{repository}:{tag}"),
        Reference::Digest(digest) => format!("{upstream}/{repository}@{digest}"),
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Manifest => "manifest",
        Kind::Blob => "blob",
    }
}

fn object(wanted: &Wanted) -> serde_json::Value {
    json!({
        "name": name_of(wanted),
        "kind": word(wanted.kind),
        "upstream": wanted.upstream.as_str(),
        "repository": wanted.repository.as_str(),
        "reference": wanted.reference.to_string(),
        "times": wanted.times,
        "first_asked_at": wanted.first_at / 1000,
        "last_asked_at": wanted.last_at / 1000,
    })
}

fn table(wanted: &[Wanted], now: i64) -> String {
    let mut rows = vec![["WANTED", "KIND", "TIMES", "FIRST", "LAST"].map(str::to_owned)];
    rows.extend(wanted.iter().map(|wanted| {
        let (first, last) = (ago(Some(wanted.first_at), now), ago(Some(wanted.last_at), now));
        [name_of(wanted), word(wanted.kind).to_owned(), wanted.times.to_string(), first, last]
    }));
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_what_is_to_be_brought() {
        let wanted = Wanted {
            upstream: "docker.io".parse().unwrap(),
            repository: "library/alpine".parse().unwrap(),
            kind: Kind::Manifest,
            reference: "3.20".parse().unwrap(),
            first_at: 0,
            last_at: 7_200_000,
            times: 4,
        };
        let expected = "\
            WANTED                         KIND      TIMES  FIRST    LAST\n\
            docker.io/library/alpine:3.20  manifest  4      4 h ago  2 h ago\n";
        assert_eq!(table(&[wanted], 4 * 3_600_000), expected);
    }
}
