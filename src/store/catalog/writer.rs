//! The one thread that writes the catalog. It takes whatever jobs are waiting into one transaction and answers them when that is
//! committed; a catalog that turns out to be broken is set aside and replaced, and the jobs run on the new one.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::accesses::Accesses;
use super::readers::Readers;
use super::{CatalogError, contents, schema};
use crate::store::budget::Budget;
use crate::store::folder::Folder;
use crate::store::health::Health;
use crate::util::Clock;

/// How long accesses wait in memory at most, if nothing else asks for them.
const FLUSH_INTERVAL: Duration = Duration::from_secs(30);

/// A catalog that cannot be opened is not tried again before.
const CLOSED_FOR: Duration = Duration::from_millis(500);

/// After how many failures of the disk, and how long after the first of them, a catalog is set aside: its place on the disk is bad.
const FAILURES: u32 = 16;
const FAILING_FOR: Duration = Duration::from_secs(10);

/// How many jobs share a transaction at most.
const BATCH: usize = 512;

/// A handle to the thread. Dropping it lets the thread finish what it was given, and waits for that.
pub(super) struct Writer {
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread works with.
pub(super) struct Worker {
    pub(super) path: PathBuf,
    /// The file is in it, and is not made in what may be in its place.
    pub(super) folder: Arc<Folder>,
    /// `None` after a new catalog could not be made, or the folder was gone: tried again with the next job.
    pub(super) connection: Option<Connection>,
    pub(super) trouble: Trouble,
    /// Is told when there is no catalog any more, so that somebody sees to it that there is one again.
    pub(super) health: Arc<Health>,
    pub(super) readers: Arc<Readers>,
    pub(super) accesses: Arc<Accesses>,
    pub(super) budget: Budget,
    pub(super) clock: Arc<dyn Clock>,
    /// Called when the catalog was replaced by an empty one, or opened again.
    pub(super) on_renewed: Box<dyn Fn() + Send>,
}

/// What has gone wrong with the file of late.
#[derive(Default)]
pub(super) struct Trouble {
    /// When it could not be opened, and why.
    closed: Option<(Instant, CatalogError)>,
    failing: Failing,
}

/// Since when, and how many times, the disk has failed the file without taking anything in between.
#[derive(Default)]
struct Failing(Option<(Instant, u32)>);

pub(super) enum Command {
    Job(Box<dyn Job>),
    /// Store the accesses now.
    Flush,
    /// The file is out of reach.
    LetGo,
    /// A reader found the catalog of this generation broken.
    SetAside {
        generation: u64,
    },
}

/// A change of the catalog. It may be attempted more than once; only the last attempt counts.
pub(super) trait Job: Send {
    fn attempt(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Called on the writer's thread, when the last attempt is committed or there will be no other.
    fn finish(self: Box<Self>, outcome: Result<(), CatalogError>);
}

struct FnJob<T, W, D> {
    work: W,
    value: Option<T>,
    done: D,
}

impl<T, W, D> Job for FnJob<T, W, D>
where
    T: Send,
    W: FnMut(&Connection) -> rusqlite::Result<T> + Send,
    D: FnOnce(Result<T, CatalogError>) + Send,
{
    fn attempt(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.value = Some((self.work)(connection)?);
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), CatalogError>) {
        let Self { value, done, .. } = *self;
        done(outcome.and_then(|()| value.ok_or(CatalogError::Stopped)));
    }
}

// === impl Writer ===

impl Writer {
    pub(super) fn start(worker: Worker) -> std::io::Result<Self> {
        let (commands, received) = mpsc::channel();
        let thread = thread::Builder::new().name("larder-catalog".into()).spawn(move || worker.run(&received))?;
        Ok(Self { commands: Some(commands), thread: Some(thread) })
    }

    /// Has `work` done within a transaction, then calls `done` on the writer's thread with what the committed attempt gave.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
        done: impl FnOnce(Result<T, CatalogError>) + Send + 'static,
    ) {
        if let Err(mpsc::SendError(Command::Job(job))) = self.send(Command::Job(Box::new(FnJob { work, value: None, done }))) {
            job.finish(Err(CatalogError::Stopped));
        }
    }

    pub(super) fn send(&self, command: Command) -> Result<(), mpsc::SendError<Command>> {
        self.commands.as_ref().expect("the channel is closed by Drop alone").send(command)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.commands.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the catalog's thread panicked");
        }
    }
}

// === impl Failing ===

impl Failing {
    /// Notes another failure at `now`. Tells whether that is enough; then it begins anew.
    fn once_more(&mut self, now: Instant) -> bool {
        let (since, times) = self.0.get_or_insert((now, 0));
        *times += 1;
        let is_enough = *times >= FAILURES && now.saturating_duration_since(*since) >= FAILING_FOR;
        if is_enough {
            self.0 = None;
        }
        is_enough
    }
}

// === impl Worker ===

