//! A part in flight, from the first byte to its name among the blobs, or to nothing, or to where the next fill finds it. It never
//! looks at the bytes: the caller has verified them when it commits.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::blobs::Blobs;
use super::budget::Reservation;
use super::catalog::contents::Arrival;
use super::error::StoreError;
use super::filesystem::StoredFile;
use super::health::Operation;
use super::parts::{KeptPart, PartMap, PartName};
use super::{Content, off_thread};
use crate::oci::Digest;
use crate::util::blocking;

/// By how many bytes a part of unknown size has its reservation grow.
const STEP: u64 = 16 << 20;

/// How many names are tried for a new part.
const ATTEMPTS: usize = 16;

/// Content that is being written. Dropping it keeps what was [noted](Ingest::note) for the next fill; where nothing was, the part
/// is removed and its reservation given back.
pub struct Ingest {
    digest: Digest,
    file: Arc<dyn StoredFile>,
    part: Part,
}

/// Writes to the file of an [`Ingest`]. Until the last one is dropped nobody else takes up the part: so whoever leaves a write to
/// itself gives it one of these.
#[derive(Clone)]
pub struct PartWriter {
    file: Arc<dyn StoredFile>,
    _writing: Arc<()>,
}

/// The name of the file, and the room for it.
struct Part {
    blobs: Arc<Blobs>,
    name: PartName,
    path: PathBuf,
    /// Shared with the blocking work on it, so that a caller who does not wait for that loses nothing.
    reservation: Arc<Mutex<Reservation>>,
    /// What would be kept of it.
    noted: Arc<Mutex<Option<PartMap>>>,
    writers: Arc<()>,
    /// Not set any more when the name is gone.
    present: bool,
}

// === impl Ingest ===

impl Ingest {
    pub(super) async fn begin(blobs: Arc<Blobs>, digest: Digest, size: Option<u64>) -> Result<Self, StoreError> {
        let begin = move || {
            let begun = Self::begin_blocking(Arc::clone(&blobs), digest, size);
            // That it can be begun does not mean that it can be stored: that shows at the end. And that it is larger than the whole
            // cache is no trouble of the cache.
            let fits = size.is_none_or(|size| size <= blobs.budget.max());
            if begun.is_err() && fits {
                blobs.health.stored(&begun);
            }
            begun
        };
        off_thread(begin).await?
    }

    /// As [`Ingest::begin`], if there is room without anything going for it.
    pub(super) async fn begin_in_free_room(blobs: Arc<Blobs>, digest: Digest, size: u64) -> Option<Result<Self, StoreError>> {
        let begin = move || {
            let mut reservation = blobs.budget.reservation();
            let is_free = blobs.catalog.folder.check().is_ok()
                && blobs.parts.take_over().is_ok()
                && blobs.reserve_what_is_free(&mut reservation, size);
            is_free.then(|| {
                let begun = Self::begin_with(Arc::clone(&blobs), digest, Some(size), reservation);
                if begun.is_err() {
                    blobs.health.stored(&begun);
                }
                begun
            })
        };
        off_thread(begin).await.unwrap_or_else(|error| Some(Err(error)))
    }

    fn begin_blocking(blobs: Arc<Blobs>, digest: Digest, size: Option<u64>) -> Result<Self, StoreError> {
        // Nothing is to go for what cannot be stored.
        blobs.catalog.folder.check().map_err(|gone| StoreError::io(Operation::CreatePart, gone.into()))?;
        blobs.parts.take_over().map_err(|error| StoreError::io(Operation::ListFolder, error))?;
        let mut reservation = blobs.budget.reservation();
        match size {
            Some(size) => blobs.reserve(&mut reservation, size)?,
            None => reserve_in_steps(&blobs, &mut reservation, 1)?,
        }
        Self::begin_with(blobs, digest, size, reservation)
    }

    /// Makes the file, for which there is room.
    fn begin_with(blobs: Arc<Blobs>, digest: Digest, size: Option<u64>, reservation: Reservation) -> Result<Self, StoreError> {
        blobs.parts.sweep();
        let (name, file) = create(&blobs, &digest)?;
        let part = Part::new(blobs, name, reservation, None, Arc::default());
        // A disk that is fuller than the budget knows says so now, while the content can still pass through whole.
        if let Some(size) = size.filter(|size| *size > 0) {
            file.allocate(size).map_err(part.failed(Operation::AllocatePart))?;
        }
        Ok(Self { digest, file, part })
    }

    pub(super) async fn resume(blobs: Arc<Blobs>, digest: Digest, size: Option<u64>) -> Option<(Self, PartMap)> {
        if blobs.parts.has_none_of(&digest) {
            return None;
        }
        off_thread(move || Self::resume_blocking(blobs, digest, size)).await.ok()?
    }

