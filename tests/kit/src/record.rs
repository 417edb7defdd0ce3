//! What happened at the listeners: each request, in the order of arrival, and how its answer ended.
//! Observes only; no decision is taken from it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::http::{Headers, Request};
use crate::listener::Listener;

/// How the answer to a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It has not ended.
    InFlight,
    /// All of it was handed to the operating system.
    Complete,
    /// It ended early: by a fault, or because the client left.
    Broken,
}

/// One request and its answer.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// Where it was received.
    pub listener: Listener,
    /// Who sent it.
    pub peer: SocketAddr,
    /// The connection it came over; counts from 0 at each listener.
    pub connection: u64,
    /// When it came, since the hub was started.
    #[serde(rename = "at_ms", with = "crate::config::millis")]
    pub at: Duration,
    /// The method.
    pub method: String,
    /// The path as it was sent.
    pub path: String,
    /// The query as it was sent, without the question mark; empty if there was none.
    pub query: String,
    /// The header fields.
    pub headers: Headers,
    /// The status of the answer, once it has begun.
    pub status: Option<u16>,
    /// The bytes of the answer's body that were sent; chunk framing is not counted.
    pub body_bytes: u64,
    /// How the answer ended.
    pub outcome: Outcome,
}

/// Requests that were received, narrowed down step by step.
#[derive(Clone, Debug)]
pub struct Requests(Vec<Record>);

impl Requests {
    /// Those at this listener.
    #[must_use]
    pub fn on(self, listener: Listener) -> Requests {
        self.filter(|record| record.listener == listener)
    }

    /// Those of this method.
    #[must_use]
    pub fn method(self, method: &str) -> Requests {
        self.filter(|record| record.method == method)
    }

    /// Those whose path has this in it: a digest, a name, `/blobs/`.
    #[must_use]
    pub fn path_contains(self, part: impl ToString) -> Requests {
        let part = part.to_string();
        self.filter(|record| record.path.contains(&part))
    }

    /// Those whose query has this in it.
    #[must_use]
    pub fn query_contains(self, part: impl ToString) -> Requests {
        let part = part.to_string();
        self.filter(|record| record.query.contains(&part))
    }

    /// Those with a header field of this name.
    #[must_use]
    pub fn with_header(self, name: &str) -> Requests {
        self.filter(|record| record.headers.get(name).is_some())
    }

    /// Those answered with this status.
    #[must_use]
    pub fn status(self, status: u16) -> Requests {
        self.filter(|record| record.status == Some(status))
    }

    /// Those that ended so.
    #[must_use]
    pub fn outcome(self, outcome: Outcome) -> Requests {
        self.filter(|record| record.outcome == outcome)
    }

    /// Those for which this is true.
    #[must_use]
    pub fn filter(mut self, keep: impl FnMut(&Record) -> bool) -> Requests {
        self.0.retain(keep);
        self
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The bytes of their answers' bodies.
    pub fn body_bytes(&self) -> u64 {
        self.0.iter().map(|record| record.body_bytes).sum()
    }

    /// Each as a line such as `registry GET /v2/ 401`, to compare or to print.
    pub fn lines(&self) -> Vec<String> {
        let line = |record: &Record| {
            let status = record.status.map_or("-".to_owned(), |code| code.to_string());
            format!("{} {} {} {status}", record.listener, record.method, record.path)
        };
        self.0.iter().map(line).collect()
    }

    /// They, in the order of arrival.
    pub fn records(&self) -> &[Record] {
        &self.0
    }
}

/// All records of a hub.
#[derive(Debug)]
pub(crate) struct Ledger {
    started: Instant,
    entries: Mutex<Vec<Arc<Mutex<Record>>>>,
    /// Notified at every change.
    changes: watch::Sender<()>,
}

impl Ledger {
    pub(crate) fn new() -> Ledger {
        Ledger { started: Instant::now(), entries: Mutex::default(), changes: watch::Sender::new(()) }
    }

    /// Enters a request.
    pub(crate) fn enter(self: &Arc<Ledger>, listener: Listener, request: &Request) -> Entry {
        let record = Arc::new(Mutex::new(Record {
            listener,
            peer: request.peer,
            connection: request.connection,
            at: self.started.elapsed(),
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            headers: request.headers.clone(),
            status: None,
            body_bytes: 0,
            outcome: Outcome::InFlight,
        }));
        lock(&self.entries).push(record.clone());
        self.changes.send_replace(());
        Entry { record, ledger: self.clone() }
    }

    pub(crate) fn requests(&self) -> Requests {
        let entries = lock(&self.entries);
        Requests(entries.iter().map(|record| lock(record).clone()).collect())
    }

    pub(crate) fn clear(&self) {
        lock(&self.entries).clear();
    }

    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

/// The record of a request being answered. Dropped before it is complete, it is broken.
#[derive(Debug)]
pub(crate) struct Entry {
    record: Arc<Mutex<Record>>,
    ledger: Arc<Ledger>,
}

impl Entry {
    pub(crate) fn began(&self, status: u16) {
        self.change(|record| record.status = Some(status));
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.change(|record| record.body_bytes += bytes);
    }

    pub(crate) fn complete(self) {
        self.change(|record| record.outcome = Outcome::Complete);
    }

    fn change(&self, change: impl FnOnce(&mut Record)) {
        change(&mut lock(&self.record));
        self.ledger.changes.send_replace(());
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.change(|record| {
            if record.outcome == Outcome::InFlight {
                record.outcome = Outcome::Broken;
            }
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
