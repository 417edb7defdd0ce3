//! The gate before an upstream: it decides whether a question is asked, and of which endpoint. It asks each endpoint at most once
//! for a question, holds nothing up while a body is read, and knows nothing of what is cached.

mod breaker;
mod budget;
mod endpoint;
mod line;
mod shares;
mod standing;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::timeout;

use self::breaker::Verdict;
use self::endpoint::{Endpoint, Matter};
use self::line::{Line, Place};
use super::error::{Phase, UpstreamError};
use super::{Answer, Caller, Observer, Origin, Question, Rate, RateLimit};
use crate::config::Reserve;
use crate::oci::UpstreamName;

pub use standing::{EndpointStanding, EndpointState, Standing, Unasked};

/// What an operator says of how one upstream is asked.
#[derive(Clone, Debug)]
pub struct GateConfig {
    pub upstream: UpstreamName,
    /// Nothing is asked at all.
    pub offline: bool,
    /// What is left of its limit on pulls for what is not cached.
    pub reserve: Reserve,
    /// Questions that wait for the head of their answer at a time; others queue.
    pub concurrent_requests: NonZeroUsize,
    /// How many are asked in a second; others queue. The registries behind it are to tell the same one of their requests.
    pub rate: Arc<Rate>,
    /// The most that a question waits in the queue: less than whoever asks waits, so that it hears of it.
    pub queue_timeout: Duration,
    /// The most that an endpoint has for the head of its answer, counted from the end of the queue.
    pub headers_timeout: Duration,
}

/// One upstream, as the layers above see it. Cheap to clone; all clones share what is known.
///
/// * The callers who wait have their turns one after the other ([`Line`]), and nothing that has had its turn waits for our own limits.
/// * An endpoint that fails is left alone ([`UpstreamError::Suspended`]) until a look at it, by a task of its own, shows that it answers.
/// * After a 429 of the registry or its token server nothing is asked of that endpoint until the time that it names, at most a day;
///   for a minute, if it names none.
/// * Of several endpoints the first one that is believed to answer is asked; if it fails, the next one. Only the first one is believed
///   that something is not there, or that it may not be read: after a failure, the failure is the answer.
#[derive(Clone)]
pub struct Gate(Arc<Shared>);

struct Shared {
    config: GateConfig,
    endpoints: Vec<Arc<Endpoint>>,
    line: Line,
    /// Is told whenever an endpoint begins to be left alone.
    shut: Arc<Notify>,
    observer: Arc<dyn Observer>,
}

impl Gate {
    /// `first` and `others` are the endpoints in the order in which they are to be asked, each with its host as people know it.
    pub fn new(
        config: GateConfig,
        first: (String, Arc<dyn Origin>),
        others: Vec<(String, Arc<dyn Origin>)>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let shut = Arc::new(Notify::new());
        let endpoints = std::iter::once(first).chain(others).map(|(host, origin)| {
            Endpoint::new(config.upstream.clone(), host, origin, config.headers_timeout, Arc::clone(&shut))
        });
        let endpoints = endpoints.collect();
        let line = Line::new(config.concurrent_requests, Arc::clone(&config.rate));
        Self(Arc::new(Shared { config, endpoints, line, shut, observer }))
    }

    /// How the upstream stands now.
    pub fn standing(&self) -> Standing {
        let endpoints = self.0.endpoints.iter().map(|endpoint| endpoint.standing()).collect();
        Standing { is_offline: self.0.config.offline, endpoints }
    }
}

