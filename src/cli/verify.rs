//! `larder verify`: reads all that is cached again, in the folder alone or by way of the server that has it, and says what was wrong.

use std::collections::VecDeque;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::{FutureExt, Stream, StreamExt, future, stream};
use http::Method;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::banner::amount;
use super::errand::{self, Cache, Keeper};
use super::{FAILED, fail, load};
use crate::config::Config;
use crate::server::{Tool, ToolAnswer};
use crate::store::{Store, Verdict, Verified};

/// Where it is asked for on the admin listener.
const PATH: &str = "/verify";

/// Something that is cached was not what it should be. It is gone now.
const FOUND_DAMAGE: u8 = 1;

/// How often it is told how far it has come.
const PROGRESS: Duration = Duration::from_secs(1);

/// The longest line of a server's answer.
const LINE_MAX_BYTES: usize = 1024;

/// A line of what is told. The last one is [`Line::Done`]: without it, something came between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    /// This content was not what its name says, and was removed.
    Damaged {
        digest: String,
        size: u64,
    },
    /// So much was looked at by now.
    Progress(Totals),
    Done(Totals),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Totals {
    contents: u64,
    bytes: u64,
    damaged: u64,
}

pub(super) fn run(file: Option<&Path>, json: bool) -> ExitCode {
    let config = match load(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match errand::block_on(&config, verify(&config, json)) {
        Ok(Totals { damaged: 0, .. }) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(FOUND_DAMAGE),
        Err(error) => fail(format_args!("{error:#}"), FAILED),
    }
}

async fn verify(config: &Config, json: bool) -> anyhow::Result<Totals> {
    let mut lines = match Cache::open(config).await? {
        Cache::Here(keeper) => lines(&keeper.store).map(Ok).boxed(),
        Cache::At(address) => lines_of(errand::ask(address, Method::POST, PATH, String::new()).await?).boxed(),
    };
    while let Some(line) = lines.next().await {
        let line = line?;
        if json {
            println!("{line}");
        }
        match serde_json::from_str(&line).context("the server answers in words of another version")? {
            Line::Damaged { digest, size } if !json => println!("{digest} ({}) was damaged, and is removed", amount(size)),
            Line::Done(totals) => {
                if !json {
                    println!("{}", summary(totals));
                }
                return Ok(totals);
            }
            Line::Damaged { .. } | Line::Progress(_) => {}
        }
    }
    bail!("it ended before all was looked at")
}

fn summary(totals: Totals) -> String {
    let Totals { contents, bytes, damaged } = totals;
    let verdict = match damaged {
        0 => "all is as it should be".to_owned(),
        1 => "one was damaged; it is fetched again when it is asked for".to_owned(),
        _ => format!("{damaged} were damaged; they are fetched again when they are asked for"),
    };
    format!("{contents} contents, {}: {verdict}", amount(bytes))
}

/// Verifies all that is in `store`, and tells about it line by line (JSON).
fn lines(store: &Store) -> impl Stream<Item = String> + Send + 'static + use<> {
    let verified = store.verify_all().map(Some).chain(stream::once(async { None }));
    let state = (Totals::default(), Instant::now());
    let lines = verified.scan(state, |(totals, told), verified| {
        let lines = match verified {
            Some(verified) => {
                let mut lines = Vec::new();
                if let Some(line) = totals.add(&verified) {
                    lines.push(line);
                }
                if told.elapsed() >= PROGRESS {
                    *told = Instant::now();
                    lines.push(Line::Progress(*totals));
                }
                lines
            }
            None => vec![Line::Done(*totals)],
        };
        future::ready(Some(stream::iter(lines)))
    });
    lines.flatten().map(|line| serde_json::to_string(&line).expect("numbers and a digest are JSON"))
}

impl Totals {
    fn add(&mut self, verified: &Verified) -> Option<Line> {
        let Verified { digest, size, verdict } = *verified;
        match verdict {
            // It was evicted meanwhile.
            Verdict::Absent => return None,
            Verdict::Right => {}
            Verdict::Removed => self.damaged += 1,
        }
        self.contents += 1;
        self.bytes += size;
        (verdict == Verdict::Removed).then(|| Line::Damaged { digest: digest.to_string(), size })
    }
}

/// The lines of a server's answer.
fn lines_of(body: Incoming) -> impl Stream<Item = anyhow::Result<String>> + Send {
    let state = (body, Vec::new(), VecDeque::new());
    stream::try_unfold(state, |(mut body, mut rest, mut lines)| async move {
        loop {
            if let Some(line) = lines.pop_front() {
                return Ok(Some((line, (body, rest, lines))));
            }
            let Some(frame) = errand::next_frame(&mut body).await.transpose()? else { return Ok(None) };
            rest.extend_from_slice(&frame);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                lines.push_back(String::from_utf8(line)?.trim_end().to_owned());
            }
            if rest.len() > LINE_MAX_BYTES {
                bail!("a line of its answer is too long");
            }
        }
    })
}

/// For the admin listener.
pub(super) fn tool(keeper: &Keeper) -> Tool {
    let store = keeper.store.clone();
    let answer = move |_| future::ready(ToolAnswer::Lines(lines(&store).boxed())).boxed();
    Tool { path: PATH, is_safe: false, answer: Arc::new(answer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_they_mean() {
        let line = serde_json::to_string(&Line::Done(Totals { contents: 2, bytes: 10, damaged: 0 })).unwrap();
        assert_eq!(line, r#"{"done":{"contents":2,"bytes":10,"damaged":0}}"#);
        assert_eq!(summary(Totals { contents: 2, bytes: 10, damaged: 0 }), "2 contents, 10 B: all is as it should be");
    }
}
