//! Origins that answer as they are told, and remember what they were asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use tokio::time::sleep;

use crate::config::Reserve;
use crate::oci::UpstreamName;
use crate::upstream::gate::{Gate, GateConfig, Unasked};
use crate::upstream::{
    Answer, Caller, Head, Method, Observer, Origin, Outcome, Question, Rate, RateLimit, Target, UpstreamError,
};

/// How an origin answers.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Answer,
    /// With what is left of a limit.
    Told(RateLimit),
    After(Duration),
    Error(UpstreamError),
    ErrorAfter(Duration, UpstreamError),
    Silence,
}

/// The endpoints of one upstream.
#[derive(Clone)]
pub(super) struct Origins(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    replies: Vec<Reply>,
    /// The one repository of which everything fails.
    broken: Option<String>,
    asked: Vec<(usize, Question)>,
    unasked: Vec<Unasked>,
}

struct ScriptedOrigin {
    origins: Origins,
    number: usize,
}

impl Origins {
    /// One endpoint for each reply, which it gives until it is told otherwise.
    pub(super) fn new<const N: usize>(replies: [Reply; N]) -> Self {
        Self::of(replies.into())
    }

    pub(super) fn of(replies: Vec<Reply>) -> Self {
        Self(Arc::new(Mutex::new(State { replies, ..State::default() })))
    }

    pub(super) fn set(&self, endpoint: usize, reply: Reply) {
        self.0.lock().unwrap().replies[endpoint] = reply;
    }

    pub(super) fn fail_only(&self, repository: &str) {
        self.0.lock().unwrap().broken = Some(repository.to_owned());
    }

    /// What was asked, and of which endpoint.
    pub(super) fn asked(&self) -> Vec<(usize, Question)> {
        self.0.lock().unwrap().asked.clone()
    }

    /// The endpoints in the order in which they were asked, but for looks.
    pub(super) fn endpoints_asked(&self) -> Vec<usize> {
        self.asked().iter().map(|(endpoint, _)| *endpoint).collect()
    }

    pub(super) fn unasked(&self) -> Vec<Unasked> {
        self.0.lock().unwrap().unasked.clone()
    }

    /// A gate before them, with deadlines of 15 seconds and a reserve of a tenth.
    pub(super) fn gate(&self, change: impl FnOnce(&mut GateConfig)) -> Gate {
        let mut config = GateConfig {
            upstream: "r.example.org".parse().unwrap(),
            offline: false,
            reserve: Reserve::Share(10),
            concurrent_requests: 100.try_into().unwrap(),
            rate: Arc::new(Rate::new(10_000.try_into().unwrap())),
            queue_timeout: Duration::from_secs(15),
            headers_timeout: Duration::from_secs(15),
        };
        change(&mut config);
        let count = self.0.lock().unwrap().replies.len();
        let origin = |number| {
            let origin = ScriptedOrigin { origins: self.clone(), number };
            (format!("r{number}.example.org"), Arc::new(origin) as Arc<dyn Origin>)
        };
        Gate::new(config, origin(0), (1..count).map(origin).collect(), Arc::new(self.clone()))
    }
}

impl Origin for ScriptedOrigin {
    fn ask(&self, question: Question) -> BoxFuture<'static, Result<Answer, UpstreamError>> {
        let mut state = self.origins.0.lock().unwrap();
        let is_broken = state.broken.as_deref() == Some(question.repository.as_str());
        let reply = if is_broken { Reply::Error(UpstreamError::status(500)) } else { state.replies[self.number].clone() };
        state.asked.push((self.number, question));
        async move {
            let head = match reply {
                Reply::Answer => Head::default(),
                Reply::Told(limit) => Head { rate_limit: Some(limit), ..Head::default() },
                Reply::After(pause) => {
                    sleep(pause).await;
                    Head::default()
                }
                Reply::Error(error) => return Err(error),
                Reply::ErrorAfter(pause, error) => {
                    sleep(pause).await;
                    return Err(error);
                }
                Reply::Silence => std::future::pending().await,
            };
            Ok(Answer { head, body: stream::pending().boxed() })
        }
        .boxed()
    }
}

impl Observer for Origins {
    fn asked(&self, _: &UpstreamName, _: &'static str, _: &'static str, _: Outcome, _: Duration) {}

    fn received(&self, _: &UpstreamName, _: u64) {}

    fn rate_limit(&self, _: &UpstreamName, _: &RateLimit) {}

    fn unasked(&self, _: &UpstreamName, why: Unasked) {
        self.0.lock().unwrap().unasked.push(why);
    }
}

/// A question about a manifest.
pub(super) fn manifest(repository: &str) -> Question {
    let target = Target::Manifest("latest".parse().unwrap());
    Question { repository: repository.parse().unwrap(), target, method: Method::Get, caller: Caller::Larder }
}

/// Asks for some manifest.
pub(super) async fn ask(gate: &Gate) -> Result<(), UpstreamError> {
    gate.ask(manifest("library/app")).await.map(drop)
}

/// Nobody listens.
pub(super) fn refused() -> UpstreamError {
    UpstreamError::Unreachable { reason: "connection refused".to_owned() }
}
