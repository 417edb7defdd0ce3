//! The task that drives a fill: opens its lanes, as many as are worth it and where readers wait, replaces those that break, notes
//! what has arrived, and verifies and commits the content when all of it is there.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::Fills;
use super::error::FillError;
use super::flight::Fill;
use super::lane::{Ended, Lane, Site};
use super::link::{Link, OpenLane, Trial};
use super::origin::{self, Asking, Opened};
use super::places::Place;
use super::plan::{Allowance, LaneId, Opening};
use super::prefix::Prefix;
use super::tempo::{INTERVAL, INTERVALS_PER_SECOND, Sample, Tempo};
use crate::store::StoreError;
use crate::upstream::UpstreamError;
use crate::util::{blocking, jitter};

/// How many more times the upstream is asked after it failed, without [`PROGRESS`] between the failures.
const TRIES_WITHOUT_PROGRESS: u32 = 3;

/// How many bytes must have arrived since the last failure for the next one to be the first again.
const PROGRESS: u64 = 256 << 10;

/// The pause before the second try, doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// How long an upstream is waited for that limits the rate, once, before the first byte; or that is left alone for a moment because it
/// has failed this very content.
const SHORT_WAIT: Duration = Duration::from_secs(5);

/// How often who waits for a place looks whether it does so in vain.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A lone connection that brings less than this in [`TRICKLE_TIME`] is replaced by a new one, once in a fill.
const TRICKLE_BYTES: u64 = 64 << 10;
const TRICKLE_TIME: Duration = Duration::from_secs(10);

/// After how many more bytes it is noted which ones have arrived, if not after [`INTERVAL`]: what a kill costs at the most, with what
/// arrives meanwhile.
const NOTE_EVERY: u64 = 4 << 20;

/// How long nobody must have read a content before it is given up: who lost a connection comes back within that time.
const UNREAD_FOR: Duration = Duration::from_secs(10);

/// Runs `fill` to its end and takes it out of flight. `is_missing` says that the store is known not to have the content.
pub(super) async fn drive(fills: Fills, fill: Arc<Fill>, expected_size: Option<u64>, is_missing: bool) {
    let mut flight = Flight { fills, fill, outcome: None };
    flight.outcome = Some(run(&flight.fills, &flight.fill, expected_size, is_missing).await);
}

/// Sees to it that readers hear of the end of the fill, even of a panic in it.
struct Flight {
    fills: Fills,
    fill: Arc<Fill>,
    outcome: Option<Result<(), FillError>>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let error = match self.outcome.take() {
            Some(outcome) => outcome.err(),
            None if std::thread::panicking() => Some(FillError::Abandoned),
            // Its task is dropped before its end: so is the runtime.
            None => Some(FillError::Stopped),
        };
        if let Some(error) = &error {
            self.fill.fail(error.clone());
        }
        self.fills.land(&self.fill, error.as_ref());
    }
}

