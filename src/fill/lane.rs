//! One connection of a fill: asks for its share, takes what comes and writes it where it belongs. It stops where its share ends,
//! which may be earlier by now than when it began, and knows of no other lane.

use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{Mutex, Notify};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep};

use super::batch::Batch;
use super::error::FillError;
use super::flight::{Fill, Unwritten};
use super::link::Link;
use super::origin::{self, Asking, Opened};
use super::plan::{LaneId, Opening};
use super::prefix::Prefix;
use crate::store::{Ingest, PartWriter, Store, StoredFile};
use crate::upstream::{Body, UpstreamError};
use crate::util::blocking;

/// From how many bytes on a batch is written although the one before still is. While one batch is written the next one gathers.
const BATCH: u64 = 512 << 10;

/// How many bytes are written first. Who waits for them gets them from memory: for a thread that writes to wake, to be done and to
/// wake this one again takes longer than all else that we do between the upstream's first byte and the client's.
const FIRST: u64 = 64 << 10;

/// For how long the first bytes of a batch wait for more. A link brings a few KiB at a time: to hand each of these on at once was an eighth
/// of the processor time of a pull at 200 MB/s.
const GATHERING: Duration = Duration::from_millis(2);

/// For how long what is less than a whole grain waits for more.
const GRAIN_GATHERING: Duration = Duration::from_millis(10);

/// What the lanes of a fill share.
pub(super) struct Site<'a> {
    pub(super) fill: &'a Fill,
    pub(super) file: Arc<dyn StoredFile>,
    pub(super) writer: PartWriter,
    pub(super) prefix: Arc<Prefix>,
    pub(super) link: Arc<Link>,
    /// Grows while the size is not known. There is one lane then.
    pub(super) ingest: Mutex<Ingest>,
    pub(super) size: Option<u64>,
    pub(super) store: Store,
}

/// How a lane ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It has brought its share, or as much of it as the upstream gave it.
    Done,
    /// The upstream sends the whole whatever part it is asked for, and other lanes are at that already.
    NoRanges,
}

/// A connection at work.
pub(super) struct Lane<'a> {
    site: &'a Site<'a>,
    id: LaneId,
    /// The next byte that comes off the connection.
    taken: u64,
    /// Up to where the connection was asked for.
    asked: u64,
    /// Told when the share has become smaller.
    stop: Arc<Notify>,
    /// Whether something is written, or about to be.
    has_begun: bool,
    writing: Option<Writing>,
}

type Writing = JoinHandle<io::Result<Range<u64>>>;

/// How long a batch has waited for more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gathered {
    /// Not long.
    Little,
    /// As long as whole grains wait: [`GATHERING`].
    Grains,
    /// As long as anything waits: [`GRAIN_GATHERING`].
    All,
}

impl<'a> Lane<'a> {
    pub(super) fn new(site: &'a Site<'a>, opening: &Opening, stop: Arc<Notify>) -> Self {
        let (taken, asked) = (opening.share.start, opening.share.end);
        Self { site, id: opening.lane, taken, asked, stop, has_begun: false, writing: None }
    }

    /// Runs to the end of the share. `alone` says that no other lane is open.
    pub(super) async fn run(self, asking: Asking, alone: bool) -> Result<Ended, FillError> {
        let fill = self.site.fill;
        let opened = origin::open(fill.source(), fill.digest(), self.taken..self.asked, self.site.size, asking);
        let Opened { body, is_whole, .. } = tokio::select! {
            biased;
            () = self.stopped() => return Ok(Ended::Done),
            opened = opened => opened?,
        };
        if is_whole && self.taken > 0 && !alone {
            return Ok(Ended::NoRanges);
        }
        self.receive(body).await
    }

