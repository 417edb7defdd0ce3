//! A large blob that is in the cache and in memory: how fast it goes to one client and to eight, and what that costs the server.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Stage, gigabytes, in_turn};
use crate::client::Client;
use crate::content::{HOT_BLOB, blob_path, manifest_path};
use crate::results::{Figure, Results};
use crate::servers::{Cache, Server};
use crate::upstream::Network;

const THROUGHPUT: Figure = Figure::more("GB/s", 2);
const CPU: Figure = Figure::less("CPU s per GB", 3);
const CLIENTS: usize = 8;

pub(super) fn run(stage: &Stage, results: &mut Results) -> Result<()> {
    stage.upstream.set_network(Network::Fast)?;
    let image = stage.upstream.image(HOT_BLOB)?;
    let blob = image.largest()?;
    let path = blob_path(&blob.digest);
    let mut servers = vec![stage.start_static(std::slice::from_ref(&path))?];
    for cache in Cache::ALL {
        let server = stage.start(cache, results)?;
        // As a client does: docker-registry wants to know where a blob belongs.
        Client::open(server.address)?.get(&manifest_path(HOT_BLOB))?.discard()?;
        Client::open(server.address)?.get(&path)?.discard()?;
        servers.push(server);
    }
    for server in &servers {
        stage.settle(Some(server))?;
        let answer = Client::open(server.address)?.get(&path)?.verify(&blob.digest);
        answer.with_context(|| format!("{} does not have the blob", server.subject.name()))?;
    }
    let plan = &stage.plan;
    let crowd = Readers { clients: CLIENTS, reads: plan.shared_reads, are_in_kernel: false };
    let variants = [
        ("hot blob, 1 client", Readers { clients: 1, reads: plan.lone_reads, are_in_kernel: false }),
        ("hot blob, 8 clients", crowd),
        ("hot blob, 8 clients in the kernel", Readers { are_in_kernel: true, ..crowd }),
    ];
    for round in 0..plan.rounds {
        for (conditions, readers) in variants {
            for server in in_turn(&servers, round) {
                let before = server.process.cpu()?;
                let took = readers.read(server, &path)?;
                let cpu = server.process.cpu()? - before;
                let moved = gigabytes(blob.size) * (readers.clients * readers.reads) as f64;
                results.add(conditions, THROUGHPUT, server.subject, moved / took.as_secs_f64());
                results.add(conditions, CPU, server.subject, cpu.as_secs_f64() / moved);
            }
        }
    }
    for server in &servers {
        stage.weigh("after hot blob", server, results)?;
    }
    Ok(())
}

/// Clients that read at once.
#[derive(Clone, Copy)]
struct Readers {
    clients: usize,
    /// How many times each reads the blob, on one connection.
    reads: usize,
    /// Whether the bytes end in the kernel, so that nearly all processor time is left to the server.
    are_in_kernel: bool,
}

impl Readers {
    /// How long they take together.
    fn read(self, server: &Server, path: &str) -> Result<Duration> {
        let connect = |_| Client::open(server.address);
        let clients = (0..self.clients).map(connect).collect::<Result<Vec<_>>>()?;
        let begun = Instant::now();
        thread::scope(|scope| {
            let read = |client| scope.spawn(move || self.read_alone(client, path));
            let reading: Vec<_> = clients.into_iter().map(read).collect();
            reading.into_iter().try_for_each(|client| client.join().expect("a client does not panic"))
        })?;
        Ok(begun.elapsed())
    }

    fn read_alone(self, mut client: Client, path: &str) -> Result<()> {
        for _ in 0..self.reads {
            let answer = client.get(path)?;
            if self.are_in_kernel {
                answer.discard()?
            } else {
                answer.forget()?
            };
        }
        Ok(())
    }
}
