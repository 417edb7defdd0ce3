//! The benchmark of scale: the same folder with a thousand contents and with a million, started from after every kind of end, and
//! asked for the same things. It prints what it measured, and fails where that is not what was promised.

mod dice;
mod figures;
mod folder;
#[path = "../side_by_side/machine.rs"]
mod machine;
mod operations;
mod report;
mod server;
mod starts;
mod unsynced;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser;

use figures::short;
use folder::Folder;
use server::Server;

/// Contents of the folder that the other one is compared with.
const FEW: u64 = 1000;

/// Measures a cache with a thousand contents beside one with a million, and prints tables.
#[derive(Parser)]
struct Options {
    /// How many contents the large folder has, a multiple of ten. A million take 6 GB of disk and 1.3 million inodes for a while.
    #[arg(long, default_value_t = 1_000_000)]
    contents: u64,
    /// Where the folders are made, and removed from in the end. By default on the disk that the build is on.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// What `cargo bench` adds to every benchmark's arguments.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("scale: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells whether all is as promised.
fn run(options: &Options) -> Result<bool> {
    println!("{}\n", machine::describe());
    let root = options.dir.clone().unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    let scratch = tempfile::tempdir_in(&root).with_context(|| format!("no folder for the caches in {}", root.display()))?;
    let (small, large) = (make(scratch.path(), "small", FEW)?, make(scratch.path(), "large", options.contents)?);
    let starts = [&small, &large].map(|folder| {
        eprintln!("starts with {} contents, the catalog", folder.contents);
        starts::measure(folder, scratch.path())
    });
    let [starts_of_small, starts_of_large] = starts;
    let (starts_of_small, starts_of_large) = (starts_of_small?, starts_of_large?);
    println!("{}", report::starts(small.contents, &starts_of_small));
    println!("{}", report::starts(large.contents, &starts_of_large));
    eprintln!("a catalog made anew");
    let rebuild = operations::measure_rebuild(&large)?;
    println!("{}", report::rebuild(&rebuild));
    eprintln!("operations");
    let operations = operations::measure(&small, &large)?;
    println!("{}", report::operations([&small, &large], &operations));
    let promises = report::promises(&[starts_of_small, starts_of_large].concat(), &operations, &rebuild);
    println!("{}", report::judgement(&promises));
    Ok(promises.iter().all(|promise| promise.is_kept))
}

/// A folder with so many contents, and no catalog.
fn make(scratch: &Path, name: &str, contents: u64) -> Result<Folder> {
    let (dir, begun) = (scratch.join(name), Instant::now());
    // One that has nothing to do makes the folder what it has to be.
    let mut server = Server::start(&dir, scratch)?;
    server.connect()?;
    server.await_settled()?;
    server.stop()?;
    let folder = Folder::fill(&dir, contents)?;
    fs::remove_file(folder.catalog())?;
    eprintln!("made {contents} contents in {}", short(begun.elapsed()));
    Ok(folder)
}
