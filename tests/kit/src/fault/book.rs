//! The rules in force, how often each was used, and the gates that requests are held at.
//! Decides whether a rule applies to a request; what then happens is not its business.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use super::{Chance, Fault, Stage};
use crate::http::Request;
use crate::listener::Listener;
use crate::synthetic::mix;

/// A rule in force.
#[derive(Debug)]
pub(crate) struct Rule {
    id: u64,
    fault: Fault,
    stage: Stage,
    uses: Mutex<Uses>,
    fired: AtomicU64,
    /// How many requests it holds now.
    held: watch::Sender<usize>,
    released: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Uses {
    /// Requests that matched.
    seen: u64,
    /// Requests that it was applied to.
    applied: u64,
}

/// A rule applied to one request.
#[derive(Debug)]
pub(crate) struct Application {
    rule: Arc<Rule>,
    fired: AtomicBool,
}

/// What a rule has done so far.
#[derive(Clone, Debug, Serialize)]
pub struct FaultStatus {
    /// Names it, at the control listener.
    pub id: u64,
    /// The rule.
    pub fault: Fault,
    /// Requests that matched it, let through or not.
    pub matched: u64,
    /// Requests on which it had its effect.
    pub fired: u64,
    /// Requests that it holds at this moment.
    pub held: usize,
}

impl Rule {
    pub(super) fn fault(&self) -> &Fault {
        &self.fault
    }

    /// Whether it applies to this request, which is counted.
    fn apply(&self, listener: Listener, request: &Request) -> bool {
        if !self.fault.matches(listener, request) {
            return false;
        }
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        uses.seen += 1;
        let used_up = self.fault.times.is_some_and(|times| uses.applied >= times);
        let by_chance = |chance: Chance| {
            // 53 bits make a uniform number in [0, 1) that f64 holds exactly.
            let draw = (mix(chance.seed, uses.seen) >> 11) as f64 / (1_u64 << 53) as f64;
            draw < chance.probability
        };
        let applies = uses.seen > self.fault.skip && !used_up && self.fault.chance.is_none_or(by_chance);
        uses.applied += u64::from(applies);
        applies
    }

    fn status(&self) -> FaultStatus {
        let uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        FaultStatus {
            id: self.id,
            fault: self.fault.clone(),
            matched: uses.seen,
            fired: self.fired.load(Ordering::Relaxed),
            held: *self.held.borrow(),
        }
    }

    fn release(&self) {
        self.released.send_replace(true);
    }
}

impl Application {
    pub(super) fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Counts that the fault came to pass, once for the request.
    pub(crate) fn fire(&self) {
        if !self.fired.swap(true, Ordering::Relaxed) {
            self.rule.fired.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Passes when the rule is released, or the time is over.
    pub(crate) fn hold(&self, duration: Option<Duration>) -> impl Future<Output = ()> + Send {
        self.fire();
        let rule = self.rule.clone();
        rule.held.send_modify(|held| *held += 1);
        let holding = Holding(rule);
        async move {
            let mut released = holding.0.released.subscribe();
            let release = async {
                // The sender lives in the rule, so that this ends only by a release.
                let _ = released.wait_for(|released| *released).await;
            };
            match duration {
                None => release.await,
                Some(duration) => {
                    let _ = tokio::time::timeout(duration, release).await;
                }
            }
        }
    }
}

/// Counts a held request while it lives.
struct Holding(Arc<Rule>);

impl Drop for Holding {
    fn drop(&mut self) {
        self.0.held.send_modify(|held| *held -= 1);
    }
}

/// All rules in force, oldest first.
#[derive(Debug, Default)]
pub(crate) struct FaultBook {
    next_id: AtomicU64,
    rules: Mutex<Vec<Arc<Rule>>>,
}

impl FaultBook {
    pub(crate) fn add(&self, fault: Fault) -> FaultHandle {
        let rule = Arc::new(Rule {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            stage: fault.stage(),
            fault,
            uses: Mutex::default(),
            fired: AtomicU64::new(0),
            held: watch::Sender::new(0),
            released: watch::Sender::new(false),
        });
        self.with(|rules| rules.push(rule.clone()));
        FaultHandle { rule }
    }

    /// Applies the rules of a stage that `has_come` to a request.
    pub(crate) fn apply(&self, listener: Listener, request: &Request, has_come: impl Fn(Stage) -> bool) -> Vec<Arc<Application>> {
        let rules = self.with(|rules| rules.clone());
        rules
            .into_iter()
            .filter(|rule| has_come(rule.stage) && rule.apply(listener, request))
            .map(|rule| Arc::new(Application { rule, fired: AtomicBool::new(false) }))
            .collect()
    }

    /// Ends a rule and releases what it holds; `false` where there is none of this id.
    pub(crate) fn remove(&self, id: u64) -> bool {
        self.remove_where(|rule| rule.id == id)
    }

    /// Ends all rules and releases what they hold.
    pub(crate) fn clear(&self) {
        self.remove_where(|_| true);
    }

    /// Releases what a rule holds, and opens its gates for good; `false` where there is none of this id.
    pub(crate) fn release(&self, id: u64) -> bool {
        let rule = self.with(|rules| rules.iter().find(|rule| rule.id == id).cloned());
        rule.inspect(|rule| rule.release()).is_some()
    }

    pub(crate) fn statuses(&self) -> Vec<FaultStatus> {
        self.with(|rules| rules.iter().map(|rule| rule.status()).collect())
    }

    fn remove_where(&self, is_meant: impl Fn(&Rule) -> bool) -> bool {
        let removed: Vec<_> = self.with(|rules| rules.extract_if(.., |rule| is_meant(rule)).collect());
        removed.iter().for_each(|rule| rule.release());
        !removed.is_empty()
    }

    fn with<T>(&self, work: impl FnOnce(&mut Vec<Arc<Rule>>) -> T) -> T {
        work(&mut self.rules.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A rule that was put in force. It stays so when this is dropped.
#[derive(Clone, Debug)]
pub struct FaultHandle {
    rule: Arc<Rule>,
}

impl FaultHandle {
    /// Names the rule within its hub.
    pub fn id(&self) -> u64 {
        self.rule.id
    }

    /// On how many requests the fault came to pass.
    pub fn fired(&self) -> u64 {
        self.rule.fired.load(Ordering::Relaxed)
    }

    /// How many requests matched the rule, let through or not.
    pub fn matched(&self) -> u64 {
        self.rule.status().matched
    }

    /// How many requests the rule holds at this moment.
    pub fn held(&self) -> usize {
        *self.rule.held.borrow()
    }

    /// Waits until the rule holds this many requests or more.
    pub async fn until_held(&self, count: usize) {
        let mut held = self.rule.held.subscribe();
        let reached = held.wait_for(|held| *held >= count).await;
        reached.expect("the rule, which this handle shares, owns the sender");
    }

    /// Lets all go on that it holds, and holds no more.
    pub fn release(&self) {
        self.rule.release();
    }
}
