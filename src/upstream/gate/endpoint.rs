//! One place where an upstream is asked: how questions to it end is noted, and while it does not answer or has asked not to be asked,
//! it is left alone. It never asks twice, and it chooses nothing: which endpoint is asked is the gate's decision.
//!
//! Blobs are a matter of their own. Most registries have them elsewhere, so that they may be out of reach while all else is not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Either, select};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::breaker::{Breaker, Change, Opening, Verdict};
use super::budget::Budget;
use super::standing::{EndpointStanding, EndpointState};
use crate::config::Reserve;
use crate::oci::UpstreamName;
use crate::upstream::error::{Party, Phase, UpstreamError};
use crate::upstream::{Answer, Caller, Method, Origin, Question, RateLimit, Target};

/// The part of its deadline that a question must have waited for its abandonment to say something of the endpoint. So long does an
/// endpoint have, too, when there is another one to ask.
const TELLING_PART: u32 = 3;

/// See the module.
pub(super) struct Endpoint {
    upstream: UpstreamName,
    host: String,
    origin: Arc<dyn Origin>,
    /// The most that one question takes.
    deadline: Duration,
    state: Mutex<State>,
    /// Is told whenever the endpoint begins to be left alone.
    shut: Arc<Notify>,
}

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Matter {
    Documents,
    /// Which are found through the registry as well.
    Blobs,
}

struct State {
    documents: Side,
    blobs: Side,
    budget: Budget,
}

/// What is known of how one matter is answered.
struct Side {
    breaker: Breaker,
    /// The last question that had a good answer, for looks at an endpoint that fails.
    answered: Option<Question>,
    /// What the last error of the server was about.
    failed: Option<Target>,
}

/// A question under way.
struct Asked {
    endpoint: Arc<Endpoint>,
    question: Question,
    opening: Opening,
    at: Instant,
    has_ended: bool,
    has_pulled: bool,
}

/// What a look at the endpoint has shown.
enum Found {
    /// What failed has an answer now, or fails in a way that says nothing of the endpoint.
    Answers,
    /// What failed does so again, and something else has an answer.
    AnswersOthers,
    Fails(UpstreamError),
}

impl Endpoint {
    pub(super) fn new(
        upstream: UpstreamName,
        host: String,
        origin: Arc<dyn Origin>,
        deadline: Duration,
        shut: Arc<Notify>,
    ) -> Arc<Self> {
        let state = State { documents: Side::new(), blobs: Side::new(), budget: Budget::default() };
        Arc::new(Self { upstream, host, origin, deadline, state: Mutex::new(state), shut })
    }

    /// Why the endpoint is not asked about this `matter` at the moment, if it is not.
    pub(super) fn refusal(&self, matter: Matter) -> Option<UpstreamError> {
        let state = self.lock();
        let now = Instant::now();
        if let Some(rest) = state.budget.pause(now) {
            return Some(UpstreamError::RateLimited { retry_after: Some(rest), by: Party::Registry });
        }
        let open = match matter {
            Matter::Documents => state.documents.breaker.open(),
            Matter::Blobs => state.documents.breaker.open().or(state.blobs.breaker.open()),
        };
        open.map(|open| UpstreamError::Suspended {
            cause: Box::new(open.cause.clone()),
            retry_after: open.look_at.saturating_duration_since(now),
        })
    }

    /// Asks, whatever [`Endpoint::refusal`] says, and notes how that ends. `has_next` says that somebody else can be asked.
    ///
    /// # Errors
    /// The origin's; and [`UpstreamError::ShareSpent`], without asking it.
    pub(super) async fn ask(self: &Arc<Self>, question: Question, has_next: bool) -> Result<Answer, UpstreamError> {
        let at = Instant::now();
        let opening = {
            let mut state = self.lock();
            if is_pull(&question) {
                state.budget.begin_pull(question.caller, at)?;
            }
            state.side(Matter::of(&question)).breaker.opening()
        };
        let asked =
            Asked { endpoint: Arc::clone(self), question: question.clone(), opening, at, has_ended: false, has_pulled: false };
        let asking = self.origin.ask(question);
        let result = match has_next {
            false => asking.await,
            true => timeout(self.telling(), asking).await.unwrap_or_else(|_| Err(late())),
        };
        asked.end(result)
    }

    /// The limit as the endpoint last told it, while that is believed.
    pub(super) fn rate_limit(&self) -> Option<RateLimit> {
        self.lock().budget.told(Instant::now()).cloned()
    }

    /// How many pulls are left, if these are to be saved.
    pub(super) fn saved(&self, reserve: Reserve) -> Option<u64> {
        self.lock().budget.saved(reserve, Instant::now())
    }

