//! One schedule, run from its first start to its last stop, with the judgements that need to see all of it.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::client::{Manner, Site, Unserved, Visit};
use super::clock::SimulatedClock;
use super::dice::Dice;
use super::disk::{Disk, Mount, Stop, Trouble};
use super::journal::Journal;
use super::library::{LIBRARY, short};
use super::machine::{self, Home};
use super::registry::Registry;
use super::schedule::{End, Run, Schedule, Tagging};
use crate::mirror::Want;
use crate::oci::{Algorithm, Digest, Reference};
use crate::store::{PartMap, Store};
use crate::util::simulated::Simulated;

/// After this, nothing is remembered any more of what went wrong: neither by the mirror nor by the fills.
const FORGOTTEN: Duration = Duration::from_secs(301);

/// How long fills that nobody waits for may take to end, in fair weather.
const LANDING: Duration = Duration::from_secs(600);

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
        let (mirror, places) = machine::mirror(store, &self.schedule, &self.registry, &self.clock);
        let site = Site {
            mirror,
            places: Arc::new(places),
            registry: self.registry.clone(),
            journal: self.journal.clone(),
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

    /// When nothing goes wrong any more everybody is served, with what is true now; and all is kept, and nothing left behind.
    async fn check_fair(&self, site: &Site) {
        sleep(Duration::from_secs(60)).await;
        self.registry.end_misfortunes();
        self.registry.set_down(None);
        self.disk.set_trouble(Trouble::default());
        sleep(FORGOTTEN.max(self.schedule.fresh)).await;
        self.pull_everything(site, "after all went well again", true).await;

        let store = site.mirror.store();
        let landed = async {
            while site.mirror.fills().count() > 0 {
                sleep(Duration::from_secs(1)).await;
            }
        };
        if timeout(LANDING, landed).await.is_err() {
            self.journal.violation(format_args!("{} fills never end", site.mirror.fills().count()));
        }
        // Parts are removed behind the back of those who wait.
        sleep(Duration::from_secs(5)).await;
        let stats = store.stats();
        self.journal.note(format_args!("the store: {stats:?}"));
        if stats.bytes + stats.reserved > stats.max_bytes {
            self.journal.violation(format_args!("P6: more than the budget is taken: {stats:?}"));
        }
        if self.disk.failures() > 0 || !self.schedule.is_roomy() {
            return;
        }
        if stats.reserved > 0 {
            self.journal.violation(format_args!("{} bytes stay reserved", stats.reserved));
        }
        let left = self.disk.files("ingest");
        if !left.is_empty() {
            self.journal
                .violation(format_args!("parts are left behind: {:?}", left.iter().map(|(path, _)| path).collect::<Vec<_>>()));
        }
        for digest in self.everything() {
            if store.get(&digest).await.is_none() {
                self.journal.violation(format_args!("{} was fetched and is not in the cache", short(&digest)));
            }
        }
    }

    /// P3: with the upstream gone, what was kept is served, by tag and by digest.
    async fn check_dark(&self, site: &Site) {
        self.registry.set_down(Some(true));
        if self.schedule.is_roomy() {
            self.pull_everything(site, "P3: while the upstream is down", false).await;
        }
    }

    /// Pulls every tag, and every image that no tag has brought, from every repository that has it; and every manifest by its digest.
    async fn pull_everything(&self, site: &Site, when: &str, must_be_current: bool) {
        let mut pulled = HashSet::new();
        for Tagging { place, tag, .. } in &self.schedule.tags {
            let visit = Visit { site, place: &site.places[*place], manner: Manner::Eager };
            let right = LIBRARY.images[self.registry.tagged(&visit.place.repository, tag)].digest;
            match self.pull(&visit, &Reference::Tag(tag.clone())).await {
                Ok(digest) if must_be_current && digest != right => {
                    self.journal.violation(format_args!("{when}, {tag} is {}, not {}", short(&digest), short(&right)));
                }
                Ok(digest) => drop(pulled.insert((*place, digest))),
                Err(unserved) => self.journal.violation(format_args!("{when}, {tag} cannot be pulled: {unserved:?}")),
            }
        }
        for (place, (_, images)) in self.schedule.holdings.iter().enumerate() {
            let visit = Visit { site, place: &site.places[place], manner: Manner::Eager };
            for digest in images.iter().map(|image| LIBRARY.images[*image].digest) {
                let reference = Reference::Digest(digest);
                let got = match pulled.contains(&(place, digest)) {
                    true => visit.manifest(&reference, Want::Body).await,
                    false => self.pull(&visit, &reference).await,
                };
                if let Err(unserved) = got {
                    self.journal.violation(format_args!("{when}, {} cannot be pulled: {unserved:?}", short(&digest)));
                }
            }
        }
    }

    /// Pulls, and again where it turns out that wrong bytes which the upstream has sent are in a part that was kept. That shows once
    /// in each blob.
    async fn pull(&self, visit: &Visit<'_>, reference: &Reference) -> Result<Digest, Unserved> {
        for _ in 0..self.registry.count_tainted() {
            match visit.pull(reference).await {
                Err(Unserved::BadPart) => {}
                got => return got,
            }
        }
        visit.pull(reference).await
    }

    /// All content that is in play.
    fn everything(&self) -> Vec<Digest> {
        let images = self.schedule.holdings[0].1.iter().flat_map(|image| LIBRARY.pulled_with(*image));
        let mut all: Vec<Digest> = images.flat_map(|image| image.blobs.iter().chain([&image.digest])).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// P4: what is at rest is not read again, and what nothing goes wrong with is read once.
    fn check_accounts(&self) {
        let accounts = self.registry.settle_accounts();
        if self.disk.failures() > 0 || !self.schedule.is_roomy() {
            return;
        }
        for (digest, account) in accounts {
            let name = short(&digest);
            if self.at_rest.contains(&digest) && account.bytes > 0 {
                self.journal.violation(format_args!("P4: {name} is at rest and was read again: {account:?}"));
            }
            let size = LIBRARY.bytes(&digest).map_or(0, |bytes| bytes.len() as u64);
            // A manifest is asked for once by each repository that wants it; a blob may be asked for in parts, each of which may
            // end in the middle of what the connection brings at a time.
            let is_manifest = LIBRARY.image(&digest).is_some();
            let part = self.parts.get(&digest);
            let most = match part {
                _ if is_manifest => size * self.schedule.holdings.len() as u64,
                None => size,
                Some(bytes) => size - bytes,
            };
            let waste = if is_manifest { 0 } else { account.reads.saturating_sub(1) * self.registry.largest_chunk() };
            if account.misfortunes == 0 && !self.registry.is_tainted(&digest) && account.bytes > most + waste {
                self.journal
                    .violation(format_args!("P4: {name} of {size} bytes was read more than once: {account:?}, after {part:?}"));
            }
        }
    }

    /// P1 and P2: after every stop, what has a name among the blobs is what the name says.
    fn check_disk(&mut self) {
        self.at_rest.clear();
        for (path, bytes) in self.disk.files("blobs") {
            let name = path.rsplit('/').next().unwrap_or_default();
            let algorithm = Algorithm::ALL.into_iter().find(|algorithm| algorithm.hex_len() == name.len());
            let digest = algorithm.and_then(|algorithm| Digest::from_hex(algorithm, name).ok());
            // Comparing is cheaper than hashing.
            match digest.filter(|digest| LIBRARY.bytes(digest).is_some_and(|right| *right == bytes)) {
                Some(digest) if LIBRARY.image(&digest).is_none() => drop(self.at_rest.insert(digest)),
                Some(_) => {}
                None => self.journal.violation(format_args!("P1: {path} is not what its name says: {} bytes", bytes.len())),
            }
        }
    }

    /// P4: what had arrived when the process was killed is not read again. Notes how much that is.
    fn look_at_parts(&mut self, stop: Stop) {
        self.parts.clear();
        if stop == Stop::PowerLoss {
            return;
        }
        let files: HashMap<String, _> = self.disk.files("ingest").into_iter().collect();
        for (path, bytes) in &files {
            let Some(name) = path.strip_suffix("map").filter(|name| files.contains_key(&format!("{name}part"))) else { continue };
            let hex = name.trim_start_matches("ingest/").split('.').next().unwrap_or_default();
            let digest = self.everything().into_iter().find(|digest| digest.hex() == hex);
            if let (Some(digest), Ok(map)) = (digest, serde_json::from_slice::<PartMap>(bytes)) {
                let bytes = self.parts.entry(digest).or_default();
                *bytes = map.bytes().max(*bytes);
            }
        }
    }
}

/// Waits until the walk through the folder has ended. It has a thread of its own, which is all that runs meanwhile.
fn walked(store: &Store) {
    while store.stats().walking {
        std::thread::sleep(Duration::from_micros(20));
    }
}
