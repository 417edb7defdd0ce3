//! The task that drives a fill: asks the upstream, writes what arrives, hashes it, verifies it, commits it.
//! A body that is cut or stalls is asked for again from where it stood; readers notice a pause at most.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;

use super::Fills;
use super::error::FillError;
use super::flight::Fill;
use super::origin::{self, Opened};
use crate::oci::Hasher;
use crate::store::{Ingest, StoreError};
use crate::upstream::{Body, UpstreamError};
use crate::util::jitter;

/// How many more times the upstream is asked after it failed, without one more byte having arrived.
const TRIES_WITHOUT_PROGRESS: u32 = 3;

/// The pause before the second try, doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// How many bytes are hashed and written in one go on a blocking thread. While one batch is written the next one gathers.
const BATCH: usize = 512 << 10;

/// Runs `fill` to its end and takes it out of flight.
pub(super) async fn drive(fills: Fills, fill: Arc<Fill>, expected_size: Option<u64>) {
    let mut flight = Flight { fills, fill, outcome: Some(FillError::Abandoned) };
    flight.outcome = run(&flight.fills, &flight.fill, expected_size).await.err();
}

/// Sees to it that readers hear of the end of the fill, even of a panic in it.
struct Flight {
    fills: Fills,
    fill: Arc<Fill>,
    outcome: Option<FillError>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let error = self.outcome.take();
        if let Some(error) = &error {
            self.fill.fail(error.clone());
        }
        self.fills.land(&self.fill, error.as_ref());
    }
}

async fn run(fills: &Fills, fill: &Fill, expected_size: Option<u64>) -> Result<(), FillError> {
    let source = fill.source();
    // The fill before this one may have landed after the caller looked for its content and before it asked for a fill.
    if let Some(content) = fills.store().get(fill.digest()).await {
        fill.begin(Some(content.size), content.file);
        fill.arrived(0, content.size);
        fill.verify(content.size);
        return Ok(());
    }
    let mut tries = Tries::default();
    let Opened { size, mut body } = open(fills, fill, 0, expected_size, &mut tries).await?;
    let ingest = fills.store().begin(*fill.digest(), size).await?;
    fill.begin(size, ingest.file());

    let mut arrival = Arrival { fill, ingest, hasher: Hasher::new(fill.digest().algorithm()), position: 0, size };
    loop {
        let before = arrival.position;
        let error = match arrival.receive(body).await {
            Ok(()) => break,
            Err(FillError::Upstream(error)) if error.is_transient() => error,
            Err(error) => return Err(error),
        };
        if arrival.position > before {
            tries = Tries::default();
        }
        tracing::info!(blob.digest = %fill.digest(), upstream = %source.upstream, at_bytes = arrival.position, %error, "upstream body ended early; asking for the rest");
        tries.pause(error).await?;
        fills.resumed(fill);
        body = open(fills, fill, arrival.position, arrival.size, &mut tries).await?.body;
    }

    let Arrival { ingest, hasher, position: size, .. } = arrival;
    let actual = hasher.finish();
    if actual != *fill.digest() {
        return Err(FillError::WrongDigest { actual });
    }
    fill.verify(size);
    ingest.commit(size).await?;
    Ok(())
}

/// Asks for the content from `position` on, until there is an answer or the tries are used up.
async fn open(fills: &Fills, fill: &Fill, position: u64, size: Option<u64>, tries: &mut Tries) -> Result<Opened, FillError> {
    loop {
        match origin::open(fill.source(), fill.digest(), position, size).await {
            Err(FillError::Upstream(error)) if is_worth_another_try(&error, position) => {
                tries.pause(error).await?;
                fills.resumed(fill);
            }
            opened => return opened,
        }
    }
}

fn is_worth_another_try(error: &UpstreamError, position: u64) -> bool {
    // Whoever waits for the first byte has a deadline: what took long once is not tried again before it.
    let is_late = position == 0 && matches!(error, UpstreamError::Timeout { .. });
    error.is_transient() && !is_late
}

/// Content on its way into its part.
struct Arrival<'a> {
    fill: &'a Fill,
    ingest: Ingest,
    /// Over all bytes before `position`.
    hasher: Hasher,
    position: u64,
    size: Option<u64>,
}

