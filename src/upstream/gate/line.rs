//! The line before an upstream: questions wait in it for a place among those that are asked at once, and for their turn by the rate.
//! The callers who wait have their turns one after the other, however much each of them asks; the questions of one caller keep
//! their order. It never asks, and never waits itself.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::upstream::{Caller, Rate};

/// Of so many places one is out of reach of a caller who has all the others.
const PART_FOR_OTHERS: usize = 4;

/// How many questions of one caller may wait, and how many of all callers together. Each costs memory; and who is behind so many
/// would not have its turn in time.
const WAITING_OF_ONE: usize = 2_048;
const WAITING_OF_ALL: usize = 32_768;

/// The line of one upstream. Cheap to clone.
#[derive(Clone)]
pub(super) struct Line(Arc<Shared>);

struct Shared {
    rate: Arc<Rate>,
    /// How many questions are asked at once, and how many of one caller.
    places: usize,
    share: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many places each caller has who has any, and how many there are in all.
    held: BTreeMap<Caller, usize>,
    taken: usize,
    /// What waits, by caller, in its order; no caller's part is empty.
    waiting: BTreeMap<Caller, BTreeMap<Ticket, oneshot::Sender<Place>>>,
    count: usize,
    /// The callers who wait, in the order in which they have their turns.
    order: VecDeque<Caller>,
    next: Ticket,
    /// Whether somebody sees to it that the line moves when the rate allows it.
    is_timed: bool,
}

/// The order in which questions have come.
type Ticket = u64;

/// A place in the line: a future of the [`Place`]. Dropping it leaves the line.
pub(super) struct Waiting {
    shared: Arc<Shared>,
    caller: Caller,
    ticket: Ticket,
    place: oneshot::Receiver<Place>,
}

/// A place among the questions that are asked, until it is dropped.
pub(super) struct Place {
    shared: Arc<Shared>,
    caller: Caller,
}

impl Line {
    /// At most `places` at once, at this `rate`.
    pub(super) fn new(places: NonZeroUsize, rate: Arc<Rate>) -> Self {
        let places = places.get();
        let share = places - places / PART_FOR_OTHERS;
        Self(Arc::new(Shared { rate, places, share, state: Mutex::default() }))
    }

    /// Waits in line on behalf of `caller`. `None` if too many do.
    pub(super) fn enter(&self, caller: Caller) -> Option<Waiting> {
        let caller = caller.party();
        let (tell, place) = oneshot::channel();
        let ticket = {
            let mut state = self.0.lock();
            let state = &mut *state;
            if state.count >= WAITING_OF_ALL || state.waiting.get(&caller).is_some_and(|own| own.len() >= WAITING_OF_ONE) {
                return None;
            }
            let ticket = state.next;
            state.next += 1;
            state.count += 1;
            let own = state.waiting.entry(caller).or_default();
            if own.is_empty() {
                state.order.push_back(caller);
            }
            own.insert(ticket, tell);
            ticket
        };
        let waiting = Waiting { shared: Arc::clone(&self.0), caller, ticket, place };
        self.0.advance();
        Some(waiting)
    }

    /// How many questions wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.0.lock().count
    }
}

impl Shared {
    /// Gives out what places and turns there are.
    fn advance(self: &Arc<Self>) {
        while let Some(tell) = self.next() {
            let (tell, place) = tell;
            // Who has left the line at this very moment gives the place back.
            drop(tell.send(place));
        }
    }

    /// Who has a place next, and the place; `None` if nobody has one now.
    fn next(self: &Arc<Self>) -> Option<(oneshot::Sender<Place>, Place)> {
        let mut state = self.lock();
        if state.taken >= self.places {
            return None;
        }
        let has_share = |caller: &Caller| state.held.get(caller).is_some_and(|held| *held >= self.share);
        let position = state.order.iter().position(|caller| !has_share(caller))?;
        if let Err(wait) = self.rate.turn() {
            if !std::mem::replace(&mut state.is_timed, true) {
                self.advance_after(wait);
            }
            return None;
        }
        let caller = state.order.remove(position)?;
        let own = state.waiting.get_mut(&caller)?;
        let (_, tell) = own.pop_first()?;
        if own.is_empty() {
            state.waiting.remove(&caller);
        } else {
            state.order.push_back(caller);
        }
        state.count -= 1;
        state.taken += 1;
        *state.held.entry(caller).or_default() += 1;
        Some((tell, Place { shared: Arc::clone(self), caller }))
    }

