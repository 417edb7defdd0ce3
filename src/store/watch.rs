//! The watch over the store's folder: notices that it is gone (unmounted, deleted, renamed), lets go of it, and takes it again when it
//! is back. It never makes the folder, and never decides about content.

use std::convert::Infallible;
use std::io;
use std::sync::Weak;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::blobs::Blobs;

/// How often it looks.
const INTERVAL: Duration = Duration::from_millis(250);

/// Starts the thread that watches until the other end of `closed` is gone.
pub(super) fn start(closed: Receiver<Infallible>, blobs: Weak<Blobs>) -> io::Result<()> {
    let run = move || {
        while closed.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            if let Some(blobs) = blobs.upgrade() {
                blobs.look_after_folder();
            }
        }
    };
    thread::Builder::new().name("larder-watch".into()).spawn(run).map(drop)
}

impl Blobs {
    fn look_after_folder(&self) {
        let folder = &self.catalog.folder;
        let Err(gone) = folder.check() else { return };
        if folder.let_go() {
            self.health.folder_is_gone(gone.to_string());
            // What it was on may be waiting to be unmounted for good, and mended.
            self.catalog.database.let_go();
        }
        if let Err(reason) = folder.take_back() {
            return self.health.folder_is_gone(reason.to_string());
        }
        // What was wrong with the other folder says nothing about this one.
        self.condemned().clear();
        self.health.folder_is_back();
        self.parts.review();
        tracing::info!(dir = %folder.path().display(), "the cache's folder is back");
        // Opens the catalog, which is followed by a walk: so the budget counts what is there now.
        if let Err(error) = self.catalog.database.flush_accesses() {
            self.health.catalog_error("open", &error);
        }
    }
}
