//! The task that drives a fill: opens its lanes, as many as are worth it and where readers wait, replaces those that break, and
//! verifies and commits the content when all of it is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::Fills;
use super::error::FillError;
use super::flight::Fill;
use super::lane::{Ended, Lane, Site};
use super::origin::{self, Opened};
use super::plan::{Allowance, LaneId, Opening};
use super::prefix::Prefix;
use super::tempo::{INTERVAL, Tempo};
use crate::store::StoreError;
use crate::upstream::UpstreamError;
use crate::util::{blocking, jitter};

/// How many more times the upstream is asked after it failed, without one more byte having arrived.
const TRIES_WITHOUT_PROGRESS: u32 = 3;

/// The pause before the second try, doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// How long an upstream that limits the rate is waited for, once, before the first byte.
const SHORT_WAIT: Duration = Duration::from_secs(5);

/// A lone connection that brings less than this in [`TRICKLE_TIME`] is replaced by a new one, once in a fill.
const TRICKLE_BYTES: u64 = 64 << 10;
const TRICKLE_TIME: Duration = Duration::from_secs(10);

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
    // The fill before this one may have landed after the caller looked for its content and before it asked for a fill.
    if let Some(content) = fills.store().get(fill.digest()).await {
        fill.rest(content);
        return Ok(());
    }
    // Who waits here for longer than a client does is fetched all the same, for the next one.
    let _place = fills.place().await;
    let mut tries = Tries::default();
    let first = open_first(fills, fill, expected_size, &mut tries).await?;
    let ingest = fills.store().begin(*fill.digest(), first.size).await?;
    let site = Site {
        fill,
        file: ingest.file(),
        prefix: Arc::new(Prefix::new(fill.digest().algorithm())),
        ingest: Mutex::new(ingest),
        size: first.size,
        store: fills.store().clone(),
    };
    fill.begin(first.size, Arc::clone(&site.file));
    let size = Driver::new(fills, &site, tries).run(first).await?;

    let actual = site.prefix.digest();
    if actual != *fill.digest() {
        return Err(FillError::WrongDigest { actual });
    }
    fill.verify(size);
    site.ingest.into_inner().commit(size).await?;
    Ok(())
}

/// Asks for the content until there is an answer or the tries are used up.
async fn open_first(fills: &Fills, fill: &Fill, size: Option<u64>, tries: &mut Tries) -> Result<Opened, FillError> {
    let mut has_waited = false;
    loop {
        match origin::open(fill.source(), fill.digest(), 0..u64::MAX, size).await {
            // Whoever waits for the first byte has a deadline: what took long once is not tried again before it.
            Err(FillError::Upstream(error)) if error.is_transient() && !matches!(error, UpstreamError::Timeout { .. }) => {
                tokio::time::sleep(tries.pause(error)?).await;
                fills.resumed(fill);
            }
            // Podman and its kin never ask another host for a blob: a moment's wait saves their pull.
            Err(FillError::Upstream(UpstreamError::RateLimited { retry_after }))
                if !has_waited && retry_after.is_none_or(|after| after <= SHORT_WAIT) =>
            {
                has_waited = true;
                tokio::time::sleep(retry_after.unwrap_or(FIRST_PAUSE)).await;
                fills.resumed(fill);
            }
            opened => return opened,
        }
    }
}

/// A fill whose upstream has answered.
struct Driver<'a> {
    fills: &'a Fills,
    site: &'a Site<'a>,
    lanes: FuturesUnordered<BoxFuture<'a, (LaneId, Result<Ended, FillError>)>>,
    /// Of each open lane: how to tell it that its share has become smaller, and its place among those beyond the first.
    open: BTreeMap<LaneId, (Arc<Notify>, Option<OwnedSemaphorePermit>)>,
    tempo: Tempo,
    for_readers: usize,
    /// Whether the upstream can be asked for parts.
    ranges: bool,
    tries: Tries,
    /// What had arrived at the last failure.
    arrived_at_failure: u64,
    /// No lane is opened before.
    resting_until: Option<Instant>,
    hashing: Option<BoxFuture<'a, Result<(), FillError>>>,
    ticks: Interval,
    arrived_at_tick: u64,
    trickle: Trickle,
}

/// Watches for a connection that is alive and useless.
struct Trickle {
    since: Instant,
    arrived: u64,
    replaced: bool,
}

