//! The walk over the whole folder that follows each start: the catalog learns what it does not know and forgets what is not there.
//! It runs beside everything else, takes its time, and never removes anything but a blob that cannot be what its name says.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use super::blobs::{Blobs, is_plausible};
use super::budget::Change;
use super::catalog::contents::{self, Arrival};
use super::catalog::names::Place;
use super::filesystem::Entry;
use super::forgetting::forget_all_that_is_gone;
use super::health::Operation;
use super::layout::{Layout, RefsFolder};
use super::refs::Unlisted;
use crate::oci::{Algorithm, Digest, RepositoryName, UpstreamName};

/// How many unknown contents enter the catalog in one transaction: some milliseconds, which is what anybody else who writes has to
/// wait for at most.
const BATCH: usize = 128;

/// How long after a walk that did not see all the next one begins.
const AGAIN: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(30) };

/// Asks for walks. The walker ends when this is gone, or the store is.
pub(super) struct Requester {
    requests: Sender<()>,
    pending: Pending,
}

/// The walks that were asked for and have not ended: while there is one, the catalog may not know all that is in the folder.
#[derive(Clone, Default)]
pub(super) struct Pending {
    walks: Arc<AtomicUsize>,
    /// How many catalogs were made that knew nothing, and how many of them a walk has taught what is in `refs/`.
    new_catalogs: Arc<AtomicU64>,
    taught: Arc<AtomicU64>,
}

/// The store was closed.
pub(super) struct Closed;

/// A folder below `refs/` that is still to be looked into.
struct RefsStep {
    upstream: UpstreamName,
    /// The first components of a repository's name, perhaps all of them.
    name: String,
}

impl Requester {
    pub(super) fn new() -> (Self, Receiver<()>, Pending) {
        let (requests, received) = mpsc::channel();
        let pending = Pending::default();
        (Self { requests, pending: pending.clone() }, received, pending)
    }

    pub(super) fn send(&self) {
        self.pending.walks.fetch_add(1, Ordering::SeqCst);
        // There is no walker at shutdown only.
        let _ = self.requests.send(());
    }

    /// As [`Requester::send`], because the catalog is a new one.
    pub(super) fn send_for_new_catalog(&self) {
        self.pending.new_catalogs.fetch_add(1, Ordering::SeqCst);
        self.send();
    }
}

impl Pending {
    pub(super) fn is_any(&self) -> bool {
        self.walks.load(Ordering::SeqCst) > 0
    }

    /// Whether the catalog may not know all pins: then nothing is evicted.
    pub(super) fn may_miss_pins(&self) -> bool {
        self.taught.load(Ordering::SeqCst) < self.new_catalogs.load(Ordering::SeqCst)
    }
}

