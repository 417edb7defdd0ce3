//! The simulated disk: files in memory, of which a loss of power leaves what a real file system may leave, and operations that
//! fail when the dice say so. It knows nothing of what the files are for.
//!
//! A file's bytes are durable once `sync_data` has returned; of what was written since, each page may be on the disk, or as it was
//! before, or zero, and the file may be shorter. A name is durable once its folder was synced; of the changes since, each may have
//! been made or not, in whatever order (but those of one name in theirs, and a rename as a whole). That is what ALICE (Pillai and others,
//! OSDI 2014) calls the abstract persistence model of a file system without ordering, and is less than ext4 or XFS promise. What is older
//! than a minute is durable in any case.

mod file;
mod mount;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use bytes::Bytes;
use tokio::sync::Notify;

use self::file::Inode;
use super::clock::SimulatedClock;
use super::dice::Dice;
use super::journal::Journal;
use crate::util::Clock;

pub(super) use mount::Mount;

/// After how long the kernel has written back what nobody asked it to (milliseconds).
const WRITTEN_BACK_AFTER: i64 = 60_000;

/// The disk. It outlives the machine's restarts.
pub(super) struct Disk {
    state: Mutex<State>,
    /// Opens, or the power fails: see [`Disk::hold_threads`].
    gate: Condvar,
    clock: Arc<SimulatedClock>,
    journal: Journal,
}

struct State {
    names: BTreeMap<String, SharedInode>,
    /// The names as they are on the platters, and what has been done to them since, and when.
    durable_names: BTreeMap<String, SharedInode>,
    changes: Vec<(NameChange, i64)>,
    /// Durable from the start: `create_folder` promises that.
    folders: BTreeSet<String>,
    dice: Dice,
    trouble: Trouble,
    /// Operations that failed since the machine was started.
    failures: u64,
    /// Changes that were asked for since the machine was started, and at which of them the power fails.
    steps: u64,
    power_fails_at: Option<u64>,
    power_losses: u32,
    /// Of the machine that has power: what an earlier one still asks for fails.
    boot: u32,
    /// Told when the power fails because of an operation.
    power_failed: Arc<Notify>,
    /// Called in the instant in which the power fails.
    on_power_failure: Option<Box<dyn FnOnce() + Send>>,
    /// The thread whose operations fail by the dice: what other threads do happens in no order.
    simulation: ThreadId,
    holds_threads: bool,
}

type SharedInode = Arc<Mutex<Inode>>;

/// A change of names that a loss of power may undo.
enum NameChange {
    Link(String, SharedInode),
    Rename(String, String, SharedInode),
    Unlink(String),
}

/// What goes wrong with the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trouble {
    /// One operation in so many fails.
    pub(super) errors: Option<u64>,
    /// There is no space left.
    pub(super) full: bool,
}

/// What a stop of the machine does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Nothing: a process was killed, its kernel lives.
    Kill,
    PowerLoss,
}

/// What an operation does, as far as that decides how it can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Reads,
    Changes,
    /// Needs space.
    Grows,
}

impl Disk {
    pub(super) fn new(dice: Dice, clock: Arc<SimulatedClock>, journal: Journal) -> Arc<Self> {
        let state = State {
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            folders: BTreeSet::from([String::new()]),
            dice,
            trouble: Trouble::default(),
            failures: 0,
            steps: 0,
            power_fails_at: None,
            power_losses: 0,
            boot: 0,
            power_failed: Arc::default(),
            on_power_failure: None,
            simulation: thread::current().id(),
            holds_threads: false,
        };
        Arc::new(Self { state: Mutex::new(state), gate: Condvar::new(), clock, journal })
    }

