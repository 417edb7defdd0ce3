//! Questions that several clients share: one of them puts it, and all hear the answer. That it was refused for the sake of who put it
//! is no answer to the others.

use std::hash::Hash;

use super::MirrorError;
use crate::util::SingleFlight;

/// Runs `work` once for all who want what `key` means at once; the second value tells whether an earlier caller's run was joined.
/// Who has joined one that was refused for the sake of its caller begins another one.
pub(super) async fn share<K, V, F>(
    flights: &SingleFlight<K, Result<V, MirrorError>>,
    key: &K,
    work: impl Fn() -> F,
) -> (Result<V, MirrorError>, bool)
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
    F: Future<Output = Result<V, MirrorError>> + Send + 'static,
{
    let (mut result, mut joined) = flights.run(key.clone(), &work).await;
    if joined && matches!(&result, Some(Err(error)) if error.is_for_one_caller()) {
        (result, joined) = flights.run(key.clone(), &work).await;
    }
    (result.unwrap_or_else(|| Err(MirrorError::abandoned())), joined)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::upstream::{Phase, UpstreamError};

    #[tokio::test(start_paused = true)]
    async fn what_another_one_was_refused_for_its_own_sake_is_asked_again_and_nothing_else_is() {
        let busy = UpstreamError::Timeout { phase: Phase::Queue };
        let spent = UpstreamError::ShareSpent { remaining: 7, retry_after: Duration::from_secs(60) };
        for (refusal, runs, is_answered) in [(busy, 2, true), (spent, 2, true), (UpstreamError::NotFound, 1, false)] {
            let (flights, count) = (SingleFlight::new(), Arc::new(AtomicUsize::new(0)));
            let work = || {
                let (count, refusal) = (Arc::clone(&count), refusal.clone());
                async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if count.fetch_add(1, Ordering::SeqCst) == 0 { Err(MirrorError::Upstream(refusal)) } else { Ok(()) }
                }
            };
            let results =
                tokio::join!(share(&flights, &"key", work), share(&flights, &"key", work), share(&flights, &"key", work));
            assert!(results.0.0.is_err() && !results.0.1, "it is its own refusal");
            assert_eq!((results.1.0.is_ok(), results.2.0.is_ok()), (is_answered, is_answered));
            assert_eq!(count.load(Ordering::SeqCst), runs);
        }
    }
}
