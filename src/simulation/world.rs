//! One schedule, run from its first start to its last stop.

mod judgement;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::client::Site;
use super::clock::SimulatedClock;
use super::dice::Dice;
use super::disk::{Disk, Mount, Trouble};
use super::journal::Journal;
use super::machine::{self, Home};
use super::registry::Registry;
use super::schedule::{End, Run, Schedule, Tagging};
use crate::oci::Digest;
use crate::store::Store;
use crate::util::simulated::Simulated;

/// What a schedule came to.
pub(super) struct Report {
    /// Of all events: the same for every run of a seed.
    pub(super) hash: u64,
    pub(super) violations: Vec<String>,
    /// If it was told to keep them.
    pub(super) events: Vec<String>,
}

/// Runs the schedule of `seed`.
pub(super) fn run(seed: u64, keeps_events: bool) -> Report {
    let mut dice = Dice::new(seed);
    let schedule = Schedule::roll(&mut dice);
    let clock = Arc::new(SimulatedClock::new());
    let journal = Journal::new(Arc::clone(&clock), keeps_events);
    journal.note(format_args!("{schedule:#?}"));
    let registry = Registry::new(schedule.network.clone(), &schedule.holdings, dice.fork(), journal.clone());
    let disk = Disk::new(dice.fork(), Arc::clone(&clock), journal.clone());
    let mut world = World {
        dice,
        schedule,
        clock,
        journal: journal.clone(),
        registry,
        disk,
        home: Home::new(),
        has_failed: false,
        at_rest: HashSet::new(),
        parts: HashMap::new(),
    };
    for tagging in world.schedule.tags.clone() {
        world.tag(&tagging);
    }
    world.live();
    Report { hash: journal.hash(), violations: journal.violations(), events: journal.lines() }
}

struct World {
    dice: Dice,
    schedule: Schedule,
    clock: Arc<SimulatedClock>,
    journal: Journal,
    registry: Registry,
    disk: Arc<Disk>,
    home: Home,
    /// An operation of the disk has failed at some time.
    has_failed: bool,
    /// The blobs that were at rest at the last start.
    at_rest: HashSet<Digest>,
    /// How many bytes there were for certain of others.
    parts: HashMap<Digest, u64>,
}

/// What is to come after a run's clients are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Stop,
    /// Nothing goes wrong any more: everybody is served, and all is kept.
    Fair,
    /// The upstream is gone: everybody is served.
    Dark,
}

impl World {
    fn live(&mut self) {
        let mut runs = std::mem::take(&mut self.schedule.runs);
        let last = runs.pop().expect("there is one at least");
        for run in runs {
            self.run(&run, After::Stop);
        }
        self.run(&last, After::Fair);
        // What could not be written when the disk failed is in memory at best: the next start asks for it again.
        if self.has_failed {
            let run = Run::quiet(&mut self.dice);
            self.run(&run, After::Fair);
        }
        let run = Run::quiet(&mut self.dice);
        self.run(&run, After::Dark);
    }

    /// The machine starts, runs and stops.
    fn run(&mut self, run: &Run, after: After) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let simulated = Simulated::begin(self.dice.roll());
        runtime.block_on(async {
            self.clock.start();
            self.journal.note("the machine starts");
            self.operate(run, after).await;
        });
        // What is torn down from here on happens in no order, and to no effect.
        self.disk.cut_power();
        drop(simulated);
        drop(runtime);
        let (stop, fate) = run.stop;
        self.home.leave(fate);
        self.journal.close(false);
        self.check_accounts();
        self.has_failed |= self.disk.failures() > 0;
        self.journal.note(format_args!("the catalog: {fate:?}"));
        self.disk.settle(stop);
        self.clock.stop(run.off);
        self.check_disk();
        self.look_at_parts(stop);
    }

    async fn operate(&self, run: &Run, after: After) {
        let step = match run.end {
            End::AtStep(step) => Some(step),
            End::Served | End::At(_) => None,
        };
        let (disk, root) = (&self.disk, self.home.path());
        let mount = disk.mount(&root, step, self.home.copier());
        disk.hold_threads(run.walk_waits.is_some());
        let Some(store) = self.open(&root, &mount) else { return };
        match run.walk_waits {
            Some(after) => {
                let (disk, store) = (Arc::clone(disk), store.clone());
                tokio::spawn(async move {
                    sleep(after).await;
                    disk.hold_threads(false);
                    walked(&store);
                });
            }
            None => walked(&store),
        }
        let (mirror, places) = machine::mirror(store, &self.schedule, &self.registry, &self.clock, &self.journal);
        let site = Site {
            mirror,
            places: Arc::new(places),
            registry: self.registry.clone(),
            journal: self.journal.clone(),
            disk: Arc::clone(&self.disk),
            is_fair: self.schedule.is_fair,
        };
        self.let_weather_change(run);
        let mut clients = JoinSet::new();
        for client in &run.clients {
            clients.spawn(client.clone().run(site.clone()));
        }
        let served = async {
            while let Some(ended) = clients.join_next().await {
                if let Err(panic) = ended {
                    self.journal.violation(format_args!("a request panicked: {panic}"));
                }
            }
            match after {
                After::Stop => {}
                After::Fair => self.check_fair(&site).await,
                After::Dark => self.check_dark(&site).await,
            }
        };
        let stops = async {
            match run.end {
                End::At(after) => sleep(after).await,
                End::Served | End::AtStep(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = mount.power_failed.notified() => {}
            () = stops => {}
            () = served => {}
        }
    }

    /// Opens the store: P2. Only a disk that fails, or has no power, is an excuse.
    fn open(&self, root: &Path, mount: &Arc<Mount>) -> Option<Store> {
        let mut failures = self.disk.failures();
        for _ in 0..3 {
            match machine::open(root.to_owned(), Arc::clone(mount), &self.clock, self.schedule.max_bytes) {
                Ok(store) => return Some(store),
                Err(error) => {
                    self.journal.note(format_args!("the store does not open: {error}"));
                    if self.disk.is_off(mount) {
                        return None;
                    }
                    if self.disk.failures() == failures {
                        self.journal.violation(format_args!("P2: the store does not open: {error}"));
                    }
                    failures = self.disk.failures();
                    self.disk.set_trouble(Trouble::default());
                }
            }
        }
        self.journal.violation("P2: the store does not open");
        None
    }

    fn let_weather_change(&self, run: &Run) {
        for (at, tagging) in run.moves.clone() {
            let (registry, repository) = (self.registry.clone(), self.schedule.holdings[tagging.place].0.clone());
            tokio::spawn(async move {
                sleep(at).await;
                registry.tag(&repository, &tagging.tag, tagging.image);
            });
        }
        for (at, lasts, refuses) in run.outages.clone() {
            let registry = self.registry.clone();
            tokio::spawn(async move {
                sleep(at).await;
                registry.set_down(Some(refuses));
                sleep(lasts).await;
                registry.set_down(None);
            });
        }
        for (at, lasts, trouble) in run.disk.clone() {
            let disk = Arc::clone(&self.disk);
            tokio::spawn(async move {
                sleep(at).await;
                disk.set_trouble(trouble);
                sleep(lasts).await;
                disk.set_trouble(Trouble::default());
            });
        }
    }

    fn tag(&self, tagging: &Tagging) {
        self.registry.tag(&self.schedule.holdings[tagging.place].0, &tagging.tag, tagging.image);
    }
}

/// Waits until the walk through the folder has ended. It has a thread of its own, which is all that runs meanwhile.
fn walked(store: &Store) {
    while store.stats().walking {
        std::thread::sleep(Duration::from_micros(20));
    }
}
