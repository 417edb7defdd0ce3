//! What the rules that apply to one request do to its answer.
//! Edits the reply and says what is to happen when in its body; the server carries it out.

use std::sync::Arc;
use std::time::Duration;

use super::book::Application;
use super::{Action, Declare, Ending, FaultBook, Stage};
use crate::http::{ByteRange, Framing, Headers, Payload, Reply, Request};
use crate::listener::Listener;

/// When the rules are looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment<'a> {
    /// The request has come.
    Request,
    /// It has this answer.
    Reply(&'a Reply),
}

/// The actions to be carried out on one answer.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    steps: Vec<Arc<Application>>,
}

/// Something that happens once `at` bytes of the body were sent.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) at: u64,
    pub(crate) kind: EventKind,
    pub(crate) cause: Arc<Application>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum EventKind {
    Hold(Option<Duration>),
    Cut(Ending),
}

/// How the body differs from what it should be.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    /// Offsets, in the whole content, of bytes to flip.
    pub(crate) corrupt: Vec<(u64, Arc<Application>)>,
    pub(crate) resize: Option<(i64, Declare, Arc<Application>)>,
    pub(crate) gzip: Option<Arc<Application>>,
    pub(crate) endless: Option<Arc<Application>>,
    /// Bytes a second.
    pub(crate) rate: Option<(u64, Arc<Application>)>,
}

impl Plan {
    /// The rules that apply at this moment.
    pub(crate) fn look_up(book: &FaultBook, listener: Listener, request: &Request, moment: Moment<'_>) -> Plan {
        let has_come = |stage: Stage| match (moment, stage) {
            (Moment::Request, stage) => stage == Stage::Request,
            (Moment::Reply(_), Stage::Request) => false,
            (Moment::Reply(reply), Stage::Head) => matches!(reply.status, 200 | 206),
            (Moment::Reply(reply), Stage::Body) => matches!(reply.status, 200 | 206) && !request.is_head(),
            (Moment::Reply(reply), Stage::Part) => reply.status == 206 && !request.is_head(),
        };
        Plan { steps: book.apply(listener, request, has_come) }
    }

    /// Appends what applies later.
    pub(crate) fn extend(&mut self, later: Plan) {
        self.steps.extend(later.steps);
    }

    /// The answer that takes the true one's place, if any.
    pub(crate) fn answer(&self) -> Option<Reply> {
        let last = self.actions().filter_map(|(cause, action)| match action {
            Action::Answer { status, headers, body } => Some((cause, status, headers, body)),
            _ => None,
        });
        last.last().map(|(cause, status, headers, body)| {
            cause.fire();
            let mut reply = Reply::empty(*status);
            reply.headers = headers.iter().cloned().collect::<Headers>();
            reply.payload = Payload::Bytes(body.clone().into());
            reply
        })
    }

    /// Changes status, header and framing.
    pub(crate) fn edit(&self, reply: &mut Reply) {
        if let Some(answer) = self.answer() {
            *reply = answer;
        }
        for (cause, action) in self.actions() {
            let changed = match action {
                Action::SetHeader { name, value } => {
                    reply.headers.set(name, value);
                    true
                }
                Action::RemoveHeader { name } => {
                    reply.headers.remove(name);
                    true
                }
                Action::Chunked => {
                    reply.framing = Framing::Chunked;
                    true
                }
                Action::CloseDelimited => {
                    reply.framing = Framing::Close;
                    true
                }
                Action::Gzip => {
                    reply.headers.set("Content-Encoding", "gzip");
                    true
                }
                Action::IgnoreRange => ignore_range(reply),
                Action::ShiftRange { header, body } => shift_range(reply, *header, *body),
                _ => false,
            };
            if changed {
                cause.fire();
            }
        }
    }

    /// How the body is to be falsified.
    pub(crate) fn shape(&self) -> Shape {
        let mut shape = Shape::default();
        for (cause, action) in self.actions() {
            let cause = cause.clone();
            match action {
                Action::Corrupt { offset } => shape.corrupt.push((*offset, cause)),
                Action::Resize { by, declare } => shape.resize = Some((*by, *declare, cause)),
                Action::Gzip => shape.gzip = Some(cause),
                Action::Endless => shape.endless = Some(cause),
                Action::Trickle { rate } => shape.rate = Some((*rate, cause)),
                _ => {}
            }
        }
        shape
    }

    /// What happens before the head is sent.
    pub(crate) fn before_head(&self) -> Vec<Event> {
        self.events(|at| at.is_none())
    }

    /// What happens within the body, by offset.
    pub(crate) fn within_body(&self) -> Vec<Event> {
        let mut events = self.events(|at| at.is_some());
        events.sort_by_key(|event| event.at);
        events
    }

    fn events(&self, is_wanted: impl Fn(Option<u64>) -> bool) -> Vec<Event> {
        let event = |(cause, action): (&Arc<Application>, &Action)| {
            let (at, kind) = match action {
                Action::Hold { at, for_ms } => (*at, EventKind::Hold(for_ms.map(Duration::from_millis))),
                Action::Cut { at, with } => (*at, EventKind::Cut(*with)),
                _ => return None,
            };
            is_wanted(at).then(|| Event { at: at.unwrap_or(0), kind, cause: cause.clone() })
        };
        self.actions().filter_map(event).collect()
    }

    fn actions(&self) -> impl Iterator<Item = (&Arc<Application>, &Action)> {
        self.steps.iter().flat_map(|step| {
            let actions = &step.rule().fault().actions;
            actions.iter().map(move |action| (step, action))
        })
    }
}

/// Turns a 206 into a 200 of everything.
fn ignore_range(reply: &mut Reply) -> bool {
    let Payload::Blob(slice) = &mut reply.payload else {
        return false;
    };
    slice.start = 0;
    slice.length = slice.blob.size();
    reply.status = 200;
    reply.headers.remove("Content-Range");
    true
}

/// Moves the range that a 206 states, the one that it sends, or both. What would leave the blob stops at its edge.
fn shift_range(reply: &mut Reply, header: i64, body: i64) -> bool {
    let Payload::Blob(slice) = &mut reply.payload else {
        return false;
    };
    let size = slice.blob.size();
    let furthest = size - slice.length;
    let shifted = |by: i64| slice.start.saturating_add_signed(by).min(furthest);
    let stated = ByteRange { start: shifted(header), last: shifted(header) + slice.length - 1 };
    let changed = stated.start != slice.start || shifted(body) != slice.start;
    slice.start = shifted(body);
    let value = format!("bytes {}-{}/{size}", stated.start, stated.last);
    reply.headers.set("Content-Range", value);
    changed
}
