//! A blob that is in the cache and in memory, over TLS and HTTP/1.1: what it costs to encrypt it.

use std::thread;
use std::time::Instant;

use anyhow::Result;

use super::{Stage, gigabytes, in_turn};
use crate::content::{HOT_MIDDLE, blob_path, manifest_path};
use crate::results::{Bound, Figure, Results};
use crate::servers::{Server, Subject};
use crate::tls::{Identity, TlsClient};
use crate::upstream::Network;

const THROUGHPUT: Figure = Figure::more("GB/s", 2);
const CPU: Figure = Figure::less("CPU s per GB", 3);
const VARIANTS: [(&str, usize); 2] = [("hot blob by TLS, 1 client", 1), ("hot blob by TLS, 8 clients", 8)];

pub(super) fn run(stage: &Stage, results: &mut Results) -> Result<()> {
    stage.upstream.set_network(Network::Fast)?;
    let blob = stage.upstream.image(HOT_MIDDLE)?.largest()?.clone();
    let (path, identity) = (blob_path(&blob.digest), Identity::new()?);
    let Stage { programs, upstream, scratch, plan } = stage;
    let larder = Server::start_larder_tls(programs, upstream, scratch, &identity)?;
    let mut client = identity.connect(larder.address)?;
    client.get(&manifest_path(HOT_MIDDLE))?;
    client.get(&path)?;
    let files = Server::start_static_tls(programs, upstream, scratch, std::slice::from_ref(&path), &identity)?;
    let servers = [larder, files];
    for server in &servers {
        stage.settle(Some(server))?;
    }
    for round in 0..plan.rounds {
        for (conditions, clients) in VARIANTS {
            for server in in_turn(&servers, round) {
                let readers = (0..clients).map(|_| identity.connect(server.address)).collect::<Result<Vec<_>>>()?;
                let (begun, before) = (Instant::now(), server.process.cpu()?);
                let moved = thread::scope(|scope| {
                    let read = |reader| scope.spawn(|| read_until(begun + plan.load, reader, &path));
                    let reading: Vec<_> = readers.into_iter().map(read).collect();
                    reading.into_iter().map(|reader| reader.join().expect("a client does not panic")).sum::<Result<u64>>()
                })?;
                let (took, moved) = (begun.elapsed(), gigabytes(moved));
                let cpu = server.process.cpu()? - before;
                results.add(conditions, THROUGHPUT, server.subject, moved / took.as_secs_f64());
                results.add(conditions, CPU, server.subject, cpu.as_secs_f64() / moved);
            }
        }
    }
    for (conditions, _) in VARIANTS {
        results.aim(conditions, CPU, Bound::Times(0.7, Subject::Static));
    }
    Ok(())
}

/// Reads what is at `path` again and again: how many bytes that were.
fn read_until(end: Instant, mut client: TlsClient, path: &str) -> Result<u64> {
    let mut bytes = 0;
    while Instant::now() < end {
        bytes += client.get(path)?;
    }
    Ok(bytes)
}