impl<'a> Driver<'a> {
    fn new(fills: &'a Fills, site: &'a Site<'a>, tries: Tries) -> Self {
        let (for_speed, for_readers) = fills.lanes_for(site.fill.source());
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            fills,
            site,
            lanes: FuturesUnordered::new(),
            open: BTreeMap::new(),
            tempo: Tempo::new(for_speed),
            for_readers,
            ranges: true,
            tries,
            arrived_at_failure: 0,
            resting_until: None,
            hashing: None,
            ticks,
            arrived_at_tick: 0,
            trickle: Trickle { since: Instant::now(), arrived: 0, replaced: false },
        }
    }

    /// Runs until all has arrived and is hashed; gives the size. `first` is the body of the first lane.
    async fn run(mut self, first: Opened) -> Result<u64, FillError> {
        let fill = self.site.fill;
        let opening = fill.next_lane(Allowance { lanes: 1, wanted: 1, ranges: false });
        if let Some(opening) = opening {
            let stop = Arc::new(Notify::new());
            let lane = Lane::new(self.site, &opening, Arc::clone(&stop)).receive(first.body);
            self.lanes.push(lane.map(move |end| (opening.lane, end)).boxed());
            self.open.insert(opening.lane, (stop, None));
        }
        loop {
            self.catch_up();
            if let Some(size) = fill.complete()
                && self.site.prefix.position() == size
            {
                return Ok(size);
            }
            self.open_lanes();
            let resting_until = self.resting_until.unwrap_or_else(|| Instant::now() + INTERVAL);
            // In a fixed order, so that a simulation can be replayed; what is always ready comes last.
            tokio::select! {
                biased;
                Some((lane, end)) = self.lanes.next() => self.ended(lane, end)?,
                hashed = async { self.hashing.as_mut().expect("the branch is for when there is one").await }, if self.hashing.is_some() => {
                    self.hashing = None;
                    hashed?;
                }
                _ = self.ticks.tick() => self.tick(),
                () = tokio::time::sleep_until(resting_until), if self.resting_until.is_some() => self.resting_until = None,
                () = fill.attention() => {}
            }
        }
    }

    /// Hashes what has arrived out of order.
    fn catch_up(&mut self) {
        let position = self.site.prefix.position();
        let end = self.site.fill.end_of_run(position);
        if self.hashing.is_some() || end == position {
            return;
        }
        let (file, prefix) = (Arc::clone(&self.site.file), Arc::clone(&self.site.prefix));
        let hashing = blocking(move || prefix.catch_up(&*file, end));
        let hashing = hashing.map(|hashed| match hashed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(FillError::Disk(error.to_string())),
            Err(_) => Err(FillError::Abandoned),
        });
        self.hashing = Some(hashing.boxed());
    }

    fn open_lanes(&mut self) {
        let source = self.site.fill.source();
        while self.resting_until.is_none() {
            // The first lane is every fill's right; the others share what their upstream is asked at once.
            let permit = if self.open.is_empty() { None } else { self.fills.extra_lane(source) };
            let most = self.open.len() + usize::from(self.open.is_empty() || permit.is_some());
            let lanes = self.tempo.lanes().min(most);
            let wanted = self.for_readers.min(most);
            let Some(opening) = self.site.fill.next_lane(Allowance { lanes, wanted, ranges: self.ranges }) else { return };
            self.open_lane(opening, permit);
        }
    }

    fn open_lane(&mut self, opening: Opening, permit: Option<OwnedSemaphorePermit>) {
        if let Some((stop, _)) = opening.instead_of.and_then(|lane| self.open.get(&lane)) {
            stop.notify_one();
        }
        let stop = Arc::new(Notify::new());
        let lane = Lane::new(self.site, &opening, Arc::clone(&stop)).run(self.open.is_empty());
        let id = opening.lane;
        self.lanes.push(lane.map(move |end| (id, end)).boxed());
        self.open.insert(id, (stop, permit));
    }

    fn ended(&mut self, lane: LaneId, end: Result<Ended, FillError>) -> Result<(), FillError> {
        let fill = self.site.fill;
        fill.close_lane(lane);
        self.open.remove(&lane);
        let arrived = fill.arrived_bytes();
        match end {
            Ok(Ended::Done) => Ok(()),
            Ok(Ended::NoRanges) => {
                self.ranges = false;
                self.tempo.retreat();
                Ok(())
            }
            Err(FillError::Upstream(error)) if error.is_transient() => {
                if arrived > self.arrived_at_failure {
                    self.tries = Tries::default();
                }
                self.arrived_at_failure = arrived;
                tracing::info!(
                    blob.digest = %fill.digest(), upstream = %fill.source().upstream, arrived_bytes = arrived, %error,
                    "an upstream body ended early; asking for the rest"
                );
                self.tempo.retreat();
                self.resting_until = Some(Instant::now() + self.tries.pause(error)?);
                self.fills.resumed(fill);
                Ok(())
            }
            // Not every upstream grants as many connections as we would like.
            Err(FillError::Upstream(error)) if !self.open.is_empty() => {
                tracing::info!(upstream = %fill.source().upstream, %error, "a further connection was refused; going on with those there are");
                self.ranges = false;
                self.tempo.retreat();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn tick(&mut self) {
        let fill = self.site.fill;
        let arrived = fill.arrived_bytes();
        self.tempo.interval(arrived - self.arrived_at_tick);
        self.arrived_at_tick = arrived;

        let trickle = &mut self.trickle;
        if trickle.since.elapsed() < TRICKLE_TIME {
            return;
        }
        if arrived - trickle.arrived < TRICKLE_BYTES && !trickle.replaced && self.ranges {
            trickle.replaced = true;
            for (lane, (stop, _)) in &self.open {
                fill.curtail_lane(*lane);
                stop.notify_one();
            }
        }
        trickle.since = Instant::now();
        trickle.arrived = arrived;
    }
}

/// Counts tries since there was progress.
#[derive(Default)]
struct Tries(u32);

impl Tries {
    /// How long to wait before another try is made because of `error`, which comes back if there is to be none.
    fn pause(&mut self, error: UpstreamError) -> Result<Duration, UpstreamError> {
        if self.0 == TRIES_WITHOUT_PROGRESS {
            return Err(error);
        }
        let pause = jitter(FIRST_PAUSE * 2_u32.pow(self.0));
        self.0 += 1;
        Ok(pause)
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
