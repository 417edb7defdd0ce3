//! A small manifest that is in the cache: how many requests for it a server answers, how late the slowest are, and what one costs; over
//! connections that are kept, few and many, and over a new one for each request, as dockerd and older Podmans have it.

use anyhow::{Context, Result};

use super::{Stage, in_turn};
use crate::client::Client;
use crate::content::{HOT_MANIFEST, manifest_path};
use crate::load::{self, Connections};
use crate::results::{Bound, Figure, Results};
use crate::servers::{Cache, Server, Subject};
use crate::upstream::Network;

const RATE: Figure = Figure::more("requests/s", 0);
pub(super) const P99: Figure = Figure::less("p99, ms", 2);
const CPU: Figure = Figure::less("CPU µs per request", 1);
const FEW: Connections = Connections::Kept(32);

/// What is asked, and how.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    /// What the figures are noted under.
    pub(super) conditions: &'static str,
    /// The manifest's.
    pub(super) path: &'a str,
    pub(super) connections: Connections,
}

/// By digest: the upstream has no part in it.
pub(super) fn by_digest(stage: &Stage, results: &mut Results) -> Result<()> {
    let digest = stage.upstream.image(HOT_MANIFEST)?.manifest.digest;
    run(stage, results, "hot manifest by digest", &manifest_path(&digest))
}

/// By tag: who asks the upstream about it each time waits for the network.
pub(super) fn by_tag(stage: &Stage, results: &mut Results) -> Result<()> {
    run(stage, results, "hot manifest by tag, WAN", &manifest_path(HOT_MANIFEST))
}

fn run(stage: &Stage, results: &mut Results, conditions: &'static str, path: &str) -> Result<()> {
    let servers = start(stage, results, &Cache::ALL, path)?;
    for round in 0..stage.plan.rounds {
        for server in in_turn(&servers, round) {
            measure(stage, results, server, Question { conditions, path, connections: FEW })?;
        }
        stage.upstream.forget()?;
    }
    results.aim(conditions, RATE, Bound::AtLeastTimes(0.9, Subject::Static));
    results.aim(conditions, RATE, Bound::AtLeastTimes(50.0, Subject::DockerRegistry));
    Ok(())
}

/// What a request costs does not depend on how many connections there are; and a new one for each costs what it costs nginx.
pub(super) fn over_connections(stage: &Stage, results: &mut Results) -> Result<()> {
    const FRESH: &str = "hot manifest, a connection for each";
    const VARIANTS: [(&str, Connections); 4] = [
        ("hot manifest, 1 connection", Connections::Kept(1)),
        ("hot manifest, 32 connections", FEW),
        ("hot manifest, 1,000 connections", Connections::Kept(1000)),
        (FRESH, Connections::Fresh(32)),
    ];
    let path = manifest_path(&stage.upstream.image(HOT_MANIFEST)?.manifest.digest);
    let servers = start(stage, results, &[Cache::Larder, Cache::Nginx], &path)?;
    for round in 0..stage.plan.rounds {
        for (conditions, connections) in VARIANTS {
            for server in in_turn(&servers, round) {
                measure(stage, results, server, Question { conditions, path: &path, connections })?;
            }
        }
    }
    let [_, (few, _), (many, _), _] = VARIANTS;
    results.aim(many, CPU, Bound::TimesUnder(1.1, few));
    results.aim(FRESH, CPU, Bound::Times(1.0, Subject::Static));
    Ok(())
}

/// How late the slowest answers are where all servers bear the same load. Otherwise one that answers faster is asked more.
pub(super) fn at_a_rate(stage: &Stage, results: &mut Results) -> Result<()> {
    const BY_DIGEST: &str = "hot manifest by digest, 20,000 requests/s";
    const BY_TAG: &str = "hot manifest by tag, 20,000 requests/s";
    const RATE: u32 = 20_000;
    let manifest = stage.upstream.image(HOT_MANIFEST)?.manifest;
    let paths = [(BY_DIGEST, manifest_path(&manifest.digest)), (BY_TAG, manifest_path(HOT_MANIFEST))];
    for (conditions, path) in paths {
        let servers = start(stage, results, &[Cache::Larder, Cache::Nginx], &path)?;
        for round in 0..stage.plan.rounds {
            for server in in_turn(&servers, round) {
                let p99 = load::run_at_rate(server.address, &path, manifest.size, 32, RATE, stage.plan.load)
                    .with_context(|| format!("{} failed under load", server.subject.name()))?;
                results.add(conditions, P99, server.subject, p99.as_secs_f64() * 1e3);
            }
        }
        results.aim(conditions, P99, Bound::Times(1.0, Subject::Static));
    }
    Ok(())
}

/// Servers that have the manifest: one of files, and caches.
fn start(stage: &Stage, results: &mut Results, caches: &[Cache], path: &str) -> Result<Vec<Server>> {
    stage.upstream.set_network(Network::Wan)?;
    let manifest = stage.upstream.image(HOT_MANIFEST)?.manifest;
    let mut servers = vec![stage.start_static(&[path.to_owned()])?];
    for cache in caches {
        servers.push(stage.start(*cache, results)?);
    }
    for server in &servers {
        let answer = Client::open(server.address)?.get(path)?.verify(&manifest.digest);
        answer.with_context(|| format!("{} does not have the manifest", server.subject.name()))?;
        stage.settle(Some(server))?;
    }
    Ok(servers)
}

/// Has the manifest asked for, and notes how the server bore it and what it cost.
fn measure(stage: &Stage, results: &mut Results, server: &Server, question: Question<'_>) -> Result<()> {
    let before = server.process.cpu()?;
    let answers = ask(stage, results, server, question)?;
    let cpu = server.process.cpu()? - before;
    results.add(question.conditions, CPU, server.subject, cpu.as_secs_f64() * 1e6 / answers);
    Ok(())
}

/// As [`measure`], where the server does something else besides, so that its cost says nothing. Gives how many answers came.
pub(super) fn ask(stage: &Stage, results: &mut Results, server: &Server, question: Question<'_>) -> Result<f64> {
    let Question { conditions, path, connections } = question;
    let size = stage.upstream.image(HOT_MANIFEST)?.manifest.size;
    let load = load::run(server.address, path, size, connections, stage.plan.load)
        .with_context(|| format!("{} failed under load", server.subject.name()))?;
    let answers = load.answers as f64;
    results.add(conditions, RATE, server.subject, answers / load.took.as_secs_f64());
    results.add(conditions, P99, server.subject, load.p99.as_secs_f64() * 1e3);
    Ok(answers)
}
