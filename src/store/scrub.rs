//! Verifies content at rest: all of it within some time, a little at a time, and single contents on demand. What is not what its
//! name says is removed, so that the next request fetches it again. It never mends anything, and needs nothing from an earlier run.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use futures::stream;
use futures::{Stream, StreamExt};

use super::blobs::Blobs;
use super::catalog::contents;
use super::filesystem::StoredFile;
use super::health::Operation;
use crate::oci::{Digest, Hasher};
use crate::util::blocking;

/// How much is read at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// No disk is read faster than this for the sake of scrubbing, in bytes a second.
const FASTEST: u64 = 64 << 20;

/// For how long the scrubber sleeps at a time: how long a store that was closed is still known to it.
const NAP: Duration = Duration::from_millis(250);

/// For how long it rests after a pass over nothing, if all is not to be looked at more often.
const REST: Duration = Duration::from_secs(60);

/// What a look at a content has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It hashes to its digest.
    Right,
    /// It did not, or could not be read, and was removed.
    Removed,
    /// There is no such content.
    Absent,
}

/// A content that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    pub digest: Digest,
    /// Bytes, as the catalog has them.
    pub size: u64,
    pub verdict: Verdict,
}

/// What was found since the store was opened.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Bytes read by the scrubber and found right.
    pub(super) verified_bytes: AtomicU64,
    /// Contents that were not what their names say.
    pub(super) damaged: AtomicU64,
    /// Passes over all content.
    pub(super) passes: AtomicU64,
}

/// The store was closed.
struct Closed;

/// Starts the thread that verifies all content once in every `period`, beginning somewhere else at each start: so that a process that
/// is often restarted sees all of it as well.
pub(super) fn start(blobs: Weak<Blobs>, period: Duration) -> io::Result<()> {
    let mut random = [0; 1];
    // Without randomness it begins at the beginning.
    let _ = getrandom::fill(&mut random);
    let scrubber = Scrubber { blobs, period };
    thread::Builder::new().name("larder-scrub".into()).spawn(move || while scrubber.pass(random[0]).is_ok() {}).map(drop)
}

/// Verifies everything, one content at a time and each on a thread where that may block.
pub(super) fn verify_all(blobs: Arc<Blobs>) -> impl Stream<Item = Verified> + Send + 'static {
    let folders = stream::unfold(0_u16, move |first| {
        let blobs = Arc::clone(&blobs);
        async move {
            while blobs.walks.is_any() {
                tokio::time::sleep(NAP).await;
            }
            let byte = u8::try_from(first).ok()?;
            let list = {
                let blobs = Arc::clone(&blobs);
                move || blobs.catalog.read("list blobs", |connection| contents::beginning_with(connection, byte))
            };
            let rows = blocking(list).await.ok().flatten().unwrap_or_default();
            let verified = stream::iter(rows).filter_map(move |(digest, size)| {
                let blobs = Arc::clone(&blobs);
                async move {
                    let verdict = blocking(move || blobs.verify(&digest)).await.ok()?;
                    Some(Verified { digest, size, verdict })
                }
            });
            Some((verified, first + 1))
        }
    });
    folders.flatten()
}

struct Scrubber {
    blobs: Weak<Blobs>,
    period: Duration,
}

impl Scrubber {
    /// Looks at all content once, beginning with the digests whose first byte is `first`. The store is held for one step at a time.
    fn pass(&self, first: u8) -> Result<(), Closed> {
        let mut bytes = 0;
        for step in 0..=u8::MAX {
            let first = first.wrapping_add(step);
            let rows = self.store()?.catalog.read("list blobs", |connection| contents::beginning_with(connection, first));
            for (digest, _) in rows.unwrap_or_default() {
                bytes += self.look_at(&digest)?;
            }
        }
        let store = self.store()?;
        store.scrubbed.passes.fetch_add(1, Ordering::Relaxed);
        if bytes > 0 {
            tracing::info!(verified_bytes = bytes, "all content at rest was looked at");
            return Ok(());
        }
        drop(store);
        self.sleep(REST.min(self.period))
    }

