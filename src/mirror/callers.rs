//! What one client may cost the upstreams, so that none starves the others or spends what all of them share. Answers from the
//! cache cost nothing.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::MirrorError;
use crate::upstream::Caller;
use crate::util::Pace;

/// How many times the rate a client may have at once: a node that starts pulls dozens of images, of a dozen contents each.
const BURST: NonZeroU32 = NonZeroU32::new(20).expect("twenty is not zero");

/// How much more than another question one costs to which the upstream has nothing. Registries watch for those who guess.
const IN_VAIN: u32 = 3;

/// How many clients are remembered, and for how long: after that, each has its burst again anyhow.
const CLIENTS: u64 = 10_000;
const MEMORY: Duration = Duration::from_secs(120);

/// The paces of all clients.
pub(super) struct Callers {
    paces: moka::sync::Cache<Caller, Arc<Pace>>,
    per_second: NonZeroU32,
    patience: Duration,
}

impl Callers {
    /// At most `per_second` questions for each client, each of which waits no longer than `patience` for its turn.
    pub(super) fn new(per_second: NonZeroU32, patience: Duration) -> Self {
        Self { paces: moka::sync::Cache::builder().max_capacity(CLIENTS).time_to_idle(MEMORY).build(), per_second, patience }
    }

    /// Waits until an upstream may be asked on behalf of `caller`.
    ///
    /// # Errors
    /// [`MirrorError::Throttled`] if that would take too long.
    pub(super) async fn turn(&self, caller: Caller) -> Result<(), MirrorError> {
        let Some(pace) = self.pace(caller) else { return Ok(()) };
        pace.turn().await.map_err(|_| MirrorError::Throttled { waited: self.patience })
    }

    /// Notes that a question on behalf of `caller` had no answer: the upstream does not have what was asked for.
    pub(super) fn note_in_vain(&self, caller: Caller) {
        if let Some(pace) = self.pace(caller) {
            pace.charge(IN_VAIN);
        }
    }

    fn pace(&self, caller: Caller) -> Option<Arc<Pace>> {
        if caller == Caller::Larder {
            return None;
        }
        let new = || Arc::new(Pace::new(self.per_second, self.per_second.saturating_mul(BURST), self.patience));
        Some(self.paces.get_with(caller.party(), new))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn client(text: &str) -> Caller {
        Caller::Client(text.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_waits_for_itself_alone() {
        let callers = Callers::new(NonZeroU32::new(10).unwrap(), Duration::from_secs(5));
        let start = Instant::now();
        for _ in 0..200 {
            callers.turn(client("10.0.0.1")).await.unwrap();
        }
        assert_eq!(start.elapsed(), Duration::ZERO, "a burst");
        for _ in 0..10 {
            callers.turn(client("::ffff:10.0.0.1")).await.unwrap();
        }
        assert!(start.elapsed() > Duration::from_millis(900), "the same client, by another name");
        let before = Instant::now();
        callers.turn(client("10.0.0.2")).await.unwrap();
        callers.turn(Caller::Larder).await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_what_is_not_there_has_fewer_turns() {
        let callers = Callers::new(NonZeroU32::new(10).unwrap(), Duration::from_secs(1));
        let guesser = client("2001:db8::1");
        let start = Instant::now();
        let mut turns = 0;
        while start.elapsed() < Duration::from_secs(20) {
            callers.turn(guesser).await.unwrap();
            callers.note_in_vain(guesser);
            turns += 1;
        }
        // A burst of 200 and 200 more, at four for each.
        assert!((95..=105).contains(&turns), "{turns}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_would_wait_too_long_is_told_so() {
        let callers = Arc::new(Callers::new(NonZeroU32::new(1).unwrap(), Duration::from_secs(5)));
        let turns = (0..40).map(|_| {
            let callers = Arc::clone(&callers);
            tokio::spawn(async move { callers.turn(client("10.0.0.1")).await })
        });
        let turns = futures::future::join_all(turns).await;
        let refused = turns.iter().filter(|turn| matches!(turn, Ok(Err(MirrorError::Throttled { .. })))).count();
        assert!((14..=16).contains(&refused), "{refused}");
    }
}