    /// How many pulls are left besides those that are to be saved.
    pub(super) fn unreserved(&self, reserve: Reserve) -> Option<u64> {
        self.lock().budget.unreserved(reserve, Instant::now())
    }

    pub(super) fn standing(&self) -> EndpointStanding {
        let state = self.lock();
        let now = Instant::now();
        EndpointStanding {
            host: self.host.clone(),
            state: state.documents.standing(now),
            blobs: state.blobs.standing(now),
            limited_for: state.budget.pause(now),
            rate_limit: state.budget.told(now).cloned(),
        }
    }

    /// How long a question must have waited for its abandonment to be a failure.
    fn telling(&self) -> Duration {
        self.deadline / TELLING_PART
    }

    /// Notes how a question ended. What a 429 leaves open is said in the result.
    fn note(self: &Arc<Self>, asked: &Asked, result: Result<Answer, UpstreamError>) -> Result<Answer, UpstreamError> {
        let result = self.note_limits(result);
        let matter = Matter::of(&asked.question);
        let change = self.lock().side(matter).note(asked, &result, Instant::now());
        match (change, &result) {
            (Some(Change::Opened(opening)), Err(cause)) => self.opened(matter, opening, &asked.question, cause),
            (Some(Change::Closed(after)), _) => self.closed(matter, after),
            _ => {}
        }
        result
    }

    /// Notes what an answer says of limits. A CDN's are no matter of the registry.
    fn note_limits(&self, result: Result<Answer, UpstreamError>) -> Result<Answer, UpstreamError> {
        let now = Instant::now();
        let (limited, result) = match result {
            Ok(answer) => {
                if let Some(limit) = &answer.head.rate_limit {
                    self.lock().budget.note(limit.clone(), now);
                }
                return Ok(answer);
            }
            Err(UpstreamError::RateLimited { retry_after, by: by @ (Party::Registry | Party::TokenServer) }) => {
                let budget = &mut self.lock().budget;
                let limited = budget.limit(retry_after, now);
                (limited, UpstreamError::RateLimited { retry_after: budget.pause(now).or(retry_after), by })
            }
            Err(error) => return Err(error),
        };
        if let Some(pause) = limited {
            tracing::warn!(upstream = %self.upstream, host = self.host, seconds = pause.as_secs(), "the upstream limits the rate of requests; nothing is asked of it for so long");
            self.shut.notify_waiters();
        }
        Err(result)
    }