    fn resume_blocking(blobs: Arc<Blobs>, digest: Digest, size: Option<u64>) -> Option<(Self, PartMap)> {
        blobs.parts.take_over().ok()?;
        let (kept, file) = blobs.parts.take(&digest, size)?;
        let KeptPart { name, map, mut reservation, writers, .. } = kept;
        let room = blobs.reserve(&mut reservation, map.size).and_then(|()| {
            file.allocate(map.size).map_err(|error| {
                blobs.health.disk_error(Operation::AllocatePart, &blobs.layout.part(name), &error);
                StoreError::io(Operation::AllocatePart, error)
            })
        });
        match room {
            Ok(()) => {
                let part = Part::new(blobs, name, reservation, Some(map.clone()), writers);
                Some((Self { digest, file, part }, map))
            }
            Err(error) => {
                tracing::info!(blob.digest = %digest, %error, "there is no room to go on with what was kept of a content");
                blobs.parts.remove(name);
                None
            }
        }
    }

    /// The part, to read from while it is written.
    pub fn file(&self) -> Arc<dyn StoredFile> {
        Arc::clone(&self.file)
    }

    /// The means to write the part.
    pub fn writer(&self) -> PartWriter {
        PartWriter { file: Arc::clone(&self.file), _writing: Arc::clone(&self.part.writers) }
    }

    /// Notes what has been written, so that another fill can go on from there if this one does not come to its end. It must have
    /// been written before this is called.
    pub async fn note(&self, map: PartMap) {
        let (blobs, name, noted) = (Arc::clone(&self.part.blobs), self.part.name, Arc::clone(&self.part.noted));
        let note = move || {
            if blobs.parts.note(name, &map).is_ok() {
                *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(map);
            }
        };
        // Fails at shutdown only.
        let _ = off_thread(note).await;
    }

    /// Ends it, and keeps what has been written for another fill, which can take it up when this returns.
    pub async fn keep(mut self, map: PartMap) {
        self.note(map).await;
        self.settle().await;
    }

    /// Ends it and removes the part, whatever was noted of it.
    pub async fn discard(mut self) {
        *self.part.noted.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.settle().await;
    }

    async fn settle(&mut self) {
        if let Some(settle) = self.part.settle() {
            // Fails at shutdown only.
            let _ = off_thread(settle).await;
        }
    }

    /// Makes sure that the content may be `total` bytes long.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] if the budget has no room for that. What was reserved stays so.
    pub async fn reserve(&mut self, total: u64) -> Result<(), StoreError> {
        if self.part.reservation().bytes() >= total {
            return Ok(());
        }
        let (blobs, reservation) = (Arc::clone(&self.part.blobs), Arc::clone(&self.part.reservation));
        off_thread(move || {
            let mut reservation = reservation.lock().unwrap_or_else(PoisonError::into_inner);
            reserve_in_steps(&blobs, &mut reservation, total)
        })
        .await?
    }

    /// Gives the content its name. The caller has written `size` bytes and found them to hash to the digest. When this returns,
    /// they are on the disk for good; the content it gives reads the file that was written.
    ///
    /// # Errors
    /// [`StoreError`]; then the part is gone. Content of the same digest that was there before may be gone, too.
    pub async fn commit(self, size: u64) -> Result<Content, StoreError> {
        off_thread(move || self.commit_blocking(size)).await?
    }

    fn commit_blocking(self, size: u64) -> Result<Content, StoreError> {
        let Self { digest, file, mut part } = self;
        let outcome = part.publish(&digest, &file, size);
        part.blobs.health.stored(&outcome);
        part.abort();
        outcome
    }
}

// === impl PartWriter ===

impl PartWriter {
    /// Writes all of `buffer` at `offset`. Blocks.
    ///
    /// # Errors
    /// What the disk said; [`Store::write_failed`](super::Store::write_failed) knows what it means.
    pub fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buffer, offset)
    }

    /// Writes all that is in `slices`, one after the other, from `offset` on. Blocks. They may be other ones afterwards.
    ///
    /// # Errors
    /// As [`PartWriter::write_all_at`].
    pub fn write_all_vectored_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_all_vectored_at(slices, offset)
    }
}

// === impl Part ===

impl Part {
    fn new(blobs: Arc<Blobs>, name: PartName, reservation: Reservation, noted: Option<PartMap>, writers: Arc<()>) -> Self {
        let path = blobs.layout.part(name);
        let (reservation, noted) = (Arc::new(Mutex::new(reservation)), Arc::new(Mutex::new(noted)));
        Self { blobs, name, path, reservation, noted, writers, present: true }
    }

