//! The threads that serve connections: one for each processor, with a runtime of its own. A connection stays on the thread that accepted
//! it, and so does what is begun for it, a fill too. That two threads wake each other, and look for work with each other, is a tenth of
//! what a small answer costs; and a byte that a thread has received is best sent on by it.
//!
//! What a thread has too much of, no other takes over. So connections are spread when they are accepted, nothing that takes long is
//! done on these threads, and who sends much lets others have a turn.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// After how many tasks a worker looks for what has come in. To send a piece of a blob takes a task a hundred times as long as a small
/// answer. Who sends from a file waits for such a look after each piece; who encrypts does not, and tokio's own figure is 61. To look
/// costs a small answer's load nothing that could be measured.
const EVENT_INTERVAL: u32 = 4;

/// Of how many tasks a worker takes one that another thread has woken: work that is done where it may block, most of all.
const REMOTE_INTERVAL: u32 = 2;

/// How many threads all workers together may have for work that blocks, and each at the least.
const BLOCKING_OVERALL: usize = 512;
const BLOCKING_EACH: usize = 64;

/// The workers of a process.
pub struct Workers {
    workers: Vec<Worker>,
    threads: Vec<Thread>,
}

/// One of the [`Workers`]. Cheap to clone.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) runtime: Handle,
    connections: Arc<AtomicUsize>,
}

/// That a worker has one connection more, until it is dropped.
pub(super) struct Load(Arc<AtomicUsize>);

struct Thread {
    /// Ends it when it is dropped.
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Workers {
    /// Starts `count` of them; as many as there are processors without one. When they are stopped, what still blocks has `grace` to end.
    ///
    /// # Errors
    /// If the system gives no thread, or no descriptors.
    pub fn start(count: Option<NonZeroUsize>, grace: Duration) -> io::Result<Self> {
        let count = count.or(thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let mut this = Self { workers: Vec::with_capacity(count), threads: Vec::with_capacity(count) };
        for at in 0..count {
            let runtime = runtime(count)?;
            this.workers.push(Worker { runtime: runtime.handle().clone(), connections: Arc::default() });
            let (stop, stopped) = oneshot::channel();
            let thread = thread::Builder::new().name(format!("larder-serve-{at}")).spawn(move || {
                // An error is that the sender is gone, which says the same.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_timeout(grace);
            })?;
            this.threads.push(Thread { stop, thread });
        }
        Ok(this)
    }

    /// Cuts what they are doing. To be called where it may block.
    pub fn stop(self) {
        let threads: Vec<_> = self.threads.into_iter().map(|Thread { stop, thread }| (drop(stop), thread)).collect();
        for ((), thread) in threads {
            // A panic has been told by whoever panicked.
            let _ = thread.join();
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    pub(super) fn all(&self) -> Arc<[Worker]> {
        self.workers.as_slice().into()
    }
}

fn runtime(workers: usize) -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .global_queue_interval(REMOTE_INTERVAL)
        .max_blocking_threads((BLOCKING_OVERALL / workers).max(BLOCKING_EACH))
        .build()
}

impl Worker {
    pub(super) fn load(&self) -> Load {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Load(Arc::clone(&self.connections))
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which of `workers` is to have the connection that the one `at` this place has accepted: another one only where it has more than a
/// quarter more than that, since to hand one on takes longer than most answers.
pub(super) fn place(workers: &[Worker], at: usize) -> usize {
    let (least, connections) =
        workers.iter().map(Worker::connections).enumerate().min_by_key(|(_, connections)| *connections).unwrap_or_default();
    if workers[at].connections() <= connections + connections / 4 { at } else { least }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_spread_and_stay_where_they_are_while_that_is_fair() {
        let workers = Workers::start(NonZeroUsize::new(3), Duration::ZERO).unwrap();
        let all = workers.all();
        let mut loads = Vec::new();
        let mut accept = |at: usize, count: usize| {
            for _ in 0..count {
                loads.push(all[place(&all, at)].load());
            }
            loads.len()
        };
        accept(0, 9);
        assert_eq!(all.iter().map(Worker::connections).collect::<Vec<_>>(), [3, 3, 3], "all by one");
        accept(1, 31);
        let counts: Vec<usize> = all.iter().map(Worker::connections).collect();
        let least = *counts.iter().min().unwrap();
        assert_eq!(counts.iter().sum::<usize>(), 40);
        assert!(counts[1] > least && counts[1] <= least + least / 4 + 1, "{counts:?}");
        drop(loads);
        assert!(all.iter().all(|worker| worker.connections() == 0));
        workers.stop();
    }

    #[test]
    fn what_a_worker_is_doing_is_cut_when_it_is_stopped() {
        let workers = Workers::start(NonZeroUsize::new(2), Duration::from_secs(1)).unwrap();
        let held = Arc::new(());
        for worker in &*workers.all() {
            let held = Arc::clone(&held);
            worker.runtime.spawn(async move {
                std::future::pending::<()>().await;
                drop(held);
            });
        }
        assert_eq!(Arc::strong_count(&held), 3);
        workers.stop();
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
