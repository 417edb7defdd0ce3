//! Upstreams that have just kept a client waiting for longer than a stale answer is worth. As long as that is remembered, what is
//! cached is served at once, and one question at a time finds out whether it is over.

use std::time::Duration;

use super::{Mirror, Place};
use crate::oci::UpstreamName;

/// For how long it is remembered. It ends earlier with the first answer; failures are remembered where questions are put.
pub(super) const REMEMBERED: Duration = Duration::from_secs(30);

/// How many upstreams can be remembered: more than anybody has.
pub(super) const UPSTREAMS: usize = 1000;

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

    /// Asks behind the back of a client that was served already. One question at a time for each upstream.
    pub(super) fn probe(&self, place: &Place, probe: impl Future<Output = ()> + Send + 'static) {
        let (mirror, upstream) = (self.clone(), place.upstream.name.clone());
        tokio::spawn(async move {
            mirror.shared.probes.run(upstream, || probe).await;
        });
    }
}
