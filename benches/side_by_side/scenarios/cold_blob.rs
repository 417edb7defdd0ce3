//! One large blob that is not in the cache, through Larder and straight from the upstream: what several connections to the upstream
//! gain where each has a limit, and that they cost nothing where the link has one. Each round has a cache that is new.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Stage, in_turn, subject};
use crate::client::Client;
use crate::content::{LARGE, blob_path, manifest_path};
use crate::results::{Bound, Figure, Results};
use crate::servers::{Cache, Subject};
use crate::upstream::Network;

const WALL: Figure = Figure::less("s", 2);
const MOST: Figure = Figure::less("most upstream connections at a time", 0);
const MEAN: Figure = Figure::less("upstream connections, mean over the time", 2);
const AMPLIFICATION: Figure = Figure::less("upstream bytes ÷ blob", 2);
/// What is compared.
const PATHS: [Option<Cache>; 2] = [None, Some(Cache::Larder)];
/// How often it is looked how many connections there are.
const LOOK: Duration = Duration::from_millis(50);

/// Where each connection has a limit: four of them take a quarter of the time, and the rest of the target is for finding that out.
pub(super) fn limited_connections(stage: &Stage, results: &mut Results) -> Result<()> {
    run(stage, results, Network::LimitedConnections, "cold blob, 20 MB/s per connection", 0.30)
}

/// Where the link has a limit: more connections gain nothing, and are not to cost anything either.
pub(super) fn limited_link(stage: &Stage, results: &mut Results) -> Result<()> {
    run(stage, results, Network::Wan, "cold blob, link of 200 MB/s", 1.05)?;
    run(stage, results, Network::NarrowWan, "cold blob, link of 50 MB/s", 1.05)
}

fn run(stage: &Stage, results: &mut Results, network: Network, conditions: &'static str, target: f64) -> Result<()> {
    let image = stage.upstream.image(LARGE)?;
    let blob = image.largest()?;
    for round in 0..stage.plan.slow_rounds {
        for cache in in_turn(&PATHS, round) {
            stage.upstream.set_network(network)?;
            let server = cache.map(|cache| stage.start(cache, results)).transpose()?;
            let subject = subject(*cache);
            let mut client = match &server {
                Some(server) => Client::open(server.address)?,
                None => Client::open(stage.upstream.address())?.with_token(&stage.upstream.log_in()?),
            };
            // The manifest is no part of this, but who knows it knows where the blob belongs.
            client.get(&manifest_path(LARGE))?.verify(&image.manifest.digest)?;
            // What the one before has written is not for this one to wait for.
            rustix::fs::sync();
            stage.upstream.forget()?;

            let (took, connections) = watched(stage, &blob.digest, || client.get(&blob_path(&blob.digest))?.discard())
                .with_context(|| format!("{}: no pull", subject.name()))?;
            results.add(conditions, WALL, subject, took.as_secs_f64());
            results.add(conditions, MOST, subject, connections.iter().copied().fold(0.0, f64::max));
            results.add(conditions, MEAN, subject, connections.iter().sum::<f64>() / connections.len() as f64);
            let asked = stage.settle(server.as_ref())?.asked;
            results.add(conditions, AMPLIFICATION, subject, asked.bytes as f64 / blob.size as f64);
            if server.is_some() {
                client.get(&blob_path(&blob.digest))?.verify(&blob.digest).context("Larder keeps something else")?;
            }
        }
    }
    results.aim(conditions, WALL, Bound::Times(target, Subject::Direct));
    Ok(())
}

/// How long `pull` took, and over how many connections the upstream sent the blob meanwhile, at each look.
fn watched<T>(stage: &Stage, digest: &str, pull: impl FnOnce() -> Result<T>) -> Result<(Duration, Vec<f64>)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut counts = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                counts.push(stage.upstream.sending(digest)? as f64);
                sleep(LOOK);
            }
            anyhow::Ok(counts)
        });
        let begun = Instant::now();
        let pulled = pull();
        let took = begun.elapsed();
        is_over.store(true, Ordering::Relaxed);
        let counts = looking.join().expect("who looks does not panic")?;
        pulled?;
        Ok((took, counts))
    })
}
