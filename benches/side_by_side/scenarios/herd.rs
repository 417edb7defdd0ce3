//! Many clients that want the same cold blob at the same instant.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{PEAK, Stage, in_turn, in_turn_but_slow_ones_seldom, median_ms};
use crate::client::Client;
use crate::content::{HERD, LARGE, blob_path, manifest_path};
use crate::results::{Bound, Figure, Results};
use crate::servers::{Cache, Server, Subject};
use crate::upstream::{Descriptor, Network};

const WALL: Figure = Figure::less("s", 2);
const FIRST_BYTE: Figure = Figure::less("first byte, median, ms", 1);
const LAST_FIRST_BYTE: Figure = Figure::less("first byte, latest, ms", 1);
const GETS: Figure = Figure::less("upstream GETs of the blob", 0);
const AMPLIFICATION: Figure = Figure::less("upstream bytes ÷ blob", 3);

/// Twenty clients, from an upstream behind a network, which allows 1.05 s.
pub(super) fn run(stage: &Stage, results: &mut Results) -> Result<()> {
    const CONDITIONS: &str = "herd of 20, WAN";
    let image = stage.upstream.image(HERD)?;
    let blob = image.largest()?;
    for round in 0..stage.plan.rounds {
        stage.upstream.set_network(Network::Wan)?;
        let mut direct = Client::open(stage.upstream.address())?.with_token(&stage.upstream.log_in()?);
        let first_byte = direct.get(&blob_path(&blob.digest))?.discard()?.as_secs_f64() * 1e3;
        // One client at the upstream itself: what all of them could have.
        results.add(CONDITIONS, FIRST_BYTE, Subject::Direct, first_byte);
        results.add(CONDITIONS, LAST_FIRST_BYTE, Subject::Direct, first_byte);
        for cache in in_turn_but_slow_ones_seldom(&Cache::ALL, round) {
            let server = begin(stage, *cache, HERD, results)?;
            measure(stage, &server, blob, 20, CONDITIONS, results)?;
        }
    }
    results.aim(CONDITIONS, WALL, Bound::Most(1.2));
    results.aim(CONDITIONS, LAST_FIRST_BYTE, Bound::Plus(5.0, Subject::Direct));
    results.aim(CONDITIONS, GETS, Bound::Most(1.0));
    Ok(())
}

/// A hundred clients and a large blob, from an upstream as quick as the machine.
pub(super) fn large(stage: &Stage, results: &mut Results) -> Result<()> {
    const CONDITIONS: &str = "herd of 100, a large blob";
    let image = stage.upstream.image(LARGE)?;
    for round in 0..stage.plan.slow_rounds {
        for cache in in_turn(&[Cache::Larder, Cache::Nginx], round) {
            stage.upstream.set_network(Network::Fast)?;
            let server = begin(stage, *cache, LARGE, results)?;
            measure(stage, &server, image.largest()?, 100, CONDITIONS, results)?;
            results.add(CONDITIONS, PEAK, server.subject, server.process.peak_memory()? as f64 / 1e6);
        }
    }
    results.aim(CONDITIONS, AMPLIFICATION, Bound::Most(1.0));
    results.aim(CONDITIONS, PEAK, Bound::Most(64.0));
    Ok(())
}

/// A cache that knows the image's manifest, which is no part of this: who knows it knows where the blob belongs.
fn begin(stage: &Stage, cache: Cache, tag: &str, results: &mut Results) -> Result<Server> {
    let server = stage.start(cache, results)?;
    Client::open(server.address)?.get(&manifest_path(tag))?.discard()?;
    // What the one before has written is not for this one to wait for.
    rustix::fs::sync();
    stage.upstream.forget()?;
    Ok(server)
}

fn measure(
    stage: &Stage,
    server: &Server,
    blob: &Descriptor,
    clients: usize,
    conditions: &'static str,
    results: &mut Results,
) -> Result<()> {
    let path = blob_path(&blob.digest);
    let (took, first_bytes) = pull(server, &path, clients).with_context(|| format!("{}: no pull", server.subject.name()))?;
    results.add(conditions, WALL, server.subject, took.as_secs_f64());
    let latest = first_bytes.iter().max().map_or(f64::NAN, |latest| latest.as_secs_f64() * 1e3);
    results.add(conditions, FIRST_BYTE, server.subject, median_ms(first_bytes));
    results.add(conditions, LAST_FIRST_BYTE, server.subject, latest);
    let asked = stage.settle(Some(server))?.asked;
    results.add(conditions, GETS, server.subject, asked.blobs as f64);
    results.add(conditions, AMPLIFICATION, server.subject, asked.bytes as f64 / blob.size as f64);
    Client::open(server.address)?.get(&path)?.verify(&blob.digest)?;
    Ok(())
}

/// How long it took until all had the blob, and each to its first byte.
fn pull(server: &Server, path: &str, clients: usize) -> Result<(Duration, Vec<Duration>)> {
    let opened = (0..clients).map(|_| Client::open(server.address)).collect::<Result<Vec<_>>>()?;
    let start = Barrier::new(clients);
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
        let pulling: Vec<_> = opened.into_iter().map(pull).collect();
        let pulled = pulling.into_iter().map(|client| client.join().expect("a client does not panic"));
        pulled.collect::<Result<Vec<_>>>()
    })?;
    let begun = pulled.iter().map(|(begun, _, _)| *begun).min();
    let ended = pulled.iter().map(|(_, _, ended)| *ended).max();
    let took = ended.zip(begun).map(|(ended, begun)| ended - begun).context("there was no client")?;
    Ok((took, pulled.into_iter().map(|(_, first_byte, _)| first_byte).collect()))
}
