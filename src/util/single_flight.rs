//! One run of a piece of work for all who want its result at once. The work belongs to nobody's request: it runs as a task of
//! its own, so that the first caller may leave without taking the result away from the others.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::oneshot;

/// Coalesces concurrent calls by key. Results are not kept: the next call after the last one finished runs the work again.
pub struct SingleFlight<K, V> {
    flights: Arc<Mutex<HashMap<K, Flight<V>>>>,
}

/// `None` when the task ended without a value, that is, when it panicked or the runtime is shutting down.
type Flight<V> = Shared<BoxFuture<'static, Option<V>>>;

impl<K, V> SingleFlight<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub fn new() -> Self {
        Self { flights: Arc::default() }
    }

    /// Whether the next call with `key` would join an earlier one's flight, as far as can be told.
    pub fn is_under_way(&self, key: &K) -> bool {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// Joins the flight of `key`, or begins it with `work`. The second value tells whether an earlier caller's flight was joined.
    ///
    /// Gives `None` if the work panicked.
    pub async fn run<F>(&self, key: K, work: impl FnOnce() -> F) -> (Option<V>, bool)
    where
        F: Future<Output = V> + Send + 'static,
    {
        match self.enter(&key) {
            Entered::Joined(flight) => (flight.await, true),
            Entered::First(landing, flight) => {
                let work = work();
                tokio::spawn(async move {
                    let value = work.await;
                    landing.land(value);
                });
                (flight.await, false)
            }
        }
    }

    /// Begins the flight of `key` with `work`, for which nobody waits, unless there is one already. Then it costs nothing.
    pub fn begin<F>(&self, key: &K, work: impl FnOnce() -> F)
    where
        F: Future<Output = V> + Send + 'static,
    {
        if let Entered::First(landing, _) = self.enter(key) {
            let work = work();
            tokio::spawn(async move { landing.land(work.await) });
        }
    }

    /// The flight that is in the air, or the means to land a new one.
    fn enter(&self, key: &K) -> Entered<K, V> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(key) {
            return Entered::Joined(flight.clone());
        }
        let (sender, receiver) = oneshot::channel();
        let flight = receiver.map(Result::ok).boxed().shared();
        flights.insert(key.clone(), flight.clone());
        let entry = Entry { flights: Arc::clone(&self.flights), key: key.clone() };
        Entered::First(Landing { entry, sender }, flight)
    }
}

impl<K, V> Default for SingleFlight<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn default() -> Self {
        Self::new()
    }
}

/// What a caller finds.
enum Entered<K: Eq + Hash, V> {
    /// A flight in the air.
    Joined(Flight<V>),
    /// None: this caller is to land one.
    First(Landing<K, V>, Flight<V>),
}

/// The right to end a flight. The fields are dropped in this order: whoever sees the end of a flight begins a new one.
struct Landing<K: Eq + Hash, V> {
    entry: Entry<K, V>,
    sender: oneshot::Sender<V>,
}

impl<K: Eq + Hash, V> Landing<K, V> {
    fn land(self, value: V) {
        drop(self.entry);
        // Nobody left to hear of it is no error: the work was done for its effects.
        let _ = self.sender.send(value);
    }
}

/// Takes the flight out of the map when its task ends, however it ends.
struct Entry<K: Eq + Hash, V> {
    flights: Arc<Mutex<HashMap<K, Flight<V>>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Entry<K, V> {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hundred_callers_cost_one_run() {
        let flights = Arc::new(SingleFlight::<&str, usize>::new());
        let runs = Arc::new(AtomicUsize::new(0));
        let calls = (0..100).map(|_| {
            let (flights, runs) = (Arc::clone(&flights), Arc::clone(&runs));
            tokio::spawn(async move {
                let work = || async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    runs.fetch_add(1, Ordering::SeqCst)
                };
                flights.run("key", work).await
            })
        });
        let results = futures::future::join_all(calls).await;
        assert_eq!(results.iter().filter(|result| matches!(result, Ok((Some(0), true)))).count(), 99);
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert_eq!(flights.run("key", || async { 7 }).await, (Some(7), false), "results are not kept");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_caller_may_leave() {
        let flights = Arc::new(SingleFlight::<u8, u8>::new());
        let first = {
            let flights = Arc::clone(&flights);
            tokio::spawn(async move {
                flights
                    .run(1, || async {
                        tokio::time::sleep(Duration::from_secs(5)).await;
                        42
                    })
                    .await
            })
        };
        tokio::time::sleep(Duration::from_secs(1)).await;
        first.abort();
        let (value, joined) = flights.run(1, || async { 0 }).await;
        assert_eq!((value, joined), (Some(42), true));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_begun_again_costs_no_task() {
        let flights = SingleFlight::<u8, ()>::new();
        let runs = Arc::new(AtomicUsize::new(0));
        for _ in 0..1000 {
            let runs = Arc::clone(&runs);
            flights.begin(&1, || async move {
                runs.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(1)).await;
            });
        }
        assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 1);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert!(!flights.is_under_way(&1));
    }

    #[tokio::test]
    async fn a_panic_ends_the_flight_and_nothing_else() {
        let flights = SingleFlight::<u8, u8>::new();
        assert_eq!(flights.run(1, || async { panic!("as the test wants") }).await, (None, false));
        assert_eq!(flights.run(1, || async { 3 }).await, (Some(3), false));
    }
}
