//! Blobs that are in the cache and in memory: how fast they go to one client, to eight and to sixty-four, and what that costs the
//! server.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{PEAK, Stage, gigabytes, in_turn};
use crate::client::Client;
use crate::content::{HOT_MIDDLE, HOT_SMALL, LARGE, blob_path, manifest_path};
use crate::results::{Bound, Figure, Results};
use crate::servers::{Cache, Server, Subject};
use crate::upstream::{Descriptor, Network};

const THROUGHPUT: Figure = Figure::more("GB/s", 2);
const CPU: Figure = Figure::less("CPU s per GB", 3);
const AFTER: &str = "hot blobs, up to 64 clients";
/// 64 MiB.
const MEMORY_MAX_MB: f64 = 67.1;

/// The clients that read, and what.
const VARIANTS: [Variant; 10] = [
    Variant { conditions: "hot blob of 1 MiB, 1 client", tag: HOT_SMALL, clients: 1, do_copy: false },
    Variant { conditions: "hot blob of 1 MiB, 8 clients", tag: HOT_SMALL, clients: 8, do_copy: false },
    Variant { conditions: "hot blob of 1 MiB, 64 clients", tag: HOT_SMALL, clients: 64, do_copy: false },
    Variant { conditions: "hot blob of 64 MiB, 1 client", tag: HOT_MIDDLE, clients: 1, do_copy: false },
    Variant { conditions: "hot blob of 64 MiB, 8 clients", tag: HOT_MIDDLE, clients: 8, do_copy: false },
    Variant { conditions: "hot blob of 64 MiB, 1 client that copies", tag: HOT_MIDDLE, clients: 1, do_copy: true },
    Variant { conditions: "hot blob of 64 MiB, 8 clients that copy", tag: HOT_MIDDLE, clients: 8, do_copy: true },
    Variant { conditions: "hot blob of 64 MiB, 64 clients", tag: HOT_MIDDLE, clients: 64, do_copy: false },
    Variant { conditions: "hot blob of 1 GiB, 1 client", tag: LARGE, clients: 1, do_copy: false },
    Variant { conditions: "hot blob of 1 GiB, 8 clients", tag: LARGE, clients: 8, do_copy: false },
];

/// Clients that read a blob at once.
struct Variant {
    conditions: &'static str,
    tag: &'static str,
    clients: usize,
    /// Whether the bytes come out of the kernel, or end there, so that nearly all processor time is left to the server.
    do_copy: bool,
}

pub(super) fn run(stage: &Stage, results: &mut Results) -> Result<()> {
    stage.upstream.set_network(Network::Fast)?;
    let mut blobs = Vec::new();
    for tag in [HOT_SMALL, HOT_MIDDLE, LARGE] {
        blobs.push((tag, stage.upstream.image(tag)?.largest()?.clone()));
    }
    let mut servers = Vec::new();
    for cache in Cache::ALL {
        let server = stage.start(cache, results)?;
        for (tag, blob) in &blobs {
            // As a client does: docker-registry wants to know where a blob belongs.
            Client::open(server.address)?.get(&manifest_path(tag))?.discard()?;
            Client::open(server.address)?.get(&blob_path(&blob.digest))?.discard()?;
        }
        servers.push(server);
    }
    let digests: Vec<_> = blobs.iter().map(|(_, blob)| &*blob.digest).collect();
    let larder = servers.iter().find(|server| server.subject == Subject::Larder).context("Larder is one of the caches")?;
    servers.push(Server::start_beside(larder, &stage.programs, &stage.scratch, &digests)?);
    for server in &servers {
        stage.settle(Some(server))?;
        for (_, blob) in &blobs {
            let answer = Client::open(server.address)?.get(&blob_path(&blob.digest))?.verify(&blob.digest);
            answer.with_context(|| format!("{} does not have the blob", server.subject.name()))?;
        }
    }
    for round in 0..stage.plan.rounds {
        for variant in &VARIANTS {
            let (_, blob) = blobs.iter().find(|(tag, _)| *tag == variant.tag).context("all tags are there")?;
            for server in in_turn(&servers, round) {
                let before = server.process.cpu()?;
                let (took, moved) = variant.read(server, blob, stage.plan.load)?;
                let cpu = server.process.cpu()? - before;
                let moved = gigabytes(moved);
                results.add(variant.conditions, THROUGHPUT, server.subject, moved / took.as_secs_f64());
                results.add(variant.conditions, CPU, server.subject, cpu.as_secs_f64() / moved);
            }
        }
    }
    for server in servers.iter().filter(|server| server.subject == Subject::Larder) {
        results.add(AFTER, PEAK, server.subject, server.process.peak_memory()? as f64 / 1e6);
        results.aim(AFTER, PEAK, Bound::Most(MEMORY_MAX_MB));
    }
    for Variant { conditions, .. } in VARIANTS {
        results.aim(conditions, THROUGHPUT, Bound::AtLeastTimes(1.0, Subject::Static));
        results.aim(conditions, CPU, Bound::Times(1.0, Subject::Static));
        results.aim(conditions, CPU, Bound::Times(0.5, Subject::DockerRegistry));
    }
    Ok(())
}

impl Variant {
    /// How long they took together, which is `least` and the end of what they read then, and for how many bytes.
    fn read(&self, server: &Server, blob: &Descriptor, least: Duration) -> Result<(Duration, u64)> {
        let path = &blob_path(&blob.digest);
        let clients = (0..self.clients).map(|_| Client::open(server.address)).collect::<Result<Vec<_>>>()?;
        let begun = Instant::now();
        let reads = thread::scope(|scope| {
            let read = |client| scope.spawn(move || self.read_alone(client, path, begun + least));
            let reading: Vec<_> = clients.into_iter().map(read).collect();
            reading.into_iter().map(|client| client.join().expect("a client does not panic")).sum::<Result<u64>>()
        })?;
        Ok((begun.elapsed(), blob.size * reads))
    }

    /// How often it was read.
    fn read_alone(&self, mut client: Client, path: &str, until: Instant) -> Result<u64> {
        let mut reads = 0;
        while Instant::now() < until {
            let answer = client.get(path)?;
            if self.do_copy {
                answer.forget()?
            } else {
                answer.discard()?
            };
            reads += 1;
        }
        Ok(reads)
    }
}
