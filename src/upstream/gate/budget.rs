//! What an endpoint allows: how many pulls it has said are left, and for whom, and until when it has asked not to be asked. It keeps what it is
//! told for as long as that holds, and never asks.

use std::time::Duration;

use tokio::time::Instant;

use super::shares::{Left, Shares};
use crate::config::Reserve;
use crate::upstream::Caller;
use crate::upstream::error::UpstreamError;
use crate::upstream::rate_limit::RateLimit;

/// For how long what was said of the limit is believed, where its window was not told.
const USUAL_WINDOW: Duration = Duration::from_secs(60 * 60);

/// For how long nothing is asked after a 429 that does not say.
const USUAL_PAUSE: Duration = Duration::from_secs(60);

/// No 429 is taken for longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// What one credential may ask of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Budget {
    told: Option<(Instant, RateLimit)>,
    limited_until: Option<Instant>,
    shares: Shares,
}

impl Budget {
    /// Notes what the endpoint says of its limit.
    pub(super) fn note(&mut self, limit: RateLimit, now: Instant) {
        self.told = Some((now, limit));
    }

    /// Notes a 429 that asks to wait for so long. Gives how long nothing is asked from now on, if that is new.
    pub(super) fn limit(&mut self, retry_after: Option<Duration>, now: Instant) -> Option<Duration> {
        let pause = retry_after.unwrap_or(USUAL_PAUSE).min(LONGEST_PAUSE);
        let was_limited = self.pause(now).is_some();
        // Of several that come at once, the one that asks for the most is right for all.
        self.limited_until = self.limited_until.max(Some(now + pause));
        (!was_limited && !pause.is_zero()).then_some(pause)
    }

    /// For how much longer nothing is asked.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        self.limited_until.and_then(|until| until.checked_duration_since(now)).filter(|rest| !rest.is_zero())
    }

    /// The limit as it was last told, unless its window is over.
    pub(super) fn told(&self, now: Instant) -> Option<&RateLimit> {
        let (told, limit) = self.told.as_ref()?;
        (now - *told < limit.window.unwrap_or(USUAL_WINDOW)).then_some(limit)
    }

    /// Begins a pull on behalf of `caller`.
    ///
    /// # Errors
    /// [`UpstreamError::ShareSpent`].
    pub(super) fn begin_pull(&mut self, caller: Caller, now: Instant) -> Result<(), UpstreamError> {
        let told = self.told(now).map(|limit| (limit.remaining, limit.window.unwrap_or(USUAL_WINDOW)));
        let left = told.map(|(pulls, window)| Left { pulls, window });
        self.shares.begin(caller, left, now).map_err(|retry_after| {
            let remaining = told.map_or(0, |(remaining, _)| remaining);
            UpstreamError::ShareSpent { remaining, retry_after }
        })
    }

    /// Ends a pull that has begun.
    pub(super) fn end_pull(&mut self, caller: Caller, has_pulled: bool) {
        self.shares.end(caller, has_pulled);
    }

    /// How many pulls are left, if these are to be saved.
    pub(super) fn saved(&self, reserve: Reserve, now: Instant) -> Option<u64> {
        let limit = self.told(now)?;
        let reserve = reserved(limit, reserve)?;
        (reserve > 0 && limit.remaining <= reserve).then_some(limit.remaining)
    }

    /// How many pulls are left besides those that are to be saved.
    pub(super) fn unreserved(&self, reserve: Reserve, now: Instant) -> Option<u64> {
        let limit = self.told(now)?;
        Some(limit.remaining.saturating_sub(reserved(limit, reserve).unwrap_or(0)))
    }
}

/// How many pulls are to be saved, if that can be told.
fn reserved(limit: &RateLimit, reserve: Reserve) -> Option<u64> {
    match reserve {
        Reserve::Pulls(pulls) => Some(pulls),
        Reserve::Share(percent) => Some(share(limit.limit?, percent)),
    }
}

/// So many percent of `limit`, rounded up: a share of little is not nothing.
fn share(limit: u64, percent: u8) -> u64 {
    let share = (u128::from(limit) * u128::from(percent)).div_ceil(100);
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(limit: Option<u64>, remaining: u64, window: Option<u64>) -> RateLimit {
        RateLimit { limit, remaining, window: window.map(Duration::from_secs), source: None }
    }

    fn after(seconds: f64) -> Instant {
        Instant::now() + Duration::from_secs_f64(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_is_saved_from_the_reserve_on() {
        let mut budget = Budget::default();
        let now = Instant::now();
        assert_eq!(budget.saved(Reserve::Pulls(5), now), None, "nothing is known");
        for (told, reserve, is_saved) in [
            (limit(Some(100), 11, None), Reserve::Share(10), false),
            (limit(Some(100), 10, None), Reserve::Share(10), true),
            (limit(Some(5), 1, None), Reserve::Share(10), true),
            (limit(Some(u64::MAX), u64::MAX, None), Reserve::Share(100), true),
            (limit(None, 0, None), Reserve::Share(10), false),
            (limit(None, 7, None), Reserve::Pulls(7), true),
            (limit(Some(100), 8, None), Reserve::Pulls(7), false),
            (limit(Some(100), 0, None), Reserve::Pulls(0), false),
            (limit(Some(100), 0, None), Reserve::Share(0), false),
        ] {
            let remaining = told.remaining;
            budget.note(told.clone(), now);
            assert_eq!(budget.saved(reserve, now), is_saved.then_some(remaining), "{told:?}, {reserve:?}");
            let unreserved = budget.unreserved(reserve, now).unwrap();
            assert!(unreserved <= remaining && (!is_saved || unreserved == 0), "{told:?}, {reserve:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_that_is_over_says_nothing() {
        for (window, seconds) in [(Some(21_600), 21_600.0), (None, 3600.0)] {
            let mut budget = Budget::default();
            budget.note(limit(Some(100), 0, window), Instant::now());
            assert!(budget.told(after(seconds - 1.0)).is_some());
            assert_eq!(budget.saved(Reserve::Share(10), after(seconds - 1.0)), Some(0));
            assert!(budget.told(after(seconds)).is_none());
            assert_eq!(budget.saved(Reserve::Share(10), after(seconds)), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_holds_until_the_time_it_names_and_a_shorter_one_does_not_undo_it() {
        let mut budget = Budget::default();
        let now = Instant::now();
        let seconds = Duration::from_secs;
        assert_eq!(budget.limit(Some(Duration::ZERO), now), None);
        assert_eq!(budget.pause(now), None, "at once is at once");
        assert_eq!(budget.limit(Some(seconds(30)), now), Some(seconds(30)));
        assert_eq!(budget.limit(Some(seconds(5)), now), None, "that is not new");
        assert_eq!(budget.pause(after(10.0)), Some(seconds(20)));
        assert_eq!(budget.pause(after(30.0)), None);
        assert_eq!(budget.limit(None, after(40.0)), Some(USUAL_PAUSE));
        assert_eq!(budget.pause(after(99.9)).map(|rest| rest.as_millis()), Some(100));
        assert_eq!(budget.pause(after(100.0)), None);
        assert_eq!(budget.limit(Some(Duration::MAX), after(200.0)), Some(LONGEST_PAUSE));
    }
}
