//! An image that is not in the cache, pulled as clients do: by its tag, then three blobs at a time. Each round has caches that are
//! new.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{COLD, Stage, gigabytes, in_turn, median_ms, subject};
use crate::client::Client;
use crate::content;
use crate::results::{Bound, Figure, Results};
use crate::servers::{Cache, Server, Subject};
use crate::upstream::{ImageContent, Network};

const WALL: Figure = Figure::less("s", 2);
const FIRST_BYTE: Figure = Figure::less("first byte of a blob, median, ms", 1);
const CPU: Figure = Figure::less("CPU s per GB", 3);
const AMPLIFICATION: Figure = Figure::less("upstream bytes ÷ image", 2);
/// What containerd and dockerd download at once by default.
const CONNECTIONS: usize = 3;

/// From an upstream as quick as the machine: what the cache itself costs.
pub(super) fn fast(stage: &Stage, results: &mut Results) -> Result<()> {
    let [conditions, after] = ["cold pull, fast", "after cold pull, fast"];
    run(stage, results, Network::Fast, [conditions, after])?;
    results.aim(conditions, WALL, Bound::Times(1.25, Subject::Direct));
    results.aim(conditions, CPU, Bound::Most(1.6));
    Ok(())
}

/// From an upstream behind a network.
pub(super) fn wan(stage: &Stage, results: &mut Results) -> Result<()> {
    let [conditions, after] = ["cold pull, WAN", "after cold pull, WAN"];
    run(stage, results, Network::Wan, [conditions, after])?;
    results.aim(conditions, WALL, Bound::Times(1.03, Subject::Direct));
    results.aim(conditions, FIRST_BYTE, Bound::Plus(2.0, Subject::Direct));
    Ok(())
}

fn run(stage: &Stage, results: &mut Results, network: Network, [conditions, after]: [&'static str; 2]) -> Result<()> {
    let image = stage.upstream.image(content::COLD)?;
    for round in 0..stage.plan.rounds {
        for cache in in_turn(&COLD, round).filter(|cache| round.is_multiple_of(3) || **cache != Some(Cache::DockerRegistry)) {
            stage.upstream.set_network(network)?;
            let server = cache.map(|cache| stage.start(cache, results)).transpose()?;
            let subject = subject(*cache);
            // What the one before has written is not for this one to wait for.
            rustix::fs::sync();
            stage.upstream.forget()?;
            let before = server.as_ref().map(|server| server.process.cpu()).transpose()?;

            let pulled = pull(stage, server.as_ref(), &image).with_context(|| format!("{}: no pull", subject.name()))?;
            results.add(conditions, WALL, subject, pulled.took.as_secs_f64());
            results.add(conditions, FIRST_BYTE, subject, median_ms(pulled.first_bytes));
            let cost = stage.settle(server.as_ref())?;
            if let Some((server, before)) = server.as_ref().zip(before) {
                let cpu = cost.cpu.saturating_sub(before).as_secs_f64();
                results.add(conditions, CPU, subject, cpu / gigabytes(image.size()));
                results.add(conditions, AMPLIFICATION, subject, cost.asked.bytes as f64 / image.size() as f64);
                stage.weigh(after, server, results)?;
                verify(server, &image).with_context(|| format!("{} keeps something else", subject.name()))?;
            }
        }
    }
    Ok(())
}

/// A pull that is over.
struct Pulled {
    took: Duration,
    /// Of each blob.
    first_bytes: Vec<Duration>,
}

/// Pulls through a server or, where there is none, from the upstream itself, where a client has to get a token first.
fn pull(stage: &Stage, server: Option<&Server>, image: &ImageContent) -> Result<Pulled> {
    let begun = Instant::now();
    let connect: Box<dyn Fn() -> Result<Client>> = match server {
        Some(server) => Box::new(|| Client::open(server.address)),
        None => {
            let token = stage.upstream.log_in()?;
            Box::new(move || Ok(Client::open(stage.upstream.address())?.with_token(&token)))
        }
    };
    let mut first = connect()?;
    first.get(&content::manifest_path(content::COLD))?.verify(&image.manifest.digest)?;
    let mut clients = vec![first];
    while clients.len() < CONNECTIONS {
        clients.push(connect()?);
    }
    let queue = Mutex::new(image.blobs.iter());
    let next = || queue.lock().expect("nothing panics with the queue in hand").next();
    let first_bytes = thread::scope(|scope| {
        let pull = |mut client: Client| {
            scope.spawn(move || {
                let mut first_bytes = Vec::new();
                while let Some(blob) = next() {
                    first_bytes.push(client.get(&content::blob_path(&blob.digest))?.verify(&blob.digest)?);
                }
                anyhow::Ok(first_bytes)
            })
        };
        let pulling: Vec<_> = clients.into_iter().map(pull).collect();
        let pulled = pulling.into_iter().map(|client| client.join().expect("a client does not panic"));
        pulled.collect::<Result<Vec<_>>>()
    })?;
    Ok(Pulled { took: begun.elapsed(), first_bytes: first_bytes.concat() })
}

/// Reads all that a cache now has, and checks it.
fn verify(server: &Server, image: &ImageContent) -> Result<()> {
    let mut client = Client::open(server.address)?;
    for blob in &image.blobs {
        client.get(&content::blob_path(&blob.digest))?.verify(&blob.digest)?;
    }
    Ok(())
}
