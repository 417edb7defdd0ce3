//! Upstreams that could not be asked a moment ago. As long as that is remembered, what is cached is served at once instead of after
//! another time-out, while one question at a time finds out whether the trouble is over.

use std::time::Duration;

use tokio::time::Instant;

use super::{Mirror, Place};
use crate::oci::UpstreamName;
use crate::upstream::UpstreamError;

/// For how long trouble is remembered at the most.
pub(super) const REMEMBERED: Duration = Duration::from_secs(300);

/// For how long it is remembered that an upstream could not be reached. Probes end it earlier.
const UNREACHABLE: Duration = Duration::from_secs(30);

/// For how long nothing is asked of an upstream that limits the rate, where it does not tell.
const LIMITED: Duration = Duration::from_secs(60);

/// Why an upstream cannot be asked, and until when that is believed.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    cause: UpstreamError,
    until: Instant,
}

impl Mirror {
    /// Why `upstream` cannot be asked at the moment, if it cannot.
    pub(super) fn trouble(&self, upstream: &UpstreamName) -> Option<UpstreamError> {
        let trouble = self.shared.troubles.get(upstream)?;
        (Instant::now() < trouble.until).then_some(trouble.cause)
    }

    /// Notes how a question to `upstream` ended. Only failures of the whole upstream count: that one repository is denied or
    /// broken says nothing of the others.
    pub(super) fn note_trouble(&self, upstream: &UpstreamName, error: Option<&UpstreamError>) {
        let lasts = match error {
            None => return self.shared.troubles.invalidate(upstream),
            Some(UpstreamError::RateLimited { retry_after, .. }) => retry_after.unwrap_or(LIMITED),
            Some(
                UpstreamError::Timeout { .. } | UpstreamError::Unreachable { .. } | UpstreamError::Status { status: 502..=504 },
            ) => UNREACHABLE,
            Some(_) => return,
        };
        if let Some(cause) = error {
            let trouble = Trouble { cause: cause.clone(), until: Instant::now() + lasts.min(REMEMBERED) };
            self.shared.troubles.insert(upstream.clone(), trouble);
        }
    }

    /// Finds out, behind the back of whoever is served from the cache, whether the trouble is over. One question at a time for
    /// each upstream; none to one that has asked not to be asked.
    pub(super) fn probe(&self, place: &Place, probe: impl Future<Output = ()> + Send + 'static) {
        let upstream = place.upstream.name.clone();
        if matches!(self.trouble(&upstream), Some(UpstreamError::RateLimited { .. })) {
            return;
        }
        let mirror = self.clone();
        tokio::spawn(async move {
            mirror.shared.probes.run(upstream, || probe).await;
        });
    }
}