impl Worker {
    fn run(mut self, commands: &Receiver<Command>) {
        let mut flushed = Instant::now();
        loop {
            let mut jobs = Vec::new();
            let mut flush = false;
            let mut closed = false;
            let mut next = match commands.recv_timeout(FLUSH_INTERVAL.saturating_sub(flushed.elapsed())) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    closed = true;
                    None
                }
            };
            while let Some(command) = next {
                match command {
                    Command::Job(job) => jobs.push(job),
                    Command::Flush => flush = true,
                    Command::LetGo => {
                        self.connection = None;
                        self.trouble = Trouble::default();
                        self.readers.renew();
                    }
                    Command::SetAside { generation } if generation == self.readers.generation() => self.set_aside(),
                    Command::SetAside { .. } => {}
                }
                next = if jobs.len() < BATCH { commands.try_recv().ok() } else { None };
            }
            if flush || closed || flushed.elapsed() >= FLUSH_INTERVAL {
                jobs.insert(0, self.store_accesses());
                flushed = Instant::now();
            }
            self.run_all(jobs);
            if closed {
                // The last connection to be closed is one that can write, so that it leaves no log behind.
                self.readers.renew();
                return;
            }
        }
    }

    /// A job for what the accesses hold now. They are worth little: if it fails, they are lost.
    fn store_accesses(&self) -> Box<dyn Job> {
        let accesses = self.accesses.take();
        let work = move |connection: &Connection| {
            accesses.iter().try_for_each(|(digest, access)| contents::touch(connection, digest, *access))
        };
        let done = |outcome: Result<(), CatalogError>| {
            if let Err(error) = outcome {
                tracing::warn!(%error, "access times could not be stored");
            }
        };
        Box::new(FnJob { work, value: None, done })
    }

    fn run_all(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        if jobs.is_empty() {
            return;
        }
        match self.transact(&mut jobs) {
            Ok(()) => jobs.into_iter().for_each(|job| job.finish(Ok(()))),
            // One of them may be to blame: each for itself.
            Err(_) if jobs.len() > 1 => jobs.into_iter().for_each(|job| self.run_all(vec![job])),
            Err(error) => jobs.into_iter().for_each(|job| job.finish(Err(error.clone()))),
        }
    }

    /// All jobs in one transaction, on a new catalog if this one proves to be broken.
    fn transact(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), CatalogError> {
        match transact(self.connection()?, jobs) {
            Err(error) if schema::is_corruption(&error) || self.is_given_up(&error) => {
                self.set_aside();
                transact(self.connection()?, jobs)?;
                Ok(())
            }
            Ok(wrote) => {
                // Where nothing was to be written, the disk was not asked.
                if wrote {
                    self.trouble.failing = Failing::default();
                }
                Ok(())
            }
            Err(error) => {
                if schema::is_for_reading(&error) {
                    // It is opened again when it can be written.
                    self.connection = None;
                }
                Err(error.into())
            }
        }
    }

    /// Whether this failure is one of so many that the disk will not mend that by itself.
    fn is_given_up(&mut self, error: &rusqlite::Error) -> bool {
        schema::is_disk_error(error) && self.trouble.failing.once_more(Instant::now())
    }

    fn connection(&mut self) -> Result<&mut Connection, CatalogError> {
        if self.connection.is_none() {
            self.folder.check()?;
            if let Some((at, error)) = &self.trouble.closed
                && at.elapsed() < CLOSED_FOR
            {
                return Err(error.clone());
            }
            // What was opened while it could only be read keeps this one from being more.
            self.readers.renew();
            let opened = schema::open(&self.path, self.clock.unix_millis());
            let opened = opened.inspect_err(|error| self.trouble.closed = Some((Instant::now(), error.clone())))?;
            self.budget.restart(opened.at_rest, opened.blobs, opened.fresh);
            self.connection = opened.connection;
            self.trouble = Trouble::default();
            (self.on_renewed)();
            self.readers.renew();
        }
        Ok(self.connection.as_mut().expect("made above"))
    }

    fn set_aside(&mut self) {
        self.connection = None;
        if self.folder.check().is_err() {
            return;
        }
        if let Err(error) = schema::set_aside(&self.path, schema::CORRUPT, self.clock.unix_millis()) {
            tracing::error!(%error, "the catalog could not be set aside");
        }
        if let Err(error) = self.connection() {
            self.health.catalog_is_closed(&error);
        }
    }
}

/// Tells whether anything was written.
fn transact(connection: &mut Connection, jobs: &mut [Box<dyn Job>]) -> rusqlite::Result<bool> {
    let before = connection.total_changes();
    let transaction = connection.transaction()?;
    jobs.iter_mut().try_for_each(|job| job.attempt(&transaction))?;
    transaction.commit()?;
    Ok(connection.total_changes() != before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_on_the_disk_is_given_up_after_many_failures_over_some_time_and_not_before() {
        let begun = Instant::now();
        let in_time = |failures: u32, last: Duration| {
            let mut failing = Failing::default();
            let early = (1..failures).filter(|_| failing.once_more(begun)).count();
            assert_eq!(early, 0, "{failures} failures");
            let is_enough = failing.once_more(begun + last);
            assert_eq!(failing.0.is_none(), is_enough, "it begins anew");
            is_enough
        };
        assert!(in_time(FAILURES, FAILING_FOR) && in_time(100 * FAILURES, FAILING_FOR));
        assert!(!in_time(FAILURES - 1, 100 * FAILING_FOR));
        assert!(!in_time(100 * FAILURES, FAILING_FOR - Duration::from_millis(1)));
    }
}
