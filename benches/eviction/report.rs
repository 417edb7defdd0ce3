//! Tables in Markdown, as `docs/eviction.md` has them.

use super::bound;
use super::contenders::{Contender, LARDER, Stage};
use super::replay::Outcome;
use super::workload::{BEFORE_LAYERS, Kind};

/// Capacities, as shares of all bytes that are asked for.
const CAPACITIES: [f64; 4] = [0.01, 0.05, 0.10, 0.20];

/// A workload by name.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) stage: Stage,
}

/// What the traces are like, one column each.
pub(crate) fn traces(workloads: &[Workload]) {
    print!("| |");
    workloads.iter().for_each(|workload| print!(" {} |", workload.name));
    println!("\n|---|{}", "--:|".repeat(workloads.len()));
    let columns: Vec<Vec<(&str, String)>> = workloads.iter().map(|workload| properties(&workload.stage)).collect();
    for row in 0..columns[0].len() {
        let cells: Vec<&str> = columns.iter().map(|column| column[row].1.as_str()).collect();
        println!("| {} | {} |", columns[0][row].0, cells.join(" | "));
    }
    println!();
}

fn properties(stage: &Stage) -> Vec<(&'static str, String)> {
    let trace = &stage.trace;
    let mut counts = vec![0u64; trace.objects.len()];
    trace.requests.iter().for_each(|request| counts[request.object as usize] += 1);
    let contents = counts.iter().filter(|count| **count > 0).count();
    let asked = trace.objects.iter().zip(&counts).filter(|(object, count)| **count > 0 && object.kind == Kind::Blob);
    let blobs: Vec<(u64, u64)> = asked.map(|(object, count)| (object.size, *count)).collect();
    let below = |size| share(blobs.iter().filter(|(bytes, _)| *bytes < size).count(), blobs.len());
    let mut by_count: Vec<u64> = blobs.iter().map(|(_, count)| *count).collect();
    by_count.sort_unstable_by(|one, other| other.cmp(one));
    let top: u64 = by_count.iter().take(by_count.len() / 100).sum();
    let top = top as f64 / by_count.iter().sum::<u64>() as f64;
    let layers = quantiles(trace.images.iter().map(|image| (image.len() - BEFORE_LAYERS) as u64).collect());
    let images = quantiles(trace.images.iter().map(|image| image.iter().map(|object| trace.size(*object)).sum()).collect());
    let unlimited = bound::Unlimited::outcome(trace);
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    vec![
        ("requests", trace.requests.len().to_string()),
        ("contents", contents.to_string()),
        ("… asked for once", percent(share(counts.iter().filter(|count| **count == 1).count(), contents))),
        ("TB asked for", format!("{:.1}", unlimited.bytes as f64 / 1e12)),
        ("TB of contents", format!("{:.2}", stage.footprint as f64 / 1e12)),
        ("blobs below 1 MB", percent(below(1_000_000))),
        ("blobs below 10 MB", percent(below(10_000_000))),
        ("layers of an image: median, p90", format!("{}, {}", layers.0, layers.1)),
        ("MB of an image: median, p90", format!("{:.0}, {:.0}", images.0 as f64 / 1e6, images.1 as f64 / 1e6)),
        ("requests for the top 1 % of blobs", percent(top)),
        ("hit ratios if all is kept", ratios(&unlimited)),
    ]
}

/// What a row is called, and what is in it, by capacity.
struct Row {
    name: &'static str,
    cells: Vec<String>,
}

/// Some contenders on one trace, and what the best of them, or any other policy, could reach.
pub(crate) struct Comparison {
    outcomes: Vec<(&'static str, Vec<Outcome>)>,
    byte_bounds: Vec<f64>,
    bytes: f64,
}

impl Comparison {
    pub(crate) fn of(stage: &Stage, contenders: &[Contender]) -> Self {
        let capacities = CAPACITIES.map(|share| (stage.footprint as f64 * share) as u64);
        let outcomes = contenders.iter().map(|contender| {
            eprintln!("  {}", contender.name);
            (contender.name, capacities.map(|capacity| (contender.replay)(stage, capacity)).to_vec())
        });
        let outcomes = outcomes.collect();
        let byte_bounds = capacities.map(|capacity| bound::byte_hit_ratio(&stage.trace, &stage.next, capacity)).to_vec();
        Self { outcomes, byte_bounds, bytes: bound::Unlimited::outcome(&stage.trace).bytes as f64 }
    }

    /// Object and byte hit ratios, and how near Larder comes to the bound.
    pub(crate) fn ratios(&self, title: &str) {
        let mut rows = self.rows(ratios);
        rows.push(self.bound("any policy, at most", |bound| format!("– / {bound:.3}")));
        for (_, larder) in self.outcomes.iter().filter(|(name, _)| *name == LARDER.name) {
            let reached = larder.iter().zip(&self.byte_bounds);
            let cells = reached.map(|(outcome, bound)| format!("– / {:.3}", outcome.byte_hit_ratio() / bound)).collect();
            rows.push(Row { name: "Larder ÷ that", cells });
        }
        print(title, &rows);
    }

    pub(crate) fn upstream(&self) {
        let mut rows = self.rows(|outcome| format!("{:.2}", outcome.upstream_bytes() as f64 / 1e12));
        rows.push(self.bound("any policy, at least", |bound| format!("{:.2}", (1.0 - bound) * self.bytes / 1e12)));
        print("TB from the upstream", &rows);
    }

    pub(crate) fn whole_pulls(&self) {
        print("pulls that need nothing from the upstream", &self.rows(|outcome| format!("{:.3}", outcome.whole_pull_ratio())));
    }

    fn rows(&self, cell: impl Fn(&Outcome) -> String) -> Vec<Row> {
        let row = |(name, outcomes): &(&'static str, Vec<Outcome>)| Row { name, cells: outcomes.iter().map(&cell).collect() };
        self.outcomes.iter().map(row).collect()
    }

    fn bound(&self, name: &'static str, cell: impl Fn(&f64) -> String) -> Row {
        Row { name, cells: self.byte_bounds.iter().map(cell).collect() }
    }
}

fn print(title: &str, rows: &[Row]) {
    print!("| {title} |");
    CAPACITIES.iter().for_each(|share| print!(" {:.0} % |", share * 100.0));
    println!("\n|---|{}", "--:|".repeat(CAPACITIES.len()));
    for Row { name, cells } in rows {
        println!("| {name} | {} |", cells.join(" | "));
    }
    println!();
}

fn ratios(outcome: &Outcome) -> String {
    format!("{:.3} / {:.3}", outcome.object_hit_ratio(), outcome.byte_hit_ratio())
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

/// The median and the 90th percentile.
fn quantiles(mut values: Vec<u64>) -> (u64, u64) {
    values.sort_unstable();
    (values[values.len() / 2], values[values.len() * 9 / 10])
}