    fn reservation(&self) -> MutexGuard<'_, Reservation> {
        self.reservation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Verifies the size, makes the bytes durable, then the name, then enters both into the catalog, in this order.
    fn publish(&mut self, digest: &Digest, file: &Arc<dyn StoredFile>, size: u64) -> Result<Content, StoreError> {
        let blobs = Arc::clone(&self.blobs);
        blobs.reserve(&mut self.reservation(), size)?;
        let found = file.len().map_err(self.failed(Operation::StatPart))?;
        if found != size {
            let wrong = io::Error::new(io::ErrorKind::InvalidData, format!("it has {found} bytes instead of {size}"));
            return Err(self.failed(Operation::StatPart)(wrong));
        }
        // The kernel may mark pages clean that it could not write, so that a second call says "fine": there is no second call.
        file.sync_data().map_err(self.failed(Operation::SyncPart))?;
        blobs.fs.protect(&self.path).map_err(self.failed(Operation::ProtectPart))?;

        let _claim = blobs.claims.claim(digest);
        let hold = blobs.holds.hold(digest).expect("content leaves only while its digest is held, and it is held here");
        if let Err(error) = self.take_name(digest) {
            // Whatever has the name now, the catalog shall say so.
            blobs.align(digest);
            return Err(error);
        }
        blobs.condemned().remove(digest);
        let arrival = Arrival::Fetched { at: blobs.clock.unix_millis() };
        let reservation = self.reservation().take();
        if let Err(error) = blobs.enter(digest, size, arrival, Some(reservation)) {
            blobs.health.catalog_error("write blob", &error);
            blobs.unlink(digest);
            blobs.align(digest);
            return Err(error.into());
        }
        blobs.parts.give_up(digest);
        Ok(Content::new(Arc::clone(file), size, hold))
    }

    fn take_name(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let blobs = Arc::clone(&self.blobs);
        let (fs, path) = (&blobs.fs, blobs.layout.blob(digest));
        let folder = blobs.layout.blob_folder(digest.algorithm(), digest.as_bytes()[0]);
        match fs.rename(&self.path, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs.create_folder(&folder).map_err(self.failed(Operation::CreateFolder))?;
                fs.rename(&self.path, &path).map_err(self.failed(Operation::RenamePart))?;
            }
            outcome => outcome.map_err(self.failed(Operation::RenamePart))?,
        }
        self.present = false;
        if self.noted.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            blobs.parts.forget(self.name);
        }
        fs.sync_folder(&folder).map_err(|error| {
            blobs.unlink(digest);
            self.failed(Operation::SyncFolder)(error)
        })
    }

    fn failed(&self, operation: Operation) -> impl FnOnce(io::Error) -> StoreError + use<'_> {
        move |error| {
            self.blobs.health.disk_error(operation, &self.path, &error);
            StoreError::io(operation, error)
        }
    }

    /// Removes the file, if its name is still there, and then gives the reservation back. Blocks.
    fn abort(&mut self) {
        if std::mem::take(&mut self.present) {
            self.blobs.parts.remove(self.name);
        }
        drop(self.reservation().take());
    }
}

impl Part {
    /// What is to be done with a part that has not become content: it is kept or removed. Blocks.
    fn settle(&mut self) -> Option<impl FnOnce() + Send + 'static> {
        if !std::mem::take(&mut self.present) {
            return None;
        }
        let (blobs, name, writers) = (Arc::clone(&self.blobs), self.name, std::mem::take(&mut self.writers));
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner).take();
        let reservation = Arc::clone(&self.reservation);
        Some(move || {
            let reservation = reservation.lock().unwrap_or_else(PoisonError::into_inner).take();
            match noted {
                Some(map) => {
                    let kept_at = blobs.clock.unix_millis();
                    blobs.parts.keep(KeptPart { name, map, reservation, kept_at, writers });
                    blobs.parts.sweep();
                }
                None => {
                    blobs.parts.remove(name);
                    drop(reservation);
                }
            }
        })
    }
}

impl Drop for Part {
    /// Removing or shortening a large file takes long, so this does not do it on an async thread.
    fn drop(&mut self) {
        let Some(settle) = self.settle() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(_) => drop(blocking(settle)),
            Err(_) => settle(),
        }
    }
}

fn create(blobs: &Blobs, digest: &Digest) -> Result<(PartName, Arc<dyn StoredFile>), StoreError> {
    let mut attempts = 0;
    loop {
        let name = blobs.parts.name(digest);
        let path = blobs.layout.part(name);
        match blobs.fs.create(&path) {
            Ok(file) => return Ok((name, file)),
            // One that could not be removed at the start.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempts < ATTEMPTS => attempts += 1,
            Err(error) => {
                blobs.health.disk_error(Operation::CreatePart, &path, &error);
                // The file may have been made all the same.
                blobs.parts.remove(name);
                return Err(StoreError::io(Operation::CreatePart, error));
            }
        }
    }
}

/// Reserves more than what is needed now, so as not to be back at once; less if there is no room for that.
fn reserve_in_steps(blobs: &Blobs, reservation: &mut Reservation, total: u64) -> Result<(), StoreError> {
    let step = total.checked_next_multiple_of(STEP).unwrap_or(total);
    if blobs.reserve_what_is_free(reservation, step) { Ok(()) } else { blobs.reserve(reservation, total) }
}
