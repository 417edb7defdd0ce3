//! For how long a client is kept waiting that can be served something stale; and upstreams that have just kept one waiting for longer.
//! As long as that is remembered, what is cached is served at once, and one question at a time finds out whether it is over.

use std::time::Duration;

use super::{Mirror, Place};
use crate::oci::UpstreamName;

/// For how long it is remembered. It ends earlier with the first answer; failures are remembered where questions are put.
pub(super) const REMEMBERED: Duration = Duration::from_secs(30);

/// How many upstreams can be remembered: more than anybody has.
pub(super) const UPSTREAMS: usize = 1000;

/// What has come of waiting.
pub(super) enum Waited<T, S> {
    /// What was waited for.
    Ended(T),
    /// It took too long, and this is served instead.
    Late(S),
}

impl Mirror {
    pub(super) fn is_slow(&self, upstream: &UpstreamName) -> bool {
        self.shared.slow.get(upstream).is_some()
    }

    pub(super) fn note_slow(&self, upstream: &UpstreamName) {
        self.shared.slow.insert(upstream.clone(), ());
    }

    /// It has answered.
    pub(super) fn note_answer(&self, upstream: &UpstreamName) {
        self.shared.slow.remove(upstream);
    }

    /// Waits for `work`, but no longer than a client is to be kept waiting for whom there is something `stale`.
    pub(super) async fn wait<T, S>(&self, work: impl Future<Output = T>, stale: impl Future<Output = Option<S>>) -> Waited<T, S> {
        let mut work = std::pin::pin!(work);
        if let Ok(ended) = tokio::time::timeout(self.shared.timing.revalidation, &mut work).await {
            return Waited::Ended(ended);
        }
        match stale.await {
            Some(stale) => Waited::Late(stale),
            None => Waited::Ended(work.await),
        }
    }

    /// Asks behind the back of a client that was served already. One question at a time for each upstream.
    pub(super) fn probe<F>(&self, place: &Place, probe: impl FnOnce() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.shared.probes.begin(&place.upstream.name, probe);
    }
}
