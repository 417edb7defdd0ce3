//! Answers one request: asks the site, applies the faults, and writes the result to the wire.
//! The only place that writes to connections.

use std::fmt::Write as _;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;

use super::body::Body;
use super::connection::{After, Connection};
use crate::config::Network;
use crate::fault::{Event, EventKind, Moment, Shape};
use crate::http::{Framing, Reply, Request, reason};
use crate::record::Entry;

/// The most that is written at once, in bytes.
const CHUNK: usize = 64 * 1024;
/// How often a second a paced body is written to.
const PACED_WRITES: u64 = 50;

/// A broken connection counts as an error of the client's making, the origin's failure as one of ours.
fn broken(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

impl Connection {
    /// Answers a request and says what becomes of the connection.
    pub(super) async fn answer(&mut self, request: &Request) -> io::Result<After> {
        let entry = self.site.record(request);
        let network = self.site.network();
        if network.latency > Duration::ZERO {
            self.wait(tokio::time::sleep(network.latency)).await?;
        }
        let mut plan = self.site.plan(request, Moment::Request);
        // A delay comes before anything is looked up, as in a registry that is slow to look.
        let mut early = plan.before_head();
        let early_count = early.len();
        if let Some(after) = self.carry_out(&mut early).await? {
            return Ok(after);
        }
        let mut reply = match plan.answer() {
            Some(reply) => reply,
            None => {
                let site = self.site.clone();
                site.handle(request).await
            }
        };
        plan.extend(self.site.plan(request, Moment::Reply(&reply)));
        let mut late = plan.before_head().split_off(early_count);
        if let Some(after) = self.carry_out(&mut late).await? {
            return Ok(after);
        }
        plan.edit(&mut reply);

        let body = match Body::open(&reply.payload, plan.shape()).await {
            Ok(body) => body,
            Err(error) => {
                reply = Reply::error(502, "UNAVAILABLE", &error.to_string());
                let opened = Body::open(&reply.payload, Shape::default()).await;
                opened.map_err(broken)?
            }
        };
        let events = plan.within_body();
        self.send(request, &reply, body, events, network, entry).await
    }

    /// Sends an answer to what was not even a request.
    pub(super) async fn refuse(&mut self, reply: &Reply) -> io::Result<()> {
        let body = Body::open(&reply.payload, Shape::default()).await;
        let mut body = body.map_err(broken)?;
        let head = head_of(reply, Framing::Length, &body, false);
        self.transport.write_all(head.as_bytes()).await?;
        let bytes = body.next(CHUNK).await.map_err(broken)?;
        self.transport.write_all(&bytes).await
    }

    async fn send(
        &mut self,
        request: &Request,
        reply: &Reply,
        mut body: Body,
        mut events: Vec<Event>,
        network: Network,
        entry: Option<Entry>,
    ) -> io::Result<After> {
        let framing = match body.framing(reply.framing) {
            Framing::Chunked if request.minor_version == 0 => Framing::Close,
            framing => framing,
        };
        let has_body = !request.is_head() && reply.status != 204;
        let ends_by_itself = framing != Framing::Close && body.length_is_true() || framing == Framing::Chunked || !has_body;
        let keep = request.keeps_alive() && ends_by_itself;

        let head = head_of(reply, framing, &body, keep);
        if let Some(entry) = &entry {
            entry.began(reply.status);
        }
        self.transport.write_all(head.as_bytes()).await?;
        self.transport.flush().await?;

        if has_body {
            let rates = [body.rate(), network.connection_rate];
            let connection_rate = rates.into_iter().flatten().min();
            let slowest = connection_rate.into_iter().chain(network.total_rate).min();
            let largest = slowest.map_or(CHUNK, |rate| (rate / PACED_WRITES).clamp(1, CHUNK as u64) as usize);
            let mut sent = 0;
            loop {
                let due = events.partition_point(|event| event.at <= sent);
                let mut due: Vec<_> = events.drain(..due).collect();
                if let Some(after) = self.carry_out(&mut due).await? {
                    return Ok(after);
                }
                let until_next = events.first().map_or(u64::MAX, |event| event.at - sent);
                let max = usize::try_from(until_next).map_or(largest, |next| next.min(largest));
                let bytes = body.next(max).await.map_err(broken)?;
                if bytes.is_empty() {
                    break;
                }
                self.pace(bytes.len(), connection_rate, network.total_rate).await?;
                self.write_body(&bytes, framing).await?;
                sent += bytes.len() as u64;
                let counter = &self.site.traffic().body_bytes;
                counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                if let Some(entry) = &entry {
                    entry.sent(bytes.len() as u64);
                }
            }
            if framing == Framing::Chunked {
                self.transport.write_all(b"0\r\n\r\n").await?;
            }
        }
        self.transport.flush().await?;
        if let Some(entry) = entry {
            entry.complete();
        }
        Ok(if keep { After::Keep } else { After::Close })
    }

    async fn write_body(&mut self, bytes: &Bytes, framing: Framing) -> io::Result<()> {
        if framing == Framing::Chunked {
            let size = format!("{:x}\r\n", bytes.len());
            self.transport.write_all(size.as_bytes()).await?;
        }
        self.transport.write_all(bytes).await?;
        if framing == Framing::Chunked {
            self.transport.write_all(b"\r\n").await?;
        }
        Ok(())
    }

    async fn pace(&mut self, bytes: usize, connection_rate: Option<u64>, total_rate: Option<u64>) -> io::Result<()> {
        let own = connection_rate.map(|rate| self.pacer.book(bytes, rate));
        let shared = total_rate.map(|rate| self.site.traffic().pacer.book(bytes, rate));
        let wait = own.max(shared).unwrap_or_default();
        if wait > Duration::ZERO {
            self.transport.flush().await?;
            self.wait(tokio::time::sleep(wait)).await?;
        }
        Ok(())
    }

    /// Lets happen what is due; `Some` when that ended the connection.
    async fn carry_out(&mut self, events: &mut Vec<Event>) -> io::Result<Option<After>> {
        for event in events.drain(..) {
            self.transport.flush().await?;
            match event.kind {
                EventKind::Hold(duration) => self.wait(event.cause.hold(duration)).await?,
                EventKind::Cut(ending) => {
                    event.cause.fire();
                    return Ok(Some(After::Cut(ending)));
                }
            }
        }
        Ok(None)
    }
}

fn head_of(reply: &Reply, framing: Framing, body: &Body, keep: bool) -> String {
    let mut head = format!("HTTP/1.1 {} {}\r\n", reply.status, reason(reply.status));
    let mut field = |name: &str, value: &str| {
        write!(head, "{name}: {value}\r\n").expect("writing to a String does not fail");
    };
    for (name, value) in reply.headers.iter() {
        field(name, value);
    }
    match framing {
        Framing::Length if reply.status == 204 => {}
        Framing::Length => {
            // A header that a rule set stands.
            if reply.headers.get("Content-Length").is_none() {
                field("Content-Length", &body.declared_length().to_string());
            }
        }
        Framing::Chunked => field("Transfer-Encoding", "chunked"),
        Framing::Close => {}
    }
    if !keep {
        field("Connection", "close");
    }
    head.push_str("\r\n");
    head
}
