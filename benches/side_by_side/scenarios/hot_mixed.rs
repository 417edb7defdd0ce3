//! A small manifest that is in the cache, asked for while others read large blobs as fast as memory gives them: whether small answers
//! wait for large ones.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::hot_manifest::{P99, Question, ask};
use super::{Stage, in_turn};
use crate::client::Client;
use crate::content::{HOT_MANIFEST, HOT_MIDDLE, blob_path, manifest_path};
use crate::load::Connections;
use crate::results::{Bound, Results};
use crate::servers::{Cache, Server, Subject};
use crate::upstream::Network;

const CONDITIONS: &str = "hot manifest beside 4 readers of blobs";
const READERS: usize = 4;
const CONNECTIONS: Connections = Connections::Kept(4);

/// For how long the blobs are read before the first manifest is asked for.
const HEAD_START: Duration = Duration::from_millis(200);

pub(super) fn run(stage: &Stage, results: &mut Results) -> Result<()> {
    stage.upstream.set_network(Network::Fast)?;
    let manifest = stage.upstream.image(HOT_MANIFEST)?.manifest;
    let blob = stage.upstream.image(HOT_MIDDLE)?.largest()?.clone();
    let (small, large) = (manifest_path(&manifest.digest), blob_path(&blob.digest));
    let mut servers = vec![stage.start_static(&[small.clone(), large.clone()])?];
    for cache in [Cache::Larder, Cache::Nginx] {
        let server = stage.start(cache, results)?;
        // As a client does: who knows the manifest knows where a blob belongs.
        Client::open(server.address)?.get(&manifest_path(HOT_MIDDLE))?.discard()?;
        servers.push(server);
    }
    for server in &servers {
        for (path, digest) in [(&small, &manifest.digest), (&large, &blob.digest)] {
            let answer = Client::open(server.address)?.get(path)?.verify(digest);
            answer.with_context(|| format!("{} does not have {path}", server.subject.name()))?;
        }
        stage.settle(Some(server))?;
    }
    for round in 0..stage.plan.rounds {
        for server in in_turn(&servers, round) {
            let until = Instant::now() + HEAD_START + stage.plan.load;
            thread::scope(|scope| {
                let reading: Vec<_> = (0..READERS).map(|_| scope.spawn(|| read_until(until, server, &large))).collect();
                thread::sleep(HEAD_START);
                let question = Question { conditions: CONDITIONS, path: &small, connections: CONNECTIONS };
                let asked = ask(stage, results, server, question);
                reading.into_iter().try_for_each(|reader| reader.join().expect("a reader does not panic"))?;
                asked.map(drop)
            })?;
        }
    }
    // A small answer may wait for what one call sends to each reader, and for the clients' own work; not for whole blobs.
    results.aim(CONDITIONS, P99, Bound::Times(5.0, Subject::Static));
    Ok(())
}

fn read_until(end: Instant, server: &Server, path: &str) -> Result<()> {
    let mut client = Client::open(server.address)?;
    while Instant::now() < end {
        client.get(path)?.discard()?;
    }
    Ok(())
}
