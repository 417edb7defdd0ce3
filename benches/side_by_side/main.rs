//! The benchmark of Larder beside its peers: nginx and docker-registry cache the same upstream on the same machine, and all
//! are measured in turn. It prints what it measured, and whether that is what was aimed at; where a target is missed it exits with 1.
//! It talks to nobody beyond the loopback interface.

mod client;
mod content;
mod load;
mod machine;
mod process;
mod results;
mod scenarios;
mod servers;
mod tls;
mod upstream;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use content::Plan;
use results::Results;
use scenarios::{SCENARIOS, Stage};
use servers::Programs;
use upstream::Upstream;

/// Measures Larder, nginx and docker-registry side by side, and prints a table.
#[derive(Parser)]
struct Options {
    /// Measures only what has one of these words in its name: hot-blob, hot-tls, hot-manifest-by-digest, hot-manifest-by-tag,
    /// hot-manifest-at-a-rate, hot-manifest-connections, hot-mixed, cold-fast, cold-wan, cold-blob-limited-link,
    /// cold-blob-limited-connections, herd, large-herd, crowd.
    filter: Vec<String>,
    /// Fewer rounds of smaller content: to see that everything works, not how well.
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` adds to every benchmark's arguments.
    #[arg(long, hide = true)]
    bench: bool,
    /// Is the upstream of another process that runs this benchmark.
    #[arg(long, hide = true)]
    as_upstream: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("side_by_side: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let plan = if options.quick { Plan::quick() } else { Plan::full() };
    if options.as_upstream {
        return upstream::serve(&plan);
    }
    let chosen: Vec<_> = SCENARIOS.iter().filter(|scenario| is_wanted(scenario.name, &options.filter)).collect();
    ensure!(!chosen.is_empty(), "nothing has one of {:?} in its name", options.filter);

    let programs = Programs::find()?;
    println!("{}\n{}\n", programs.versions()?, machine::describe());
    let scratch = tempfile::tempdir_in(scratch_root()).context("no folder for the caches")?;
    let stage = Stage { upstream: Upstream::start(options.quick)?, programs, scratch: scratch.path().to_owned(), plan };
    let mut results = Results::default();
    for scenario in chosen {
        eprintln!("{}", scenario.name);
        (scenario.run)(&stage, &mut results).with_context(|| format!("{} was not measured", scenario.name))?;
    }
    print!("{}", results.table());
    if stage.plan.has_targets {
        let (table, missed) = results.targets();
        print!("{table}");
        ensure!(missed == 0, "{missed} targets were missed");
    }
    Ok(())
}

fn is_wanted(name: &str, filter: &[String]) -> bool {
    filter.is_empty() || filter.iter().any(|word| name.contains(word.as_str()))
}

/// The folder that cargo keeps for tests and benchmarks: on the disk that the build is on, not in memory.
fn scratch_root() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}