impl Arrival<'_> {
    /// Writes and hashes `body`, which continues at the position, to its end.
    ///
    /// # Errors
    /// [`FillError::Upstream`] if the body is cut: all that came before has arrived.
    async fn receive(&mut self, mut body: Body) -> Result<(), FillError> {
        let mut writing: Option<Writing> = None;
        let mut batch = Batch::default();
        let end = loop {
            if batch.len >= BATCH || (writing.is_none() && batch.len > 0) {
                self.settle(&mut writing).await?;
                writing = Some(self.write(std::mem::take(&mut batch)).await?);
            }
            // What is written is made known as soon as it is, not only when the next bytes come.
            let next = match &mut writing {
                None => body.next().await,
                Some(under_way) => tokio::select! {
                    biased;
                    written = under_way => {
                        writing = None;
                        self.written(written)?;
                        continue;
                    }
                    next = body.next() => next,
                },
            };
            match next {
                Some(Ok(chunk)) => batch.push(chunk),
                Some(Err(error)) => break Err(error.into()),
                None => break Ok(()),
            }
        };
        self.settle(&mut writing).await?;
        if batch.len > 0 {
            writing = Some(self.write(batch).await?);
            self.settle(&mut writing).await?;
        }
        if end.is_ok()
            && let Some(expected) = self.size
            && self.position < expected
        {
            let reason = format!("the body ended at byte {} of {expected}", self.position);
            return Err(UpstreamError::Broken { reason }.into());
        }
        end
    }

    /// Begins to hash and write `batch` at the position. Only one batch is under way at a time: the hasher is in it.
    async fn write(&mut self, batch: Batch) -> Result<Writing, FillError> {
        let at = self.position;
        let total = at + batch.len as u64;
        match self.size {
            Some(expected) if total > expected => return Err(FillError::WrongSize { expected, actual: total }),
            Some(_) => {}
            None => self.ingest.reserve(total).await?,
        }
        let file = self.ingest.file();
        let mut hasher = std::mem::replace(&mut self.hasher, Hasher::new(self.fill.digest().algorithm()));
        Ok(tokio::task::spawn_blocking(move || {
            let mut position = at;
            for chunk in &batch.chunks {
                file.write_all_at(chunk, position)?;
                hasher.update(chunk);
                position += chunk.len() as u64;
            }
            Ok((hasher, position))
        }))
    }

    async fn settle(&mut self, writing: &mut Option<Writing>) -> Result<(), FillError> {
        match writing.take() {
            Some(under_way) => self.written(under_way.await),
            None => Ok(()),
        }
    }

    fn written(&mut self, result: Result<std::io::Result<(Hasher, u64)>, tokio::task::JoinError>) -> Result<(), FillError> {
        let (hasher, position) = match result {
            Ok(Ok(written)) => written,
            Ok(Err(error)) => return Err(StoreError::write(error).into()),
            Err(_) => return Err(FillError::Abandoned),
        };
        self.fill.arrived(self.position, position);
        self.hasher = hasher;
        self.position = position;
        Ok(())
    }
}

type Writing = tokio::task::JoinHandle<std::io::Result<(Hasher, u64)>>;

#[derive(Default)]
struct Batch {
    chunks: Vec<Bytes>,
    len: usize,
}

impl Batch {
    fn push(&mut self, chunk: Bytes) {
        self.len += chunk.len();
        self.chunks.push(chunk);
    }
}

/// Counts tries since there was progress.
#[derive(Default)]
struct Tries(u32);

impl Tries {
    /// Waits before another try is made because of `error`, which comes back if there is to be none.
    async fn pause(&mut self, error: UpstreamError) -> Result<(), UpstreamError> {
        if self.0 == TRIES_WITHOUT_PROGRESS {
            return Err(error);
        }
        tokio::time::sleep(jitter(FIRST_PAUSE * 2_u32.pow(self.0))).await;
        self.0 += 1;
        Ok(())
    }
}

impl From<StoreError> for FillError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSpace => Self::NoSpace,
            other => Self::Disk(other.to_string()),
        }
    }
}
