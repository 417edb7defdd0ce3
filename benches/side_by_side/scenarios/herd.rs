//! Twenty clients that want the same cold blob at the same instant, from an upstream behind a network.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Stage, in_turn, median_ms};
use crate::client::Client;
use crate::content::{HERD, blob_path, manifest_path};
use crate::results::{Figure, Results};
use crate::servers::{Cache, Server};
use crate::upstream::Network;

const CONDITIONS: &str = "herd of 20, WAN";
const AFTER: &str = "after herd of 20";
const WALL: Figure = Figure::less("s", 2);
const FIRST_BYTE: Figure = Figure::less("first byte, median, ms", 1);
const GETS: Figure = Figure::less("upstream GETs of the blob", 0);
const AMPLIFICATION: Figure = Figure::less("upstream bytes ÷ blob", 2);
const CLIENTS: usize = 20;

pub(super) fn run(stage: &Stage, results: &mut Results) -> Result<()> {
    let image = stage.upstream.image(HERD)?;
    let blob = image.largest()?;
    let path = blob_path(&blob.digest);
    for round in 0..stage.plan.rounds {
        for cache in in_turn(&Cache::ALL, round) {
            stage.upstream.set_network(Network::Wan)?;
            let server = stage.start(*cache, results)?;
            // The manifest is no part of this, but who knows it knows where the blob belongs.
            Client::open(server.address)?.get(&manifest_path(HERD))?.verify(&image.manifest.digest)?;
            // What the one before has written is not for this one to wait for.
            rustix::fs::sync();
            stage.upstream.forget()?;

            let (took, first_bytes) = pull(&server, &path).with_context(|| format!("{}: no pull", server.subject.name()))?;
            results.add(CONDITIONS, WALL, server.subject, took.as_secs_f64());
            results.add(CONDITIONS, FIRST_BYTE, server.subject, median_ms(first_bytes));
            let asked = stage.settle(Some(&server))?.asked;
            results.add(CONDITIONS, GETS, server.subject, asked.blobs as f64);
            results.add(CONDITIONS, AMPLIFICATION, server.subject, asked.bytes as f64 / blob.size as f64);
            stage.weigh(AFTER, &server, results)?;
            Client::open(server.address)?.get(&path)?.verify(&blob.digest)?;
        }
    }
    Ok(())
}

/// How long it took until all had the blob, and each to its first byte.
fn pull(server: &Server, path: &str) -> Result<(Duration, Vec<Duration>)> {
    let clients = (0..CLIENTS).map(|_| Client::open(server.address)).collect::<Result<Vec<_>>>()?;
    let start = Barrier::new(CLIENTS);
    let pulled = thread::scope(|scope| {
        let pull = |mut client: Client| {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                let begun = Instant::now();
                let first_byte = client.get(path)?.discard()?;
                anyhow::Ok((begun, first_byte, Instant::now()))
            })
        };
        let pulling: Vec<_> = clients.into_iter().map(pull).collect();
        let pulled = pulling.into_iter().map(|client| client.join().expect("a client does not panic"));
        pulled.collect::<Result<Vec<_>>>()
    })?;
    let begun = pulled.iter().map(|(begun, _, _)| *begun).min();
    let ended = pulled.iter().map(|(_, _, ended)| *ended).max();
    let took = ended.zip(begun).map(|(ended, begun)| ended - begun).context("there was no client")?;
    Ok((took, pulled.into_iter().map(|(_, first_byte, _)| first_byte).collect()))
}
