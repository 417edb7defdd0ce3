//! Starts of `larder serve` after every way in which the last run may have ended, and every state in which it may have left the
//! catalog: how soon the first hit is served, how long hits take while the catalog is made anew, and what it all takes in memory.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rusqlite::Connection;

use crate::dice::Dice;
use crate::figures::Times;
use crate::folder::{Folder, Image};
use crate::server::Server;

/// How long a run goes on that is killed before its catalog agrees with the folder.
const CUT_SHORT: Duration = Duration::from_secs(5);

/// How many images are pulled from a server that has nothing else to do, for what it takes in memory.
const PULLS: u64 = 10_000;

/// The pause after each pull while the catalog is made anew: so that what is measured is not how much two clients take from one
/// another.
const PAUSE: Duration = Duration::from_millis(2);

/// What a start found, and what came of it.
#[derive(Clone)]
pub(crate) struct Start {
    pub(crate) state: &'static str,
    /// From the start of the process to the end of the first pull: a manifest by its tag, and a blob.
    pub(crate) first_pull: Duration,
    /// From there to the catalog's agreement with the folder, unless the run was killed before.
    pub(crate) settled: Option<Duration>,
    /// Pulls in between.
    pub(crate) pulls: Times,
    /// Bytes.
    pub(crate) peak_memory: u64,
}

/// How a run ends.
enum End {
    /// In order, when the catalog agrees with the folder.
    Stopped,
    /// By SIGKILL, when it does.
    Killed,
    /// By SIGKILL, before it does.
    CutShort,
}

struct Stage<'a> {
    folder: &'a Folder,
    scratch: &'a Path,
    dice: Dice,
    starts: Vec<Start>,
}

/// All starts on a folder that has no catalog yet. It has one in the end.
pub(crate) fn measure(folder: &Folder, scratch: &Path) -> Result<Vec<Start>> {
    let mut stage = Stage { folder, scratch, dice: Dice::new(1), starts: Vec::new() };
    stage.run("deleted", End::Stopped)?;
    let good = scratch.join("catalog.good");
    fs::copy(folder.catalog(), &good)?;
    stage.run("as it was left by a stop", End::Killed)?;
    stage.run("as it was left by a kill", End::Stopped)?;

    stage.set_catalog(&good)?;
    Connection::open(folder.catalog())?.execute_batch("PRAGMA user_version = 9999; PRAGMA wal_checkpoint(TRUNCATE)")?;
    stage.run("from a newer version", End::CutShort)?;
    stage.run("half made, and left by a kill", End::CutShort)?;

    stage.set_catalog(&good)?;
    scribble(&folder.catalog(), |_| 0..4096)?;
    stage.run("no database any more", End::CutShort)?;

    stage.set_catalog(&good)?;
    scribble(&folder.catalog(), |size| size / 2..size / 2 + size / 8)?;
    stage.run("an eighth overwritten", End::Stopped)?;

    stage.pull_much()?;
    stage.set_catalog(&good)?;
    fs::remove_file(&good)?;
    Ok(stage.starts)
}

impl Stage<'_> {
    fn run(&mut self, state: &'static str, end: End) -> Result<()> {
        eprintln!("  {state}");
        let mut server = Server::start(&self.folder.dir, self.scratch)?;
        let mut client = server.connect()?;
        client.pull(self.any_image(), 0).with_context(|| format!("the first pull failed, the catalog {state}"))?;
        let first_pull = server.age();
        let (served, mut pulls) = (Instant::now(), Times::default());
        let settled = loop {
            if server.is_settled() {
                break Some(served.elapsed());
            }
            if matches!(end, End::CutShort) && served.elapsed() > CUT_SHORT {
                break None;
            }
            let begun = Instant::now();
            client.pull(self.any_image(), 3).with_context(|| format!("a pull failed, the catalog {state}"))?;
            pulls.add(begun.elapsed());
            sleep(PAUSE);
        };
        let peak_memory = server.peak_memory()?;
        match end {
            End::Stopped => server.stop()?,
            End::Killed | End::CutShort => server.kill()?,
        }
        self.starts.push(Start { state, first_pull, settled, pulls, peak_memory });
        Ok(())
    }

    /// A run that is asked for many images, one after the other, when its catalog agrees with the folder.
    fn pull_much(&mut self) -> Result<()> {
        let state = "pulls of 10,000 images at random";
        eprintln!("  {state}");
        let mut server = Server::start(&self.folder.dir, self.scratch)?;
        let mut client = server.connect()?;
        client.pull(self.any_image(), 0)?;
        let first_pull = server.age();
        server.await_settled()?;
        let mut pulls = Times::default();
        for _ in 0..PULLS {
            let begun = Instant::now();
            client.pull(self.any_image(), 5)?;
            pulls.add(begun.elapsed());
        }
        self.starts.push(Start { state, first_pull, settled: None, pulls, peak_memory: server.peak_memory()? });
        server.stop()
    }

    fn any_image(&mut self) -> Image {
        Image(self.dice.below(self.folder.images()))
    }

    /// Puts a copy in the catalog's place, and removes what has been set aside.
    fn set_catalog(&self, good: &Path) -> Result<()> {
        for entry in fs::read_dir(&self.folder.dir)? {
            let path: PathBuf = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("catalog.sqlite")) {
                fs::remove_file(path)?;
            }
        }
        fs::copy(good, self.folder.catalog()).map(drop).context("the catalog cannot be put back")
    }
}

/// Overwrites some of a file, given its size.
fn scribble(path: &Path, place: impl FnOnce(u64) -> std::ops::Range<u64>) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let place = place(file.metadata()?.len());
    let length = usize::try_from(place.end - place.start)?;
    file.write_all_at(&vec![0xa5; length], place.start).context("the catalog cannot be overwritten")
}
