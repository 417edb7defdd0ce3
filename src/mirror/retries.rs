//! How many questions to an upstream may be put again. Where now and then one fails, all of those; where all fail, a tenth, and one a
//! second: more would be no help to who asks, and a burden on who fails.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::oci::UpstreamName;

/// How much of a further try comes with each question, and with each second.
const PER_QUESTION: f64 = 0.1;
const PER_SECOND: f64 = 1.0;

/// How many tries are saved up at the most.
const MOST: f64 = 20.0;

/// The tries of all upstreams.
#[derive(Default)]
pub(super) struct Retries(Mutex<HashMap<UpstreamName, Saved>>);

struct Saved {
    tries: f64,
    at: Instant,
}

impl Retries {
    /// Notes that a question is put for the first time.
    pub(super) fn note_question(&self, upstream: &UpstreamName) {
        self.change(upstream, |tries| (tries + PER_QUESTION, ()));
    }

    /// Whether a question may be put again.
    pub(super) fn take(&self, upstream: &UpstreamName) -> bool {
        self.change(upstream, |tries| if tries >= 1.0 { (tries - 1.0, true) } else { (tries, false) })
    }

    fn change<T>(&self, upstream: &UpstreamName, change: impl FnOnce(f64) -> (f64, T)) -> T {
        let mut upstreams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // It is one of a closed list.
        let saved = upstreams.entry(upstream.clone()).or_insert(Saved { tries: MOST, at: now });
        let tries = saved.tries + (now - saved.at).as_secs_f64() * PER_SECOND;
        let (tries, result) = change(tries.min(MOST));
        *saved = Saved { tries, at: now };
        result
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn where_all_fails_a_tenth_is_asked_again_and_a_few_besides() {
        let retries = Retries::default();
        let (hub, quay) = ("docker.io".parse().unwrap(), "quay.io".parse().unwrap());
        let mut again = 0;
        for _ in 0..1000 {
            retries.note_question(&hub);
            again += (0..3).filter(|_| retries.take(&hub)).count();
        }
        assert!((115..=120).contains(&again), "{again}");
        assert!(!retries.take(&hub) && retries.take(&quay), "each has its own");
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!((0..100).filter(|_| retries.take(&hub)).count(), 5);
    }
}