    /// Takes `body`, which begins at the share's first byte, to the end of the share.
    pub(super) async fn receive(mut self, mut body: Body) -> Result<Ended, FillError> {
        let mut batch = Batch::at(self.taken);
        let mut gathering = pin!(sleep(GATHERING));
        let mut gathered = Gathered::Little;
        let end = loop {
            if let Some(cut) = self.due(&batch, gathered) {
                self.settle().await?;
                self.write(batch.split_to(cut)).await?;
                gathered = Gathered::Little;
                gathering.as_mut().reset(Instant::now() + GATHERING);
            }
            if self.taken >= self.site.fill.end_of_share(self.id) {
                break Ok(Ended::Done);
            }
            let stop = Arc::clone(&self.stop);
            // What is written is made known as soon as it is, not only when the next bytes come.
            let next = tokio::select! {
                biased;
                written = async { self.writing.as_mut().expect("the branch is for when there is one").await }, if self.writing.is_some() => {
                    self.writing = None;
                    self.written(written)?;
                    continue;
                }
                () = stop.notified() => continue,
                next = body.next() => next,
                () = &mut gathering, if !batch.is_empty() && gathered != Gathered::All => {
                    gathered = match gathered {
                        Gathered::Little => Gathered::Grains,
                        Gathered::Grains | Gathered::All => Gathered::All,
                    };
                    gathering.as_mut().reset(Instant::now() + (GRAIN_GATHERING - GATHERING));
                    continue;
                }
            };
            match next {
                Some(Ok(chunk)) => {
                    if batch.is_empty() {
                        gathered = Gathered::Little;
                        gathering.as_mut().reset(Instant::now() + GATHERING);
                    }
                    self.take(&mut batch, chunk);
                }
                Some(Err(error)) => break Err(error),
                None => break self.ended(),
            }
        };
        self.settle().await?;
        if !batch.is_empty() {
            self.write(batch).await?;
            self.settle().await?;
        }
        Ok(end?)
    }

    /// Up to where `batch` is to be written now, if any of it is.
    fn due(&self, batch: &Batch, gathered: Gathered) -> Option<u64> {
        match gathered {
            _ if batch.is_empty() => None,
            _ if !self.has_begun => Some(batch.range().start + FIRST),
            _ if batch.len() >= BATCH => batch.last_cut(),
            _ if self.writing.is_some() => None,
            Gathered::Little => None,
            Gathered::Grains => batch.last_cut(),
            Gathered::All => Some(batch.range().end),
        }
    }

    /// Waits until the share has become empty.
    async fn stopped(&self) {
        while self.taken < self.site.fill.end_of_share(self.id) {
            self.stop.notified().await;
        }
    }

    /// Adds to `batch` what of `chunk` is this lane's share.
    fn take(&mut self, batch: &mut Batch, mut chunk: Bytes) {
        let left = self.site.fill.end_of_share(self.id) - self.taken;
        chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        self.taken += chunk.len() as u64;
        self.site.fill.take(self.id, self.taken);
        batch.push(chunk);
    }

    /// The body is over before the share is.
    fn ended(&self) -> Result<Ended, UpstreamError> {
        match self.site.size {
            None => {
                self.site.fill.tell_size(self.taken);
                Ok(Ended::Done)
            }
            // More was added to the share than was asked for.
            Some(_) if self.taken == self.asked => Ok(Ended::Done),
            Some(size) => Err(UpstreamError::Broken { reason: format!("the body ended at byte {} of {size}", self.taken) }),
        }
    }

    /// Begins to write `batch`.
    async fn write(&mut self, batch: Batch) -> Result<(), FillError> {
        if self.site.size.is_none() {
            self.site.ingest.lock().await.reserve(self.taken).await?;
        }
        let (writer, prefix) = (self.site.writer.clone(), Arc::clone(&self.site.prefix));
        let position = batch.range().start;
        let first = batch.first().filter(|_| !self.has_begun).cloned();
        self.has_begun = true;
        self.writing = Some(blocking(move || {
            writer.write_all_vectored_at(&mut batch.slices(), position)?;
            let mut position = position;
            for chunk in batch.chunks() {
                prefix.feed(position, chunk);
                position += chunk.len() as u64;
            }
            Ok(batch.range())
        }));
        if let Some(first) = first {
            // A copy, because what a slow client keeps of the connection's buffer would keep all of that.
            self.site.fill.lend(self.id, Unwritten { position, bytes: Bytes::copy_from_slice(&first) });
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), FillError> {
        match self.writing.take() {
            Some(under_way) => self.written(under_way.await),
            None => Ok(()),
        }
    }

    fn written(&self, result: Result<io::Result<Range<u64>>, JoinError>) -> Result<(), FillError> {
        match result {
            Ok(Ok(range)) => {
                self.site.link.receive(range.end - range.start);
                self.site.fill.arrive(self.id, range);
                Ok(())
            }
            Ok(Err(error)) => Err(self.site.store.write_failed(error).into()),
            Err(error) => Err(error.into()),
        }
    }
}