    fn opened(self: &Arc<Self>, matter: Matter, opening: Opening, question: &Question, cause: &UpstreamError) {
        tracing::warn!(upstream = %self.upstream, host = self.host, about = matter.as_str(), error = %cause, "the upstream does not answer; it is left alone until it does");
        self.shut.notify_waiters();
        // Without a runtime the process is about to end.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(look_after(Arc::downgrade(self), matter, opening, question.clone()));
        }
    }

    fn closed(&self, matter: Matter, after: Duration) {
        tracing::info!(upstream = %self.upstream, host = self.host, about = matter.as_str(), ?after, "the upstream answers again");
    }

    /// When to look at the endpoint again after this `opening`; `None` if there is no need any more.
    fn next_look(&self, matter: Matter, opening: Opening) -> Option<Instant> {
        let mut state = self.lock();
        let at = state.side(matter).breaker.look_at(opening)?;
        let now = Instant::now();
        Some(at.max(now + state.budget.pause(now).unwrap_or_default()))
    }

    /// Looks whether `question`, which failed, has an answer now, and whether another one has that had one before.
    async fn look(&self, question: &Question) -> Found {
        let ask = |question: Question| {
            let asking = timeout(self.deadline, self.origin.ask(cheaply(&question)));
            let asking = asking.map(|result| self.note_limits(result.unwrap_or_else(|_| Err(late()))));
            // A body is dropped.
            asking.map(|result| result.map(|_| ())).boxed()
        };
        let known = self.lock().side(Matter::of(question)).answered.clone().filter(|known| cheaply(known) != cheaply(question));
        let failed = ask(question.clone());
        let (failed, known) = match known.map(ask) {
            None => (failed.await, None),
            Some(known) => match select(failed, known).await {
                Either::Left((result, _)) if !Verdict::of(&result).is_failure() => return Found::Answers,
                Either::Left((result, known)) => (result, Some(known.await)),
                Either::Right((known, failed)) => (failed.await, Some(known)),
            },
        };
        match failed {
            result if !Verdict::of(&result).is_failure() => Found::Answers,
            _ if known.is_some_and(|known| Verdict::of(&known) == Verdict::Answers) => Found::AnswersOthers,
            Err(error) => Found::Fails(error),
            Ok(()) => Found::Answers,
        }
    }

    fn note_look(&self, matter: Matter, opening: Opening, found: Found) {
        let change = self.lock().side(matter).note_look(opening, found, Instant::now());
        if let Some(Change::Closed(after)) = change {
            self.closed(matter, after);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Matter {
    pub(super) fn of(question: &Question) -> Self {
        match question.target {
            Target::Blob(_) => Self::Blobs,
            Target::Manifest(_) | Target::Tags { .. } | Target::Referrers { .. } => Self::Documents,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Documents => "documents",
            Self::Blobs => "blobs",
        }
    }
}

impl State {
    fn side(&mut self, matter: Matter) -> &mut Side {
        match matter {
            Matter::Documents => &mut self.documents,
            Matter::Blobs => &mut self.blobs,
        }
    }
}

impl Side {
    fn new() -> Self {
        Self { breaker: Breaker::new(), answered: None, failed: None }
    }

    fn standing(&self, now: Instant) -> EndpointState {
        match self.breaker.open() {
            None => EndpointState::Answers,
            Some(open) => EndpointState::Suspended {
                since: now - open.since,
                cause: open.cause.clone(),
                next_look: open.look_at.saturating_duration_since(now),
            },
        }
    }

    fn note(&mut self, asked: &Asked, result: &Result<Answer, UpstreamError>, now: Instant) -> Option<Change> {
        let verdict = Verdict::of(result);
        let cause = match result {
            Ok(_) => {
                self.answered = Some(asked.question.clone());
                return self.breaker.answers(now);
            }
            Err(_) if verdict == Verdict::Answers => return self.breaker.answers(now),
            Err(cause) if verdict.is_failure() => cause,
            Err(_) => return None,
        };
        // A blob that is broken upstream is asked for again and again by its fill, and says nothing of other blobs.
        if let (UpstreamError::Status { .. }, target @ Target::Blob(_)) = (cause, &asked.question.target)
            && self.failed.replace(target.clone()).as_ref() == Some(target)
        {
            return None;
        }
        self.breaker.fails(asked.opening, verdict == Verdict::IsUnreachable, cause, now)
    }

    fn note_look(&mut self, opening: Opening, found: Found, now: Instant) -> Option<Change> {
        self.breaker.look_at(opening)?;
        match found {
            Found::Answers => self.breaker.answers(now),
            Found::AnswersOthers => self.breaker.answers_others(now),
            Found::Fails(cause) => {
                self.breaker.still_fails(opening, &cause, now);
                None
            }
        }
    }
}

/// Looks at an endpoint from time to time until it answers, or nobody has it any more.
async fn look_after(endpoint: Weak<Endpoint>, matter: Matter, opening: Opening, question: Question) {
    loop {
        let Some(at) = endpoint.upgrade().and_then(|endpoint| endpoint.next_look(matter, opening)) else { return };
        if at > Instant::now() {
            sleep_until(at).await;
            continue;
        }
        let Some(endpoint) = endpoint.upgrade() else { return };
        let found = endpoint.look(&question).await;
        endpoint.note_look(matter, opening, found);
    }
}

/// The same question, for nobody, who does not want the content.
fn cheaply(question: &Question) -> Question {
    let method = match question.target {
        Target::Manifest(_) | Target::Blob(_) => Method::Head,
        Target::Tags { .. } | Target::Referrers { .. } => Method::Get,
    };
    Question { method, caller: Caller::Larder, ..question.clone() }
}

/// No answer came while somebody waited for it.
fn late() -> UpstreamError {
    UpstreamError::Timeout { phase: Phase::Headers }
}

impl Asked {
    fn end(mut self, result: Result<Answer, UpstreamError>) -> Result<Answer, UpstreamError> {
        self.has_ended = true;
        self.has_pulled = result.is_ok();
        self.endpoint.note(&self, result)
    }
}

/// Whether a registry that limits pulls counts this as one: Docker Hub counts who gets a manifest, not who asks for its head.
fn is_pull(question: &Question) -> bool {
    matches!(question.target, Target::Manifest(_)) && question.method != Method::Head
}

/// Whoever asked waits no longer, if it has not ended.
impl Drop for Asked {
    fn drop(&mut self) {
        if !self.has_ended && self.at.elapsed() >= self.endpoint.telling() {
            // It is an error that is noted, and comes back.
            let _ = self.endpoint.note(self, Err(late()));
        }
        if is_pull(&self.question) {
            self.endpoint.lock().budget.end_pull(self.question.caller, self.has_pulled);
        }
    }
}