async fn run(fills: &Fills, fill: &Fill, expected_size: Option<u64>, is_missing: bool) -> Result<(), FillError> {
    // The fill before this one may have landed after the caller looked for its content and before it asked for a fill.
    if !is_missing && let Some(content) = fills.store().get(fill.digest()).await {
        fill.rest(content);
        return Ok(());
    }
    // Who waits here for longer than a client does is fetched all the same, for the next one.
    let link = fills.link_to(fill.source());
    let _place = place(&link, fill).await?;
    let resumed = fills.store().resume(*fill.digest(), expected_size).await;
    let mut size = expected_size;
    if let Some((_, map)) = &resumed {
        tracing::info!(
            blob.digest = %fill.digest(), size_bytes = map.size, arrived_bytes = map.bytes(),
            "going on with what an earlier fill has left"
        );
        fill.restore(map);
        size = Some(map.size);
    }
    let ranges = resumed.is_some();
    let opening = fill.next_lane(Allowance { lanes: 1, wanted: 1, ranges }).expect("what is not complete needs a lane");
    let mut tries = Tries::default();
    let is_resumed = resumed.is_some();
    // The file is made while the upstream is asked, so that it is there for the first byte.
    let (first, begun) = tokio::join!(open_first(fills, fill, &opening, size, &mut tries), async {
        match (resumed, size) {
            (Some((ingest, map)), _) => Some(Ok((ingest, Some(map)))),
            (None, Some(size)) if fill.source().origin.content_refusal().is_none() => {
                let begun = fills.store().begin_in_free_room(*fill.digest(), size).await;
                begun.map(|begun| begun.map(|ingest| (ingest, None)))
            }
            (None, _) => None,
        }
    });
    let first = match first {
        Ok(first) => first,
        Err(error) => {
            // What was taken up is back in its place before another fill can look for it. But the size that is wrong may be the one
            // that the earlier fill was told.
            match begun {
                Some(Ok((ingest, Some(map)))) if !error.is_integrity_failure() => ingest.keep(map).await,
                Some(Ok((ingest, _))) => ingest.discard().await,
                Some(Err(_)) | None => {}
            }
            return Err(error);
        }
    };
    let ingest = match begun {
        Some(begun) => begun?.0,
        None => fills.store().begin(*fill.digest(), first.size).await?,
    };
    let site = Site {
        fill,
        file: ingest.file(),
        writer: ingest.writer(),
        prefix: Arc::new(Prefix::new(fill.digest().algorithm())),
        link: Arc::clone(&link),
        ingest: Mutex::new(ingest),
        size: first.size,
        store: fills.store().clone(),
    };
    fill.begin(first.size, Arc::clone(&site.file));
    let outcome = Driver::new(fills, &site, tries).run(opening, first).await.and_then(|size| match site.prefix.digest() {
        actual if actual == *fill.digest() => Ok(size),
        _ if is_resumed => Err(FillError::BadPart),
        actual => Err(FillError::WrongDigest { actual }),
    });
    let Site { ingest, writer, .. } = site;
    drop(writer);
    let ingest = ingest.into_inner();
    match outcome {
        Ok(size) => {
            fill.verify(size);
            fill.rest(ingest.commit(size).await?);
            Ok(())
        }
        Err(error) => {
            match fill.map().filter(|_| error.leaves_a_part()) {
                Some(map) => ingest.keep(map).await,
                None => ingest.discard().await,
            }
            Err(error)
        }
    }
}