    /// Gives the disk to a machine that starts, which sees it at `root`. The power fails after `power_fails_at` changes, if that
    /// many are made, or when [`Disk::cut_power`] is called; in that instant `on_power_failure` is.
    pub(super) fn mount(
        self: &Arc<Self>,
        root: &Path,
        power_fails_at: Option<u64>,
        on_power_failure: Box<dyn FnOnce() + Send>,
    ) -> Arc<Mount> {
        let mut state = self.lock();
        state.on_power_failure = Some(on_power_failure);
        (state.failures, state.steps, state.power_fails_at) = (0, 0, power_fails_at);
        state.power_failed = Arc::default();
        let power_failed = Arc::clone(&state.power_failed);
        Arc::new(Mount {
            disk: Arc::clone(self),
            root: root.to_str().expect("a temporary folder's").to_owned(),
            boot: state.boot,
            power_failed,
        })
    }

    pub(super) fn set_trouble(&self, trouble: Trouble) {
        self.journal.note(format_args!("disk: {trouble:?}"));
        self.lock().trouble = trouble;
    }

    /// As long as this holds, what threads other than the simulation's ask of the disk is not answered.
    pub(super) fn hold_threads(&self, holds: bool) {
        self.lock().holds_threads = holds;
        self.gate.notify_all();
    }

    /// How many operations have failed since the machine was started.
    pub(super) fn failures(&self) -> u64 {
        self.lock().failures
    }

    /// Nothing that the machine asks for from now on has any effect, nor is what it does judged.
    pub(super) fn cut_power(&self) {
        self.cut(&mut self.lock());
    }

    fn cut(&self, state: &mut State) {
        state.boot += 1;
        state.trouble = Trouble::default();
        if let Some(on_power_failure) = state.on_power_failure.take() {
            on_power_failure();
        }
        self.gate.notify_all();
        self.journal.close(true);
    }

    /// Whether the machine that has this mount has no power any more.
    pub(super) fn is_off(&self, mount: &Mount) -> bool {
        self.lock().boot != mount.boot
    }

    /// What is on the disk when the next machine starts, after the power was cut.
    pub(super) fn settle(&self, stop: Stop) {
        self.journal.note(format_args!("disk: {stop:?}"));
        let mut state = self.lock();
        if stop == Stop::PowerLoss {
            state.power_losses += 1;
            state.lose_what_was_not_durable(self.clock.unix_millis());
        }
    }

    /// How many bytes all files have.
    pub(super) fn used(&self) -> u64 {
        self.lock().names.values().map(|inode| inode.lock().unwrap_or_else(PoisonError::into_inner).len() as u64).sum()
    }

