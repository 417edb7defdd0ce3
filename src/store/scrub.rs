//! Verifies content at rest: all of it within some time, a little at a time, and single contents on demand. What is not what its
//! name says is removed, so that the next request fetches it again. It never mends anything. How far it has come it
//! keeps in a file, which can be lost.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

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

/// How far it has come is noted as often as this at the most, and with the first content at once: each start gets further.
const NOTE_EVERY: Duration = Duration::from_secs(10);

/// No note is longer.
const NOTE_MAX_BYTES: u64 = 256;

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

/// Starts the thread that verifies all content once in every `period`, and goes on where an earlier one was: so that a process that
/// is often restarted sees all of it as well.
pub(super) fn start(blobs: Weak<Blobs>, period: Duration) -> io::Result<()> {
    let mut scrubber = Scrubber { blobs, period, noted: None };
    thread::Builder::new().name("larder-scrub".into()).spawn(move || while scrubber.pass().is_ok() {}).map(drop)
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
    /// When it was last noted how far it has come.
    noted: Option<Instant>,
}

impl Scrubber {
    /// Looks at all content once, beginning after what was looked at last. The store is held for one step at a time.
    fn pass(&mut self) -> Result<(), Closed> {
        let mut bytes = 0;
        let last = self.store()?.last_begun();
        let first = last.map_or(0, |last| last.as_bytes()[0]);
        let is_after = |digest: &Digest| last.is_none_or(|last| digest.as_bytes() > last.as_bytes());
        // The first folder comes twice: at the beginning what is after the last one in it, at the end the rest.
        for step in 0..=u16::from(u8::MAX) + 1 {
            let byte = first.wrapping_add(step as u8);
            let rows = self.store()?.catalog.read("list blobs", |connection| contents::beginning_with(connection, byte));
            for (digest, _) in rows.unwrap_or_default() {
                if (step > 0 || is_after(&digest)) && (step <= u16::from(u8::MAX) || !is_after(&digest)) {
                    bytes += self.look_at(&digest)?;
                }
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

    /// Gives how many bytes were found right, when it is time for the next ones.
    fn look_at(&mut self, digest: &Digest) -> Result<u64, Closed> {
        let begun = Instant::now();
        // Before it is read: one for which a process never lives long enough does not keep the others from their turn.
        if self.noted.is_none_or(|noted| noted.elapsed() >= NOTE_EVERY) {
            self.store()?.note_begun(digest);
            self.noted = Some(begun);
        }
        let Some(bytes) = self.read(digest)? else { return Ok(0) };
        let store = self.store()?;
        store.scrubbed.verified_bytes.fetch_add(bytes, Ordering::Relaxed);
        let share = bytes as f64 / store.budget.amounts().at_rest.max(bytes).max(1) as f64;
        let owed = self.period.mul_f64(share).saturating_sub(begun.elapsed());
        drop(store);
        self.sleep(owed)?;
        Ok(bytes)
    }

    /// Reads one content, no faster than a disk can bear. Gives its size if it is right. That takes a while: it is not held, and may go
    /// meanwhile, and the folder as well. So it is open only while a piece of it is read: a file that is open keeps its room on the disk,
    /// and a file system from being unmounted for good.
    fn read(&self, digest: &Digest) -> Result<Option<u64>, Closed> {
        let mut hashed = Hashed::new(digest);
        let is_right = loop {
            let Some(file) = self.store()?.open_to_verify(digest) else { return Ok(None) };
            let read = hashed.read(&*file);
            drop(file);
            match read {
                Ok(0) => break hashed.is(digest),
                Ok(count) => {
                    hashed.take(count);
                    self.sleep(Duration::from_secs_f64(count as f64 / FASTEST as f64))?;
                }
                Err(_) => break false,
            }
        };
        let store = self.store()?;
        // What is read from a folder that is gone says nothing of the content that may be there later.
        if store.catalog.folder.check().is_err() {
            return Ok(None);
        }
        // Its pieces may be of two files, one after the other; or the disk was not well.
        Ok((is_right || store.verify(digest) == Verdict::Right).then_some(hashed.position))
    }

    /// Sleeps for so long, unless the store is closed meanwhile.
    fn sleep(&self, duration: Duration) -> Result<(), Closed> {
        let mut left = duration;
        while !left.is_zero() {
            let nap = left.min(NAP);
            thread::sleep(nap);
            left -= nap;
            self.store()?;
        }
        Ok(())
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

    /// Reads the next piece of it. Gives how many bytes; 0 at the end.
    fn read(&mut self, file: &dyn StoredFile) -> io::Result<usize> {
        file.read_at(&mut self.buffer, self.position)
    }

    /// Hashes so many bytes that were read.
    fn take(&mut self, count: usize) {
        self.hasher.update(&self.buffer[..count]);
        self.position += count as u64;
    }

    fn is(&self, digest: &Digest) -> bool {
        self.hasher.clone().finish() == *digest
    }

    /// Hashes all of it.
    fn all(digest: &Digest, file: &dyn StoredFile) -> io::Result<bool> {
        let mut hashed = Self::new(digest);
        loop {
            match hashed.read(file)? {
                0 => return Ok(hashed.is(digest)),
                count => hashed.take(count),
            }
        }
    }
}

/// All of these block.
impl Blobs {
    /// Verifies one content as fast as the disk gives it; meanwhile it is not evicted. What is wrong is opened and read once more before it is removed: in the
    /// meantime it may have been replaced by what is right.
    pub(super) fn verify(&self, digest: &Digest) -> Verdict {
        let Some(_hold) = self.holds.hold(digest) else { return Verdict::Absent };
        let Some(file) = self.open_to_verify(digest) else { return Verdict::Absent };
        if matches!(Hashed::all(digest, &*file), Ok(true)) {
            return Verdict::Right;
        }
        let path = self.layout.blob(digest);
        // Nothing takes its place between this look and the removal: who has fetched it again waits for its turn.
        let claim = self.claims.claim(digest);
        match self.fs.open(&path).and_then(|file| Hashed::all(digest, &*file)) {
            Ok(true) => return Verdict::Right,
            Ok(false) => {
                tracing::error!(%digest, "content at rest is not what its name says; it is removed, to be fetched again")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Verdict::Absent,
            Err(error) => {
                self.health.disk_error(Operation::ReadBlob, &path, &error);
                tracing::error!(%digest, %error, "content at rest cannot be read; it is removed, to be fetched again");
            }
        }
        self.scrubbed.damaged.fetch_add(1, Ordering::Relaxed);
        self.remove_claimed(digest, claim);
        Verdict::Removed
    }

    /// Nothing if it is not there.
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

    /// The content that the scrubber began with last, as far as that was noted.
    fn last_begun(&self) -> Option<Digest> {
        let bytes = self.fs.open(&self.layout.verified()).and_then(|file| file.read_all(NOTE_MAX_BYTES)).ok()?;
        std::str::from_utf8(&bytes).ok()?.parse().ok()
    }

    /// If that fails, some of it is verified again sooner than need be.
    fn note_begun(&self, digest: &Digest) {
        let temporary = self.parts.temporary();
        let noted = self.fs.create(&temporary).and_then(|file| {
            file.write_all_at(digest.to_string().as_bytes(), 0)?;
            self.fs.rename(&temporary, &self.layout.verified())
        });
        if noted.is_err() {
            // It may not be there, or never have been.
            let _ = self.fs.remove(&temporary);
        }
    }
}