    /// Moves the line after so long.
    fn advance_after(self: &Arc<Self>, wait: Duration) {
        // Without a runtime the process is about to end.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let line = Arc::downgrade(self);
        runtime.spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(line) = line.upgrade() {
                line.lock().is_timed = false;
                line.advance();
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Future for Waiting {
    type Output = Place;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Place> {
        // Only this future takes its ticket out of the line without an answer to it.
        Poll::Ready(ready!(Pin::new(&mut self.place).poll(context)).expect("who waits is answered"))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let Some(own) = state.waiting.get_mut(&self.caller) else { return };
        if own.remove(&self.ticket).is_none() {
            return;
        }
        state.count -= 1;
        if own.is_empty() {
            state.waiting.remove(&self.caller);
            state.order.retain(|caller| *caller != self.caller);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.taken -= 1;
            if let Some(held) = state.held.get_mut(&self.caller) {
                *held -= 1;
                if *held == 0 {
                    state.held.remove(&self.caller);
                }
            }
        }
        self.shared.advance();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures::FutureExt;
    use tokio::time::{Instant, sleep};

    use super::*;

    fn client(number: u32) -> Caller {
        Caller::Client(Ipv4Addr::from_bits(0x0a00_0000 + number).into())
    }

    fn line(places: usize, per_second: u32) -> Line {
        Line::new(places.try_into().unwrap(), Arc::new(Rate::new(per_second.try_into().unwrap())))
    }

    #[tokio::test]
    async fn callers_have_their_turns_one_after_the_other_and_one_callers_questions_their_order() {
        let line = line(1, 1000);
        let first = line.enter(client(1)).unwrap().await;
        let callers = [1, 1, 1, 2, 3, 2];
        let mut waiting: Vec<_> = callers.map(|number| line.enter(client(number)).unwrap()).into_iter().map(Some).collect();
        let mut order = Vec::new();
        let mut place = Some(first);
        for _ in callers {
            drop(place.take());
            let next = waiting.iter_mut().position(|waiting| match waiting.as_mut().map(|waiting| waiting.now_or_never()) {
                Some(Some(given)) => {
                    place = Some(given);
                    true
                }
                _ => false,
            });
            let next = next.unwrap();
            waiting[next] = None;
            order.push(next);
        }
        // The numbers of the questions: callers 1, 2 and 3, then 1 and 2, then 1.
        assert_eq!(order, [0, 3, 4, 1, 5, 2]);
        drop(place);
        let state = line.0.lock();
        assert!(
            state.held.is_empty() && state.waiting.is_empty() && state.order.is_empty() && state.taken == 0 && state.count == 0
        );
    }

    #[tokio::test]
    async fn nobody_has_all_places() {
        for (places, share) in [(1, 1), (2, 2), (3, 3), (4, 3), (100, 75)] {
            let line = line(places, 1000);
            let taken: Vec<_> = std::iter::from_fn(|| line.enter(client(1)).unwrap().now_or_never()).collect();
            assert_eq!(taken.len(), share, "of {places}");
            let others: Vec<_> = std::iter::from_fn(|| line.enter(client(2)).unwrap().now_or_never()).collect();
            assert_eq!(others.len(), places - share, "of {places}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_takes_nothing_along() {
        let line = line(1, 1000);
        let place = line.enter(client(1)).unwrap().await;
        let (left, stays) = (line.enter(client(2)).unwrap(), line.enter(client(2)).unwrap());
        drop(left);
        drop(place);
        let place = stays.await;
        // One that has been given its place, and does not know it yet.
        let (given, next) = (line.enter(client(3)).unwrap(), line.enter(client(4)).unwrap());
        drop(place);
        drop(given);
        assert!(next.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_asks_for_ever_is_as_one_among_others() {
        let line = line(100, 50);
        let flood = {
            let line = line.clone();
            async move {
                let (mut refused, mut asked) = (0_u32, 0_u32);
                for _ in 0..1_000_000 {
                    match line.enter(client(1)) {
                        Some(waiting) => drop(tokio::spawn(async move {
                            let _place = waiting.await;
                            sleep(Duration::from_millis(100)).await;
                        })),
                        None => refused += 1,
                    }
                    asked += 1;
                    if asked % 10_000 == 0 {
                        assert!(line.waiting() <= WAITING_OF_ONE + 1, "{}", line.waiting());
                        sleep(Duration::from_millis(100)).await;
                    }
                }
                assert!(refused > 900_000, "{refused}");
            }
        };
        let victim = async {
            for _ in 0..40 {
                sleep(Duration::from_millis(200)).await;
                let start = Instant::now();
                let place = line.enter(client(2)).unwrap().await;
                assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
                drop(place);
            }
        };
        tokio::join!(flood, victim);
    }
}