    /// The files below a folder, by name.
    pub(super) fn files(&self, below: &str) -> Vec<(String, Bytes)> {
        let state = self.lock();
        let files = state.names.iter().filter(|(path, _)| path.starts_with(below));
        files.map(|(path, inode)| (path.clone(), inode.lock().unwrap_or_else(PoisonError::into_inner).bytes())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `operation`, which does `what` to `name`, on behalf of the machine `boot`, unless it is to fail.
    fn operate<T>(
        &self,
        boot: u32,
        what: &str,
        name: &str,
        effect: Effect,
        operation: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.lock();
        if state.simulation != thread::current().id() {
            while state.holds_threads && state.boot == boot {
                state = self.gate.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            return if state.boot == boot { operation(&mut state) } else { Err(no_power()) };
        }
        if state.boot != boot {
            return Err(no_power());
        }
        if effect != Effect::Reads {
            state.steps += 1;
            if state.power_fails_at.is_some_and(|step| state.steps >= step) {
                self.journal.note(format_args!("disk: the power fails at {what} {name}"));
                self.cut(&mut state);
                state.power_failed.notify_one();
                return Err(no_power());
            }
        }
        if state.trouble.full && effect == Effect::Grows {
            self.journal.note(format_args!("disk: {what} {name}: no space"));
            state.failures += 1;
            return Err(io::Error::from_raw_os_error(28));
        }
        if let Some(times) = state.trouble.errors
            && state.dice.one_in(times)
        {
            state.failures += 1;
            // An operation that failed may have been done all the same.
            let done = effect != Effect::Reads && state.dice.one_in(2) && operation(&mut state).is_ok();
            self.journal.note(format_args!("disk: {what} {name}: error, {}done", if done { "" } else { "not " }));
            return Err(io::Error::from_raw_os_error(5));
        }
        if effect != Effect::Reads {
            self.journal.note(format_args!("disk: {what} {name}"));
        }
        operation(&mut state)
    }
}

fn no_power() -> io::Error {
    io::Error::other("the machine has no power")
}

/// The folder that a path lies in: the root is the empty path.
fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// A path as the journal has it: digests are long.
fn short(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    match name.split_once('.') {
        Some((hex, rest)) if hex.len() > 16 => format!("{folder}/{}.{rest}", &hex[..8]),
        None if name.len() > 32 => format!("{folder}/{}..", &name[..16]),
        _ => path.to_owned(),
    }
}

// === impl State ===

impl State {
    fn inode(&self, path: &str) -> io::Result<SharedInode> {
        self.names.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn link(&mut self, path: &str, inode: SharedInode, now: i64) {
        self.names.insert(path.to_owned(), Arc::clone(&inode));
        self.changes.push((NameChange::Link(path.to_owned(), inode), now));
    }

    fn rename(&mut self, from: &str, to: &str, now: i64) -> io::Result<()> {
        let inode = self.inode(from)?;
        if !self.folders.contains(folder_of(to)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.names.remove(from);
        self.names.insert(to.to_owned(), Arc::clone(&inode));
        self.changes.push((NameChange::Rename(from.to_owned(), to.to_owned(), inode), now));
        Ok(())
    }

    fn unlink(&mut self, path: &str, now: i64) -> io::Result<()> {
        self.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        self.changes.push((NameChange::Unlink(path.to_owned()), now));
        Ok(())
    }

    /// Makes the changes of names durable that `is_kept` says, and what has been done to the same names before. Gives the others.
    fn make_durable(&mut self, mut is_kept: impl FnMut(&NameChange, i64, &mut Dice) -> bool) -> Vec<(NameChange, i64)> {
        let mut names = BTreeSet::new();
        let (mut kept, mut others) = (Vec::new(), Vec::new());
        for (change, at) in std::mem::take(&mut self.changes).into_iter().rev() {
            if is_kept(&change, at, &mut self.dice) || change.names().iter().any(|name| names.contains(*name)) {
                names.extend(change.names().into_iter().map(str::to_owned));
                kept.push(change);
            } else {
                others.push((change, at));
            }
        }
        kept.into_iter().rev().for_each(|change| change.apply(&mut self.durable_names));
        others.reverse();
        others
    }

    fn sync_folder(&mut self, folder: &str) {
        self.changes = self.make_durable(|change, _, _| change.names().iter().any(|name| folder_of(name) == folder));
    }

    fn lose_what_was_not_durable(&mut self, now: i64) {
        let written_back = now - WRITTEN_BACK_AFTER;
        // Mostly some of it is lost; all or nothing often enough to be seen alone.
        let (kept, of) = *self.dice.pick(&[(0, 1), (1, 1), (1, 2), (3, 4), (1, 4)]);
        self.make_durable(|_, at, dice| at < written_back || dice.within(0..of) < kept);
        let names = self.durable_names.clone();
        for inode in names.values() {
            let mut inode = inode.lock().unwrap_or_else(PoisonError::into_inner);
            inode.write_back(written_back);
            inode.lose_what_was_not_durable(&mut self.dice);
        }
        self.names = names;
    }
}

impl NameChange {
    fn names(&self) -> Vec<&str> {
        match self {
            Self::Link(path, _) | Self::Unlink(path) => vec![path],
            Self::Rename(from, to, _) => vec![from, to],
        }
    }

    fn apply(self, names: &mut BTreeMap<String, SharedInode>) {
        match self {
            Self::Link(path, inode) => drop(names.insert(path, inode)),
            Self::Rename(from, to, inode) => {
                if names.get(&from).is_some_and(|there| Arc::ptr_eq(there, &inode)) {
                    names.remove(&from);
                }
                names.insert(to, inode);
            }
            Self::Unlink(path) => drop(names.remove(&path)),
        }
    }
}