/// A place among the contents that are fetched at once; or why nobody will be asked for it, as soon as that is so: others may have
/// all places for long in just that case.
async fn place(link: &Link, fill: &Fill) -> Result<Place, FillError> {
    let mut taking = pin!(link.places().take());
    if let Some(place) = taking.as_mut().now_or_never() {
        return Ok(place);
    }
    loop {
        match fill.source().origin.content_refusal() {
            Some(error) if !is_worth_a_moment(&error) => return Err(error.into()),
            _ => {}
        }
        tokio::select! {
            biased;
            place = &mut taking => return Ok(place),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

/// Asks for the first lane's share until there is an answer or the tries are used up.
async fn open_first(
    fills: &Fills,
    fill: &Fill,
    opening: &Opening,
    size: Option<u64>,
    tries: &mut Tries,
) -> Result<Opened, FillError> {
    let begun = Instant::now();
    let mut has_waited = false;
    let mut asking = Asking::ForRanges;
    loop {
        match origin::open(fill.source(), fill.digest(), opening.share.clone(), size, asking).await {
            // It knows the content, as another one or not at all by its parts.
            Err(FillError::Upstream(UpstreamError::RangeNotSatisfiable)) if asking == Asking::ForRanges => {
                asking = Asking::ForTheWhole;
            }
            // Whoever waits for the first byte has a deadline: what took long once is not tried again before it.
            Err(FillError::Upstream(error)) if error.is_transient() && !matches!(error, UpstreamError::Timeout { .. }) => {
                tokio::time::sleep(tries.pause(error)?).await;
                fills.resumed(fill);
            }
            // It is there, if not well: a moment later it may answer, and nobody has failed to try it.
            Err(FillError::Upstream(error)) if error.is_flapping() && begun.elapsed() < SHORT_WAIT => {
                tokio::time::sleep(error.retry_after().unwrap_or_default().max(FIRST_PAUSE)).await;
            }
            // Who comes while it is left alone is told so at once; who has seen it fail waits for the end of that.
            Err(FillError::Upstream(error)) if tries.have_begun() && is_soon_over(&error) => {
                tokio::time::sleep(tries.pause(error)?).await;
                fills.resumed(fill);
            }
            // Podman and its kin never ask another host for a blob: a moment's wait saves their pull.
            Err(FillError::Upstream(UpstreamError::RateLimited { retry_after, .. }))
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
    /// Of each open lane, in the order of their opening: how to tell it that its share has become smaller, and what it counts as.
    open: BTreeMap<LaneId, (Arc<Notify>, OpenLane)>,
    tempo: Tempo,
    trial: Option<Trial>,
    for_readers: usize,
    /// Whether the upstream can be asked for parts, and how it is asked.
    ranges: bool,
    asking: Asking,
    tries: Tries,
    /// What had arrived at the last failure.
    arrived_at_failure: u64,
    /// No lane is opened before.
    resting_until: Option<Instant>,
    hashing: Option<BoxFuture<'a, Result<(), FillError>>>,
    noting: Option<BoxFuture<'a, ()>>,
    noted: u64,
    ticks: Interval,
    arrived_at_tick: u64,
    link_at_tick: u64,
    trickle: Trickle,
    unread_since: Option<Instant>,
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
        let arrived = site.fill.arrived_bytes();
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            fills,
            site,
            lanes: FuturesUnordered::new(),
            open: BTreeMap::new(),
            tempo: Tempo::new(for_speed),
            trial: None,
            for_readers,
            ranges: true,
            asking: Asking::ForRanges,
            tries,
            arrived_at_failure: arrived,
            resting_until: None,
            hashing: None,
            noting: None,
            noted: arrived,
            ticks,
            arrived_at_tick: arrived,
            link_at_tick: site.link.received(),
            trickle: Trickle { since: Instant::now(), arrived, replaced: false },
            unread_since: None,
        }
    }

    /// Runs until all has arrived and is hashed; gives the size. `first` is what the upstream has answered to the first opening.
    async fn run(mut self, opening: Opening, first: Opened) -> Result<u64, FillError> {
        let stop = Arc::new(Notify::new());
        let lane = Lane::new(self.site, &opening, Arc::clone(&stop)).receive(first.body);
        self.lanes.push(lane.map(move |end| (opening.lane, end)).boxed());
        self.open.insert(opening.lane, (stop, self.site.link.first()));
        // Asked for the rest, it sends the whole: there will be no parts.
        self.ranges = !(first.is_whole && opening.share.start > 0);

        let outcome = self.bring_all().await;
        // A note that comes late would undo the one after it.
        if let Some(noting) = self.noting.take() {
            noting.await;
        }
        outcome
    }

    async fn bring_all(&mut self) -> Result<u64, FillError> {
        let fill = self.site.fill;
        loop {
            self.catch_up();
            self.note(NOTE_EVERY);
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
                () = async { self.noting.as_mut().expect("the branch is for when there is one").await }, if self.noting.is_some() => {
                    self.noting = None;
                }
                _ = self.ticks.tick() => self.tick()?,
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
            Err(error) => Err(error.into()),
        });
        self.hashing = Some(hashing.boxed());
    }

    /// Notes what has arrived, if it is so much more than the last time, for whoever comes after a kill.
    fn note(&mut self, at_least: u64) {
        let fill = self.site.fill;
        if self.noting.is_some() || fill.arrived_bytes() < self.noted + at_least {
            return;
        }
        if let Some(map) = fill.map() {
            self.noted = map.bytes();
            let ingest = &self.site.ingest;
            self.noting = Some(async move { ingest.lock().await.note(map).await }.boxed());
        }
    }

    fn open_lanes(&mut self) {
        while self.resting_until.is_none() {
            let link = &self.site.link;
            let permit = if self.open.is_empty() { Some(link.first()) } else { link.further() };
            let most = self.open.len() + usize::from(permit.is_some());
            let lanes = self.tempo.lanes().min(most);
            let wanted = self.for_readers.min(most);
            let Some(opening) = self.site.fill.next_lane(Allowance { lanes, wanted, ranges: self.ranges }) else { return };
            // One that opens in another's place gets its permit when that has ended, if not before: for a moment there is one more.
            let permit = permit.unwrap_or_else(|| link.first());
            self.open_lane(opening, permit);
        }
    }

    fn open_lane(&mut self, opening: Opening, permit: OpenLane) {
        if let Some((stop, _)) = opening.instead_of.and_then(|lane| self.open.get(&lane)) {
            stop.notify_one();
        }
        let stop = Arc::new(Notify::new());
        let lane = Lane::new(self.site, &opening, Arc::clone(&stop)).run(self.asking, self.open.is_empty());
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
            Err(FillError::Upstream(error)) if error.is_transient() || is_soon_over(&error) => {
                if arrived >= self.arrived_at_failure + PROGRESS {
                    self.tries = Tries::default();
                    self.arrived_at_failure = arrived;
                }
                tracing::info!(
                    blob.digest = %fill.digest(), upstream = %fill.source().upstream, arrived_bytes = arrived, %error,
                    "an upstream body ended early; asking for the rest"
                );
                self.tempo.retreat();
                self.resting_until = Some(Instant::now() + self.tries.pause(error)?);
                self.fills.resumed(fill);
                Ok(())
            }
            // It answered for the whole before: one more time, then.
            Err(FillError::Upstream(UpstreamError::RangeNotSatisfiable)) if self.asking == Asking::ForRanges => {
                self.asking = Asking::ForTheWhole;
                self.ranges = false;
                self.tempo.retreat();
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

    fn tick(&mut self) -> Result<(), FillError> {
        let arrived = self.site.fill.arrived_bytes();
        let received = self.site.link.received();
        let (bytes, of_link) = (arrived - self.arrived_at_tick, received - self.link_at_tick);
        (self.arrived_at_tick, self.link_at_tick) = (arrived, received);
        let rest = self.site.size.map_or(0, |size| size - arrived);

        self.set_tempo(Sample { bytes, of_link, lanes_of_link: self.site.link.lanes(), rest, may_try: false });
        self.note(1);
        self.look_for_trickle(arrived);
        self.look_for_readers(bytes, rest)
    }

    fn set_tempo(&mut self, sample: Sample) {
        let trial = self.trial.take().or_else(|| self.site.link.try_trial());
        let lanes = self.tempo.lanes();
        self.tempo.interval(Sample { may_try: trial.is_some(), ..sample });
        self.trial = trial.filter(|_| self.tempo.is_trying());
        // What brings nothing is closed at once: the youngest first, for they have the least behind them.
        let surplus = lanes.saturating_sub(self.tempo.lanes());
        for (lane, (stop, _)) in self.open.iter().rev().take(surplus.min(self.open.len().saturating_sub(1))) {
            self.site.fill.curtail_lane(*lane);
            stop.notify_one();
        }
    }

    /// Ends the fill when nobody has read it for a while and it is too large to be fetched for nobody.
    fn look_for_readers(&mut self, bytes: u64, rest: u64) -> Result<(), FillError> {
        let rate = bytes.saturating_mul(INTERVALS_PER_SECOND);
        if self.fills.is_read(self.site.fill) || self.fills.is_worth_finishing(rest, rate) {
            self.unread_since = None;
            return Ok(());
        }
        let since = *self.unread_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= UNREAD_FOR && self.fills.end_if_unread(self.site.fill) {
            return Err(FillError::Unread);
        }
        Ok(())
    }

    fn look_for_trickle(&mut self, arrived: u64) {
        let fill = self.site.fill;
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
        // Before that it would not be asked.
        Ok(pause.max(error.retry_after().unwrap_or_default()))
    }

    fn have_begun(&self) -> bool {
        self.0 > 0
    }
}

/// Whether who is refused for this waits for its end.
fn is_worth_a_moment(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::RateLimited { retry_after, .. } => retry_after.is_none_or(|after| after <= SHORT_WAIT),
        error => error.is_flapping(),
    }
}

/// Whether the upstream is left alone for no longer than one waits for it.
fn is_soon_over(error: &UpstreamError) -> bool {
    matches!(error, UpstreamError::Suspended { retry_after, .. } if *retry_after <= SHORT_WAIT)
}

impl From<StoreError> for FillError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSpace => Self::NoSpace,
            other => Self::Disk(other.to_string()),
        }
    }
}
