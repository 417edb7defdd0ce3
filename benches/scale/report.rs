//! What was measured as tables, and held against what was promised. It decides nothing but that.

use std::fmt::Write as _;
use std::time::Duration;

use crate::figures::short;
use crate::folder::Folder;
use crate::operations::{Operation, Promised, Rebuild};
use crate::starts::Start;

/// The first hit is served within this time after the start, and nobody waits longer for a catalog that is made anew.
const SOON: Duration = Duration::from_secs(1);

/// No more memory is resident than this, in bytes.
const MEMORY: u64 = 200 << 20;

/// How much more an operation may take in the large folder than in the small one: a tree of a million rows has two levels more than
/// one of a thousand, and does not fit any cache of the processor; and both are measured on a machine that has other things to do.
const SAME: f64 = 3.0;

/// Something that was promised.
pub(crate) struct Promise {
    text: String,
    pub(crate) is_kept: bool,
}

pub(crate) fn starts(contents: u64, starts: &[Start]) -> String {
    let mut table = format!(
        "| {contents} contents, the catalog | first pull | in agreement after | pulls until then: median | 99 % | longest | peak memory |\n\
         |---|--:|--:|--:|--:|--:|--:|\n"
    );
    for Start { state, first_pull, settled, pulls, peak_memory } in starts {
        let [median, most, longest] = [50, 99, 100].map(|percent| short(pulls.percentile(percent)));
        let settled = settled.map_or_else(|| "–".to_owned(), short);
        let memory = peak_memory >> 20;
        // Writing to a string does not fail.
        let _ =
            writeln!(table, "| {state} | {} | {settled} | {median} | {most} | {longest} | {memory} MiB |", short(*first_pull));
    }
    table
}

pub(crate) fn operations(folders: [&Folder; 2], operations: &[Operation]) -> String {
    let [small, large] = folders.map(|folder| folder.contents);
    let mut table = format!(
        "| median of each | {small} contents | {large} contents | ratio | longest of each | |\n|---|--:|--:|--:|--:|--:|\n"
    );
    for operation in operations {
        let (few, many) = (short(operation.small.median()), short(operation.large.median()));
        let [longest_few, longest_many] = [&operation.small, &operation.large].map(|times| short(times.percentile(100)));
        let ratio = operation.ratio();
        let _ = writeln!(table, "| {} | {few} | {many} | {ratio:.2} | {longest_few} | {longest_many} |", operation.name);
    }
    table
}

pub(crate) fn rebuild(rebuild: &Rebuild) -> String {
    let Rebuild { duration, look_ups, insertions } = rebuild;
    format!("made anew in {}; look-ups meanwhile: {look_ups}; insertions: {insertions}\n", short(*duration))
}

pub(crate) fn promises(starts: &[Start], operations: &[Operation], rebuild: &Rebuild) -> Vec<Promise> {
    let longest = |times: &mut dyn Iterator<Item = Duration>| times.max().unwrap_or_default();
    let most = starts.iter().map(|start| start.peak_memory).max().unwrap_or_default();
    let mut promises = vec![
        Promise::within("the first pull after a start", longest(&mut starts.iter().map(|start| start.first_pull)), SOON),
        Promise { text: format!("resident memory: {} MiB at most, of {} MiB", most >> 20, MEMORY >> 20), is_kept: most < MEMORY },
        Promise::within(
            "99 % of the pulls while a catalog is made anew",
            longest(&mut starts.iter().map(|start| start.pulls.percentile(99))),
            SOON,
        ),
        Promise::within("99 % of the insertions meanwhile", rebuild.insertions.percentile(99), SOON),
    ];
    promises.extend(operations.iter().map(|operation| match operation.promised {
        Promised::Same => Promise {
            text: format!("{}: {:.2} times as long as with few, of {SAME}", operation.name, operation.ratio()),
            is_kept: operation.ratio() < SAME,
        },
        Promised::Within(most) => Promise::within(operation.name, operation.large.percentile(100), most),
    }));
    promises
}

pub(crate) fn judgement(promises: &[Promise]) -> String {
    let line = |promise: &Promise| format!("{} {}\n", if promise.is_kept { "kept  " } else { "MISSED" }, promise.text);
    promises.iter().map(line).collect()
}

impl Promise {
    fn within(what: &str, time: Duration, most: Duration) -> Self {
        Self { text: format!("{what}: {} at most, of {}", short(time), short(most)), is_kept: time < most }
    }
}

impl Operation {
    fn ratio(&self) -> f64 {
        self.large.median().as_secs_f64() / self.small.median().as_secs_f64().max(1e-9)
    }
}