impl Origin for Gate {
    fn ask(&self, question: Question) -> BoxFuture<'static, Result<Answer, UpstreamError>> {
        let shared = Arc::clone(&self.0);
        async move { shared.ask(question).await }.boxed()
    }

    fn refusal(&self) -> Option<UpstreamError> {
        self.0.refusal(Matter::Documents)
    }

    fn content_refusal(&self) -> Option<UpstreamError> {
        self.0.refusal(Matter::Blobs)
    }

    fn saving(&self) -> Option<UpstreamError> {
        let remaining = self.0.next()?.saved(self.0.config.reserve)?;
        self.0.observer.unasked(&self.0.config.upstream, Unasked::Saving);
        Some(UpstreamError::Saving { remaining })
    }

    fn unreserved(&self) -> Option<u64> {
        self.0.next()?.unreserved(self.0.config.reserve)
    }

    fn rate_limit(&self) -> Option<RateLimit> {
        self.0.next()?.rate_limit()
    }
}

impl Shared {
    async fn ask(&self, question: Question) -> Result<Answer, UpstreamError> {
        let matter = Matter::of(&question);
        let _place = self.place(matter, question.caller).await?;
        let mut failure = None;
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            if let Some(refusal) = endpoint.refusal(matter) {
                failure.get_or_insert(refusal);
                continue;
            }
            let has_next = self.endpoints[index + 1..].iter().any(|next| next.refusal(matter).is_none());
            match endpoint.ask(question.clone(), has_next).await {
                Ok(answer) => return Ok(answer),
                Err(error @ UpstreamError::ShareSpent { .. }) => {
                    failure.get_or_insert_with(|| self.unasked(error));
                }
                Err(error) if failure.is_none() && !is_for_the_next(&error) => return Err(error),
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        Err(failure.expect("there is an endpoint, and none has answered"))
    }

    /// A place among the questions that wait for their answers, when it is the turn of `caller`.
    ///
    /// # Errors
    /// Why none is asked, as soon as that is so; [`Phase::Queue`], if there is no place in time.
    async fn place(&self, matter: Matter, caller: Caller) -> Result<Place, UpstreamError> {
        if let Some(refusal) = self.refusal(matter) {
            return Err(self.unasked(refusal));
        }
        let busy = || UpstreamError::Timeout { phase: Phase::Queue };
        let Some(waiting) = self.line.enter(caller) else { return Err(self.unasked(busy())) };
        let mut waiting = pin!(timeout(self.config.queue_timeout, waiting));
        loop {
            let mut shut = pin!(self.shut.notified());
            // From here on nothing is missed.
            shut.as_mut().enable();
            if let Some(refusal) = self.refusal(matter) {
                return Err(self.unasked(refusal));
            }
            tokio::select! {
                biased;
                place = &mut waiting => return place.map_err(|_| self.unasked(busy())),
                () = shut => {}
            }
        }
    }

    /// Why nothing is asked about this `matter` at the moment, if nothing is.
    fn refusal(&self, matter: Matter) -> Option<UpstreamError> {
        if self.config.offline {
            return Some(UpstreamError::Offline);
        }
        let mut first = None;
        for endpoint in &self.endpoints {
            let refusal = endpoint.refusal(matter)?;
            first.get_or_insert(refusal);
        }
        first
    }

    /// The endpoint that is asked for a manifest next, if any is.
    fn next(&self) -> Option<&Arc<Endpoint>> {
        self.endpoints.iter().find(|endpoint| !self.config.offline && endpoint.refusal(Matter::Documents).is_none())
    }

    /// Counts what was not asked.
    fn unasked(&self, error: UpstreamError) -> UpstreamError {
        let why = match &error {
            UpstreamError::Offline => Unasked::Offline,
            UpstreamError::RateLimited { .. } => Unasked::Limited,
            UpstreamError::ShareSpent { .. } => Unasked::Share,
            UpstreamError::Timeout { .. } => Unasked::Queue,
            _ => Unasked::Suspended,
        };
        self.observer.unasked(&self.config.upstream, why);
        error
    }
}

/// Whether another endpoint is asked after this.
fn is_for_the_next(error: &UpstreamError) -> bool {
    matches!(error, UpstreamError::RateLimited { .. }) || Verdict::of::<()>(&Err(error.clone())).is_failure()
}
