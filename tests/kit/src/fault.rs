//! Faults: which requests are to go wrong, when, and how.
//! Describes them; [`plan`] carries them into an answer and the server onto the wire.

mod action;
mod book;
mod plan;

use serde::{Deserialize, Serialize};

pub(crate) use action::Stage;
pub use action::{Action, Declare, Ending};
pub(crate) use book::FaultBook;
pub use book::{FaultHandle, FaultStatus};
pub(crate) use plan::{Event, EventKind, Moment, Plan, Shape};

use crate::http::Request;
use crate::listener::Listener;

/// A rule: requests that match it are treated to its actions.
///
/// Which requests count depends on the actions. A rule that only answers, waits or closes before the answer counts every
/// request that matches. One that alters an answer counts only requests that get a 200 or 206, so that a challenge or
/// a redirect on the way there does not use it up; one that alters a body does not count HEAD; and one that
/// falsifies a range counts only what gets a 206. Without [`Fault::times`] it applies for ever.
/// Where several rules match, the actions of all are carried out, older rules' first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Where.
    listener: Listener,
    /// The method; `None`: any.
    #[serde(default)]
    method: Option<String>,
    /// All of these are in the path.
    #[serde(default)]
    path_contains: Vec<String>,
    /// All of these are in the query.
    #[serde(default)]
    query_contains: Vec<String>,
    /// All of these header fields are there.
    #[serde(default)]
    with_headers: Vec<String>,
    /// How many matching requests are let through first.
    #[serde(default)]
    skip: u64,
    /// To how many it applies then; `None`: to all.
    #[serde(default)]
    times: Option<u64>,
    /// Applies by chance.
    #[serde(default)]
    chance: Option<Chance>,
    actions: Vec<Action>,
}

/// A seeded coin.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Chance {
    /// From 0 to 1.
    probability: f64,
    seed: u64,
}

impl Fault {
    /// A rule for all requests at this listener, that does nothing yet.
    pub fn on(listener: Listener) -> Fault {
        Fault {
            listener,
            method: None,
            path_contains: Vec::new(),
            query_contains: Vec::new(),
            with_headers: Vec::new(),
            skip: 0,
            times: None,
            chance: None,
            actions: Vec::new(),
        }
    }

    /// Only requests of this method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Fault {
        self.method = Some(method.to_owned());
        self
    }

    /// Only requests whose path, as it was sent, has this in it: `/blobs/`, a digest. May be given several times.
    #[must_use]
    pub fn path_contains(mut self, part: impl ToString) -> Fault {
        self.path_contains.push(part.to_string());
        self
    }

    /// Only requests whose query, as it was sent, has this in it. May be given several times.
    #[must_use]
    pub fn query_contains(mut self, part: impl ToString) -> Fault {
        self.query_contains.push(part.to_string());
        self
    }

    /// Only requests with a header field of this name. May be given several times.
    #[must_use]
    pub fn with_header(mut self, name: &str) -> Fault {
        self.with_headers.push(name.to_owned());
        self
    }

    /// Lets the first `count` of them through.
    #[must_use]
    pub fn skip(mut self, count: u64) -> Fault {
        self.skip = count;
        self
    }

    /// Applies `count` times, then no more.
    #[must_use]
    pub fn times(mut self, count: u64) -> Fault {
        self.times = Some(count);
        self
    }

    /// Applies once.
    #[must_use]
    pub fn once(self) -> Fault {
        self.times(1)
    }

    /// Applies with this probability, from 0 to 1; the seed decides to which.
    #[must_use]
    pub fn probability(mut self, probability: f64, seed: u64) -> Fault {
        self.chance = Some(Chance { probability, seed });
        self
    }

    /// Adds an action; the methods named after actions are short for this.
    #[must_use]
    pub fn action(mut self, action: Action) -> Fault {
        self.actions.push(action);
        self
    }

    fn matches(&self, listener: Listener, request: &Request) -> bool {
        let method_fits = |wanted: &String| *wanted == request.method;
        listener == self.listener
            && self.method.as_ref().is_none_or(method_fits)
            && self.path_contains.iter().all(|part| request.path.contains(part))
            && self.query_contains.iter().all(|part| request.query.contains(part))
            && self.with_headers.iter().all(|name| request.headers.get(name).is_some())
    }

    /// The latest moment that its actions need.
    fn stage(&self) -> Stage {
        let stages = self.actions.iter().map(Action::stage);
        stages.max().unwrap_or(Stage::Request)
    }
}
