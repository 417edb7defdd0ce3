//! What is measured, by name, and what all of it has in common: servers that are started, asked in turn and weighed.
//! How each thing is measured is in the modules below.

mod cold_blob;
mod cold_pull;
mod crowd;
mod herd;
mod hot_blob;
mod hot_manifest;
mod hot_mixed;
mod hot_tls;

use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use crate::content::Plan;
use crate::results::{Bound, Figure, Results};
use crate::servers::{Cache, Programs, Server, Subject};
use crate::upstream::{Asked, Upstream};

/// Something that is measured of every server, in rounds.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Stage, &mut Results) -> Result<()>,
}

/// All of them, in the order in which they run.
pub(crate) const SCENARIOS: [Scenario; 14] = [
    Scenario { name: "hot-blob", run: hot_blob::run },
    Scenario { name: "hot-tls", run: hot_tls::run },
    Scenario { name: "hot-manifest-by-digest", run: hot_manifest::by_digest },
    Scenario { name: "hot-manifest-by-tag", run: hot_manifest::by_tag },
    Scenario { name: "hot-manifest-at-a-rate", run: hot_manifest::at_a_rate },
    Scenario { name: "hot-manifest-connections", run: hot_manifest::over_connections },
    Scenario { name: "hot-mixed", run: hot_mixed::run },
    Scenario { name: "cold-fast", run: cold_pull::fast },
    Scenario { name: "cold-wan", run: cold_pull::wan },
    Scenario { name: "cold-blob-limited-link", run: cold_blob::limited_link },
    Scenario { name: "cold-blob-limited-connections", run: cold_blob::limited_connections },
    Scenario { name: "herd", run: herd::run },
    Scenario { name: "large-herd", run: herd::large },
    Scenario { name: "crowd", run: crowd::run },
];

/// What scenarios play on.
pub(crate) struct Stage {
    pub(crate) upstream: Upstream,
    pub(crate) programs: Programs,
    /// The folder for the servers' folders.
    pub(crate) scratch: PathBuf,
    pub(crate) plan: Plan,
}

/// The memory of a server and its children.
const MEMORY: Figure = Figure::less("memory, MB", 1);
/// The most that it has been.
const PEAK: Figure = Figure::less("peak memory, MB", 1);
/// 20 MiB.
const IDLE_MAX_MB: f64 = 20.97;

/// How long a server must be still to count as done, and how often that is looked for.
const STILL: Duration = Duration::from_millis(250);

/// What work cost a server, when all of it is done: what clients wait for, and what comes after.
struct Cost {
    cpu: Duration,
    asked: Asked,
}

impl Stage {
    /// Starts a cache, empty, and notes what it weighs.
    fn start(&self, cache: Cache, results: &mut Results) -> Result<Server> {
        let server = Server::start(cache, &self.programs, &self.upstream, &self.scratch)?;
        self.settle(Some(&server))?;
        self.weigh("idle", &server, results)?;
        results.aim("idle", MEMORY, Bound::Most(IDLE_MAX_MB));
        Ok(server)
    }

    /// Starts a server of files that the upstream has at these paths.
    fn start_static(&self, paths: &[String]) -> Result<Server> {
        Server::start_static(&self.programs, &self.upstream, &self.scratch, paths)
    }

    /// Notes what a server weighs.
    fn weigh(&self, conditions: &'static str, server: &Server, results: &mut Results) -> Result<()> {
        results.add(conditions, MEMORY, server.subject, server.process.memory()? as f64 / 1e6);
        Ok(())
    }

    /// Waits until a server and the upstream do nothing more, and says what they have done since they were started or told to
    /// [forget](Upstream::forget).
    fn settle(&self, server: Option<&Server>) -> Result<Cost> {
        let look = || {
            let cpu = server.map_or(Ok(Duration::ZERO), |server| server.process.cpu())?;
            anyhow::Ok(Cost { cpu, asked: self.upstream.asked()? })
        };
        let mut before = look()?;
        loop {
            sleep(STILL);
            let now = look()?;
            // A tick may be anyone's: a timer that runs, a connection that is closed.
            if now.asked == before.asked && now.cpu.saturating_sub(before.cpu) <= Duration::from_millis(10) {
                return Ok(now);
            }
            before = now;
        }
    }
}

/// Things to be measured in a round: each round begins with another, so that none always comes first.
fn in_turn<T>(things: &[T], round: usize) -> impl Iterator<Item = &T> {
    things.iter().cycle().skip(round % things.len().max(1)).take(things.len())
}

/// As [`in_turn`], but docker-registry only in every third round: it takes as long as all the others together.
fn in_turn_but_slow_ones_seldom(caches: &[Cache], round: usize) -> impl Iterator<Item = &Cache> {
    in_turn(caches, round).filter(move |cache| **cache != Cache::DockerRegistry || round.is_multiple_of(3))
}

/// Where a round measures cold: at the upstream itself, or through a new cache.
const COLD: [Option<Cache>; 4] = [None, Some(Cache::Larder), Some(Cache::Nginx), Some(Cache::DockerRegistry)];

fn subject(cache: Option<Cache>) -> Subject {
    cache.map_or(Subject::Direct, Cache::subject)
}

/// The middle one, in milliseconds.
fn median_ms(mut durations: Vec<Duration>) -> f64 {
    durations.sort_unstable();
    durations.get(durations.len() / 2).map_or(f64::NAN, |middle| middle.as_secs_f64() * 1e3)
}

/// In units of 10⁹ bytes.
fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}