    /// Gives how many bytes were found right. A file that is open keeps a file system from being unmounted for good, and what is read
    /// from one that is gone says nothing of the content that may be there later: so this ends when the folder goes.
    fn look_at(&self, digest: &Digest) -> Result<u64, Closed> {
        let file = match self.store()?.open_to_verify(digest) {
            Some(file) => file,
            None => return Ok(0),
        };
        let mut hashed = Hashed::new(digest);
        let verdict = loop {
            match hashed.next(&*file) {
                Ok(0) => break Ok(()),
                Ok(count) => {
                    if !self.sleep_beside_folder(self.pause(count as u64)?)? {
                        return Ok(0);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        let store = self.store()?;
        if store.catalog.folder.check().is_err() {
            return Ok(0);
        }
        match store.judge(digest, hashed, verdict) {
            Verdict::Right => {
                let bytes = file.len().unwrap_or(0);
                store.scrubbed.verified_bytes.fetch_add(bytes, Ordering::Relaxed);
                Ok(bytes)
            }
            Verdict::Removed | Verdict::Absent => Ok(0),
        }
    }

    /// How long to wait after so many bytes, for all to take as long as they should.
    fn pause(&self, bytes: u64) -> Result<Duration, Closed> {
        let at_rest = self.store()?.budget.amounts().at_rest;
        let slowest = bytes as f64 / FASTEST as f64;
        let share = bytes as f64 / at_rest.max(bytes) as f64;
        Ok(self.period.mul_f64(share).max(Duration::from_secs_f64(slowest)))
    }

    fn sleep(&self, duration: Duration) -> Result<(), Closed> {
        self.sleep_while(duration, |_| true).map(drop)
    }

    /// Sleeps for so long, or until the folder goes. Tells whether it is there.
    fn sleep_beside_folder(&self, duration: Duration) -> Result<bool, Closed> {
        self.sleep_while(duration, |store| store.catalog.folder.check().is_ok())
    }

    /// Sleeps for so long, or until `may_go_on` says no. Tells whether it never did.
    fn sleep_while(&self, duration: Duration, may_go_on: impl Fn(&Blobs) -> bool) -> Result<bool, Closed> {
        let mut left = duration;
        while !left.is_zero() {
            let nap = left.min(NAP);
            thread::sleep(nap);
            left -= nap;
            if !may_go_on(&*self.store()?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn store(&self) -> Result<Arc<Blobs>, Closed> {
        self.blobs.upgrade().ok_or(Closed)
    }
}

/// A file, hashed from its beginning on.
struct Hashed {
    hasher: Hasher,
    position: u64,
    buffer: Vec<u8>,
}

impl Hashed {
    fn new(digest: &Digest) -> Self {
        Self { hasher: Hasher::new(digest.algorithm()), position: 0, buffer: vec![0; CHUNK] }
    }

    /// Hashes some more of it. Gives how many bytes; 0 at the end.
    fn next(&mut self, file: &dyn StoredFile) -> io::Result<usize> {
        let count = file.read_at(&mut self.buffer, self.position)?;
        self.hasher.update(&self.buffer[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

/// All of these block.
impl Blobs {
    /// Verifies one content as fast as the disk gives it.
    pub(super) fn verify(&self, digest: &Digest) -> Verdict {
        let Some(file) = self.open_to_verify(digest) else { return Verdict::Absent };
        let mut hashed = Hashed::new(digest);
        let outcome = loop {
            match hashed.next(&*file) {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        self.judge(digest, hashed, outcome)
    }

    fn open_to_verify(&self, digest: &Digest) -> Option<Arc<dyn StoredFile>> {
        let path = self.layout.blob(digest);
        match self.fs.open(&path) {
            Ok(file) => Some(file),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.health.disk_error(Operation::OpenBlob, &path, &error);
                }
                self.reconcile(digest);
                None
            }
        }
    }

    fn judge(&self, digest: &Digest, hashed: Hashed, outcome: io::Result<()>) -> Verdict {
        match outcome {
            Ok(()) if hashed.hasher.finish() == *digest => return Verdict::Right,
            Ok(()) => tracing::error!(%digest, "content at rest is not what its name says; it is removed, to be fetched again"),
            Err(error) => {
                self.health.disk_error(Operation::ReadBlob, &self.layout.blob(digest), &error);
                tracing::error!(%digest, %error, "content at rest cannot be read; it is removed, to be fetched again");
            }
        }
        self.scrubbed.damaged.fetch_add(1, Ordering::Relaxed);
        self.remove(digest);
        Verdict::Removed
    }
}
