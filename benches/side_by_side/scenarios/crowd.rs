//! Fifty cold blobs at once, each for a client of its own, from an upstream behind a network: what fills cost that go on side by side.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{PEAK, Stage, gigabytes, in_turn, median_ms};
use crate::client::Client;
use crate::content::{CROWD, blob_path, manifest_path};
use crate::results::{Bound, Figure, Results};
use crate::servers::{Cache, Server};
use crate::upstream::{Descriptor, Network};

const CONDITIONS: &str = "50 cold blobs at once, WAN";
const WALL: Figure = Figure::less("s", 2);
const FIRST_BYTE: Figure = Figure::less("first byte, median, ms", 1);
const CPU: Figure = Figure::less("CPU s per GB", 3);
/// 100 MiB.
const MEMORY_MAX_MB: f64 = 104.8;

pub(super) fn run(stage: &Stage, results: &mut Results) -> Result<()> {
    let image = stage.upstream.image(CROWD)?;
    for round in 0..stage.plan.slow_rounds {
        for cache in in_turn(&[Cache::Larder, Cache::Nginx], round) {
            stage.upstream.set_network(Network::Wan)?;
            let server = stage.start(*cache, results)?;
            Client::open(server.address)?.get(&manifest_path(CROWD))?.verify(&image.manifest.digest)?;
            rustix::fs::sync();
            stage.upstream.forget()?;
            let before = server.process.cpu()?;
            let begun = Instant::now();
            let first_bytes = pull(&server, &image.blobs)?;
            results.add(CONDITIONS, WALL, server.subject, begun.elapsed().as_secs_f64());
            results.add(CONDITIONS, FIRST_BYTE, server.subject, median_ms(first_bytes));
            let cpu = stage.settle(Some(&server))?.cpu.saturating_sub(before).as_secs_f64();
            results.add(CONDITIONS, CPU, server.subject, cpu / gigabytes(image.size()));
            results.add(CONDITIONS, PEAK, server.subject, server.process.peak_memory()? as f64 / 1e6);
        }
    }
    results.aim(CONDITIONS, PEAK, Bound::Most(MEMORY_MAX_MB));
    Ok(())
}

/// How long each waited for its first byte.
fn pull(server: &Server, blobs: &[Descriptor]) -> Result<Vec<Duration>> {
    thread::scope(|scope| {
        let pull = |blob: &'_ Descriptor| Client::open(server.address)?.get(&blob_path(&blob.digest))?.discard();
        let pulling: Vec<_> = blobs.iter().map(|blob| scope.spawn(move || pull(blob))).collect();
        pulling.into_iter().map(|client| client.join().expect("a client does not panic")).collect()
    })
}