/// Starts the thread that walks through the store's folder as often as it is asked to, and again after a walk that did not see all.
pub(super) fn start(requests: Receiver<()>, pending: Pending, blobs: Weak<Blobs>) -> io::Result<()> {
    let run = move || {
        let mut has_seen_all = true;
        loop {
            let asked = if has_seen_all { requests.recv().map_err(RecvTimeoutError::from) } else { requests.recv_timeout(AGAIN) };
            match asked {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => drop(pending.walks.fetch_add(1, Ordering::SeqCst)),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // What was asked for meanwhile is served by the walk that begins now.
            let served = 1 + requests.try_iter().count();
            match walk(&blobs) {
                Ok(seen) => has_seen_all = seen,
                Err(Closed) => return,
            }
            pending.walks.fetch_sub(served, Ordering::SeqCst);
        }
    };
    thread::Builder::new().name("larder-walk".into()).spawn(run).map(drop)
}

/// Tells whether it has seen all that there is, and the catalog knows it. The store is held for one step at a time, so that it can be
/// closed in between.
fn walk(blobs: &Weak<Blobs>) -> Result<bool, Closed> {
    let open = || blobs.upgrade().ok_or(Closed);
    let store = open()?;
    let new_catalogs = store.walks.new_catalogs.load(Ordering::SeqCst);
    let is_new = store.walks.may_miss_pins();
    let errors = store.health.catalog_errors();
    drop(store);
    if is_new {
        survey(blobs)?;
    }
    let store = open()?;
    if let Err(error) = store.catalog.database.check() {
        store.health.catalog_error("check", &error);
    }
    // Refs come first: with them a tag that is asked for brings back all that belongs to it.
    let (mut steps, mut seen) = match upstreams(&store) {
        Ok(steps) => (steps, true),
        Err(Unlisted) => (Vec::new(), false),
    };
    drop(store);
    while let Some(step) = steps.pop() {
        let (further, all) = walk_refs(&*open()?, &step);
        steps.extend(further);
        seen &= all;
    }
    let store = open()?;
    // What a write did not bring to the catalog may have been a pin.
    seen &= store.health.catalog_errors() == errors;
    if seen {
        store.walks.taught.fetch_max(new_catalogs, Ordering::SeqCst);
    }
    drop(store);
    for first in 0..=u8::MAX {
        seen &= walk_blobs(&*open()?, first).is_ok();
    }
    let store = open()?;
    seen &= store.health.catalog_errors() == errors;
    let amounts = store.budget.amounts();
    if seen && new_catalogs == store.walks.new_catalogs.load(Ordering::SeqCst) {
        store.budget.all_is_known();
        let amounts = store.budget.amounts();
        tracing::info!(blobs = amounts.blobs, size_bytes = amounts.at_rest, "the catalog is in agreement with the folder");
        drop(store);
        forget_all_that_is_gone(blobs)?;
    } else {
        tracing::warn!(
            blobs = amounts.blobs,
            "the catalog may not know all that is in the folder, which is looked through again"
        );
    }
    // There may be more than the budget allows, since it was made smaller, or a loss of power has brought back what had been evicted.
    open()?.keep_within_limits();
    Ok(seen)
}

/// Adds up what is there of which a new catalog does not know, by its names and sizes alone. Until that is done all that the file system
/// has in use counts as content.
fn survey(blobs: &Weak<Blobs>) -> Result<(), Closed> {
    let mut bytes = 0_u64;
    for first in 0..=u8::MAX {
        match bytes_in(&*blobs.upgrade().ok_or(Closed)?, first) {
            Ok(more) => bytes = bytes.saturating_add(more),
            Err(Unlisted) => return Ok(()),
        }
    }
    let store = blobs.upgrade().ok_or(Closed)?;
    store.budget.surveyed(bytes);
    tracing::info!(size_bytes = bytes, "content is here of which the catalog does not know yet");
    Ok(())
}

/// Bytes of the contents whose digests begin with `first`.
fn bytes_in(store: &Blobs, first: u8) -> Result<u64, Unlisted> {
    let mut bytes = 0_u64;
    for algorithm in Algorithm::ALL {
        let folder = store.layout.blob_folder(algorithm, first);
        for entry in list(store, &folder)? {
            // What cannot be looked at is seen by the walk.
            let file = store.fs.metadata(&folder.join(entry.name)).ok();
            bytes = bytes.saturating_add(file.filter(|file| file.is_file).map_or(0, |file| file.size));
        }
    }
    Ok(bytes)
}

/// What is in a folder of contents; nothing if it has not been made yet.
fn list(store: &Blobs, folder: &Path) -> Result<Vec<Entry>, Unlisted> {
    match store.fs.list(folder) {
        Ok(entries) => Ok(entries),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => {
            store.health.disk_error(Operation::ListFolder, folder, &error);
            Err(Unlisted)
        }
    }
}

fn upstreams(store: &Blobs) -> Result<Vec<RefsStep>, Unlisted> {
    let refs = &store.catalog.refs;
    let folders = refs.list(&refs.layout.refs())?.into_iter().filter(|(_, is_folder)| *is_folder);
    Ok(folders.filter_map(|(name, _)| Some(RefsStep { upstream: name.parse().ok()?, name: String::new() })).collect())
}

/// Brings back what is in one folder, and gives the folders in it. Tells whether all of it could be seen.
fn walk_refs(store: &Blobs, step: &RefsStep) -> (Vec<RefsStep>, bool) {
    let refs = &store.catalog.refs;
    let folder = refs.layout.refs().join(step.upstream.as_str()).join(&step.name);
    let place = step.name.parse().ok().map(|repository| Place { upstream: step.upstream.clone(), repository });
    let mut further = Vec::new();
    let Ok(entries) = refs.list(&folder) else { return (further, false) };
    let mut seen = true;
    for (name, _) in entries.into_iter().filter(|(_, is_folder)| *is_folder) {
        match (RefsFolder::of(&name), &place) {
            (RefsFolder::Tags, Some(place)) => seen &= walk_tags(store, place).is_ok(),
            (RefsFolder::Manifests, Some(place)) => seen &= walk_manifests(store, place).is_ok(),
            (RefsFolder::Pins, Some(place)) => seen &= walk_pins(store, place).is_ok(),
            (RefsFolder::Tags | RefsFolder::Manifests | RefsFolder::Pins, None) => {}
            (RefsFolder::Component(component), _) => {
                let name = if step.name.is_empty() { component.to_owned() } else { format!("{}/{component}", step.name) };
                if name.parse::<RepositoryName>().is_ok() {
                    further.push(RefsStep { upstream: step.upstream.clone(), name });
                }
            }
        }
    }
    (further, seen)
}

fn walk_manifests(store: &Blobs, place: &Place) -> Result<(), Unlisted> {
    let refs = &store.catalog.refs;
    for (name, _) in refs.list(&refs.layout.manifests(&place.upstream, &place.repository))? {
        if let Some(digest) = Layout::parse_manifest(&name) {
            store.catalog.review_manifest(place, &digest);
        }
    }
    Ok(())
}

fn walk_tags(store: &Blobs, place: &Place) -> Result<(), Unlisted> {
    let tags = store.catalog.refs.tags(&place.upstream, &place.repository)?;
    tags.iter().for_each(|tag| store.catalog.review_tag(place, tag));
    Ok(())
}

fn walk_pins(store: &Blobs, place: &Place) -> Result<(), Unlisted> {
    let pins = store.catalog.refs.pins(&place.upstream, &place.repository)?;
    pins.iter().for_each(|pin| store.catalog.review_pin(pin));
    Ok(())
}

/// Compares the files with the rows of the digests that begin with `first`. A file that has a row is not looked at: whether it has
/// the size that it should have is seen when it is opened.
fn walk_blobs(store: &Blobs, first: u8) -> Result<(), Unlisted> {
    let rows = store.catalog.read("list blobs", |connection| contents::beginning_with(connection, first));
    let mut without_file: HashMap<Digest, u64> = rows.ok_or(Unlisted)?.into_iter().collect();
    let mut without_row = Vec::new();
    for algorithm in Algorithm::ALL {
        for entry in list(store, &store.layout.blob_folder(algorithm, first))? {
            if let Ok(digest) = Digest::from_hex(algorithm, &entry.name)
                && digest.as_bytes()[0] == first
                && without_file.remove(&digest).is_none()
            {
                without_row.push(digest);
            }
        }
    }
    without_row.chunks(BATCH).for_each(|digests| adopt(store, digests));
    without_file.keys().for_each(|digest| store.reconcile(digest));
    Ok(())
}

/// Enters files that have no rows. Whoever holds one of them at the moment makes its row, too.
fn adopt(store: &Blobs, digests: &[Digest]) {
    let mut found = Vec::new();
    for digest in digests {
        let Some(claim) = store.claims.try_claim(digest) else { continue };
        match store.fs.metadata(&store.layout.blob(digest)) {
            Ok(file) if file.is_file && is_plausible(digest, file.size) => {
                found.push((*digest, file.size, Arrival::Found { used_at: file.used_at }, claim));
            }
            // Something is wrong with it, or it is gone.
            _ => store.align(digest),
        }
    }
    let rows: Vec<_> = found.iter().map(|(digest, size, arrival, _)| (*digest, *size, *arrival)).collect();
    let put = move |connection: &_| {
        rows.iter().try_fold(Change::default(), |total, (digest, size, arrival)| {
            Ok(total + contents::put(connection, digest, *size, *arrival)?)
        })
    };
    let budget = store.budget.clone();
    if let Err(error) = store.catalog.database.write_then(put, move |change| budget.adopt(change)) {
        store.health.catalog_error("adopt blobs", &error);
    }
}
