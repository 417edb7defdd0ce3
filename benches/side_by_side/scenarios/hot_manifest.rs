//! A small manifest that is in the cache: how many requests for it a server answers, how late the slowest are, and what one costs.

use anyhow::{Context, Result};

use super::{Stage, in_turn};
use crate::client::Client;
use crate::content::{HOT_MANIFEST, manifest_path};
use crate::load;
use crate::results::{Figure, Results};
use crate::servers::Cache;
use crate::upstream::Network;

const RATE: Figure = Figure::more("requests/s", 0);
const P99: Figure = Figure::less("p99, ms", 2);
const CPU: Figure = Figure::less("CPU µs per request", 1);
const CONNECTIONS: usize = 32;

/// By digest: the upstream has no part in it.
pub(super) fn by_digest(stage: &Stage, results: &mut Results) -> Result<()> {
    let digest = stage.upstream.image(HOT_MANIFEST)?.manifest.digest;
    run(stage, results, ["hot manifest by digest", "after hot manifest by digest"], &manifest_path(&digest))
}

/// By tag: who asks the upstream about it each time waits for the network.
pub(super) fn by_tag(stage: &Stage, results: &mut Results) -> Result<()> {
    run(stage, results, ["hot manifest by tag, WAN", "after hot manifest by tag"], &manifest_path(HOT_MANIFEST))
}

fn run(stage: &Stage, results: &mut Results, [conditions, after]: [&'static str; 2], path: &str) -> Result<()> {
    stage.upstream.set_network(Network::Wan)?;
    let manifest = stage.upstream.image(HOT_MANIFEST)?.manifest;
    let mut servers = vec![stage.start_static(&[path.to_owned()])?];
    for cache in Cache::ALL {
        servers.push(stage.start(cache, results)?);
    }
    for server in &servers {
        let answer = Client::open(server.address)?.get(path)?.verify(&manifest.digest);
        answer.with_context(|| format!("{} does not have the manifest", server.subject.name()))?;
        stage.settle(Some(server))?;
    }
    for round in 0..stage.plan.rounds {
        for server in in_turn(&servers, round) {
            let before = server.process.cpu()?;
            let load = load::run(server.address, path, manifest.size, CONNECTIONS, stage.plan.load)
                .with_context(|| format!("{} failed under load", server.subject.name()))?;
            let cpu = server.process.cpu()? - before;
            let answers = load.answers as f64;
            results.add(conditions, RATE, server.subject, answers / load.took.as_secs_f64());
            results.add(conditions, P99, server.subject, load.p99.as_secs_f64() * 1e3);
            results.add(conditions, CPU, server.subject, cpu.as_secs_f64() * 1e6 / answers);
        }
        stage.upstream.forget()?;
    }
    for server in &servers {
        stage.weigh(after, server, results)?;
    }
    Ok(())
}
