//! One connection of a fill: asks for its share, takes what comes and writes it where it belongs. It stops where its share ends,
//! which may be earlier by now than when it began, and knows of no other lane.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{Mutex, Notify};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep};

use super::error::FillError;
use super::flight::{Fill, Unwritten};
use super::link::Link;
use super::origin::{self, Asking, Opened};
use super::plan::{LaneId, Opening};
use super::prefix::Prefix;
use crate::store::{Ingest, PartWriter, Store, StoredFile};
use crate::upstream::{Body, UpstreamError};
use crate::util::blocking;

/// How many bytes are written in one go on a blocking thread. While one batch is written the next one gathers.
const BATCH: usize = 512 << 10;

/// How many bytes are written first. Who waits for them gets them from memory: for a thread that writes to wake, to be done and to
/// wake this one again takes longer than all else that we do between the upstream's first byte and the client's.
const FIRST: usize = 64 << 10;

/// For how long the first bytes of a batch wait for more. A link brings a few KiB at a time: to hand each of these on at once was an eighth
/// of the processor time of a pull at 200 MB/s.
const GATHERING: Duration = Duration::from_millis(2);

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

type Writing = JoinHandle<io::Result<std::ops::Range<u64>>>;

#[derive(Default)]
struct Batch {
    chunks: Vec<Bytes>,
    len: usize,
}

impl Batch {
    /// Takes `len` bytes from its beginning, if they are in one piece and not all of it.
    fn split_first(&mut self, len: usize) -> Option<Self> {
        let first = self.chunks.first_mut().filter(|first| first.len() > len)?;
        let chunk = first.split_to(len);
        self.len -= len;
        Some(Self { chunks: vec![chunk], len })
    }
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
        let mut batch = Batch::default();
        let mut gathering = pin!(sleep(GATHERING));
        let mut is_due = false;
        let end = loop {
            if batch.len >= BATCH || (self.writing.is_none() && batch.len > 0 && (is_due || !self.has_begun)) {
                self.settle().await?;
                let first = if self.has_begun { None } else { batch.split_first(FIRST) };
                let next = first.unwrap_or_else(|| std::mem::take(&mut batch));
                self.write(next, self.taken - batch.len as u64).await?;
                is_due = false;
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
                () = &mut gathering, if batch.len > 0 && !is_due => {
                    is_due = true;
                    continue;
                }
            };
            match next {
                Some(Ok(chunk)) => {
                    if batch.len == 0 {
                        gathering.as_mut().reset(Instant::now() + GATHERING);
                    }
                    self.take(&mut batch, chunk);
                }
                Some(Err(error)) => break Err(error),
                None => break self.ended(),
            }
        };
        self.settle().await?;
        if batch.len > 0 {
            self.write(batch, self.taken).await?;
            self.settle().await?;
        }
        Ok(end?)
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
        batch.len += chunk.len();
        batch.chunks.push(chunk);
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

    /// Begins to write `batch`, which ends before the byte `end`.
    async fn write(&mut self, batch: Batch, end: u64) -> Result<(), FillError> {
        if self.site.size.is_none() {
            self.site.ingest.lock().await.reserve(self.taken).await?;
        }
        let (writer, prefix) = (self.site.writer.clone(), Arc::clone(&self.site.prefix));
        let range = end - batch.len as u64..end;
        let position = range.start;
        let first = batch.chunks.first().filter(|_| !self.has_begun).cloned();
        self.has_begun = true;
        self.writing = Some(blocking(move || {
            let mut position = range.start;
            for chunk in &batch.chunks {
                writer.write_all_at(chunk, position)?;
                prefix.feed(position, chunk);
                position += chunk.len() as u64;
            }
            Ok(range)
        }));
        if let Some(first) = first {
            // A copy, because what a slow client keeps of the connection's buffer would keep all of that.
            let bytes = Bytes::copy_from_slice(&first[..first.len().min(FIRST)]);
            self.site.fill.lend(self.id, Unwritten { position, bytes });
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), FillError> {
        match self.writing.take() {
            Some(under_way) => self.written(under_way.await),
            None => Ok(()),
        }
    }

    fn written(&self, result: Result<io::Result<std::ops::Range<u64>>, JoinError>) -> Result<(), FillError> {
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
