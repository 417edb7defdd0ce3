//! The watch over the store's folder: notices that it is gone (unmounted, deleted, renamed), lets go of it, and takes it again when it
//! is back; and whether content could be stored again. It never decides about content.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::sync::Weak;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::blobs::Blobs;

/// How often it looks.
const INTERVAL: Duration = Duration::from_millis(250);

/// With every so many looks, files that somebody else has removed are closed.
const LOOKS_PER_SWEEP: u32 = 8;

/// While nothing can be stored it is tried with every so many looks, with so many bytes.
const LOOKS_PER_PROBE: u32 = 4;
const PROBE_BYTES: u64 = 1 << 20;

/// The temporary files of that: numbers that no other will have.
const PROBE_NUMBERS: [u64; 2] = [u64::MAX - 1, u64::MAX];

/// Starts the thread that watches until the other end of `closed` is gone.
pub(super) fn start(closed: Receiver<Infallible>, blobs: Weak<Blobs>) -> io::Result<()> {
    // What the disk of a simulation is asked for follows from its seed.
    #[cfg(test)]
    let is_real = !crate::util::simulated::is_under_way();
    #[cfg(not(test))]
    let is_real = true;
    let run = move || {
        for look in 1_u32.. {
            if closed.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let Some(blobs) = blobs.upgrade() else { continue };
            blobs.look_after_folder();
            if is_real && look.is_multiple_of(LOOKS_PER_SWEEP) {
                blobs.open_files.forget_removed();
            }
            if is_real && look.is_multiple_of(LOOKS_PER_PROBE) && blobs.health.has_failed_to_store() {
                blobs.probe();
            }
        }
    };
    thread::Builder::new().name("larder-watch".into()).spawn(run).map(drop)
}

impl Blobs {
    /// Finds out whether content could be stored again, so that nobody has to wait for some that comes to hear of it.
    pub(super) fn probe(&self) {
        let mut reservation = self.budget.reservation();
        if self.reserve_what_is_free(&mut reservation, PROBE_BYTES)
            && self.store_and_remove().is_ok()
            && self.catalog.database.probe().is_ok()
        {
            self.health.stored(&Ok(()));
        }
    }

    /// Takes every step that the disk is asked for when content is stored: the one that failed may be any of them.
    fn store_and_remove(&self) -> io::Result<()> {
        // The same names each time: where the disk lets nothing be removed, it is not to be filled with these.
        let [path, named] = PROBE_NUMBERS.map(|number| self.layout.temporary(number));
        if let Err(error) = self.fs.remove(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let stored = self.fs.create(&path).and_then(|file| {
            file.allocate(PROBE_BYTES)?;
            file.write_all_vectored_at(&mut [IoSlice::new(&[1; 4096])], 0)?;
            file.sync_data()?;
            self.fs.protect(&path)?;
            self.fs.rename(&path, &named)?;
            self.fs.sync_folder(&self.layout.ingest())
        });
        let removed = self.fs.remove(&named).or_else(|_| self.fs.remove(&path));
        stored.and(removed)
    }

    fn look_after_folder(&self) {
        let folder = &self.catalog.folder;
        let Err(gone) = folder.check() else {
            self.know_limits();
            if self.health.is_catalog_closed() {
                self.open_catalog();
            }
            return;
        };
        // What comes into being in this moment is let go of at the next look.
        self.open_files.clear();
        if folder.let_go() {
            self.health.folder_is_gone(gone.to_string());
            // What it was on may be waiting to be unmounted for good, and mended.
            self.catalog.database.let_go();
        }
        if let Err(reason) = folder.take_back() {
            return self.health.folder_is_gone(reason.to_string());
        }
        // Before the catalog, without which nothing is stored.
        self.review_limits();
        // What was wrong with the other folder says nothing about this one.
        self.condemned().clear();
        self.parts.review();
        self.health.folder_is_back();
        tracing::info!(dir = %folder.path().display(), "the cache's folder is back");
        self.open_catalog();
    }

    /// Opens the catalog, which is followed by a walk: so the budget counts what is there now.
    fn open_catalog(&self) {
        match self.catalog.database.write(|_| Ok(())) {
            Ok(()) => self.health.catalog_is_open(),
            Err(error) => self.health.catalog_is_closed(&error),
        }
    }
}
