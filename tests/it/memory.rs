//! What clients cost that take their time: a descriptor and a bounded buffer each, here and in the system.

use std::fs;
use std::net::SocketAddr;

use futures::future::join_all;
use larder_testkit::{Fault, Image, Listener, Synthetic};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::{Connection, End, Larder, blob, hub_with, image, pull};
use crate::support::{NAME, TAG};

const MIB: u64 = 1 << 20;

/// As many as one address may have by default, but for a few.
const CLIENTS: usize = 1000;

/// So many of them may have as much in the system as it gives to one connection.
const FEW: usize = 32;

/// Promise P5: a slow client costs bounded memory, and slows no other one.
///
/// What a reader costs does not depend on the size of the content. With 2 GiB, as issue 3 has it, this takes five times as long;
/// with 512 MiB it is over long before the readers have been still for so long that they are left.
#[tokio::test]
async fn a_thousand_slow_readers_of_a_fill_cost_less_than_64_mib() {
    allow_many_descriptors();
    let image = Image::builder().layer(Synthetic::new(1200, 512 * MIB)).layer(Synthetic::new(1201, 3_000_000)).build();
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    // Each connection that it is fetched over stops there.
    let gate = hub.fault(Fault::on(Listener::Cdn).path_contains(layer).hold_at(40 * MIB));
    // That is not to be taken for a connection that is dead.
    let larder = Larder::with(&hub, "timeouts.stall = '300s'").await;
    larder.download(blob(image.layers()[1].digest())).await;
    larder.until_idle().await;
    let (memory, descriptors) = (larder.memory(), larder.descriptors());

    let readers = join_all((0..CLIENTS).map(|_| async {
        let mut reader = larder.connect().await;
        reader.request("GET", &blob(layer), &[]).await;
        reader.until_received(10_000).await;
        reader
    }))
    .await;
    gate.until_held(1).await;
    assert!(larder.metrics().await.get("fills_in_flight") >= 1.0, "it is over before anything was measured");
    gate.release();
    let whole = larder.download(blob(layer)).await;
    assert_eq!((whole.end, &whole.digest), (End::Complete, layer));

    assert!(larder.metrics().await.get("connections") >= CLIENTS as f64, "some did not stay");
    let grown = larder.peak_memory() - memory;
    assert!(grown < 64 * MIB, "{CLIENTS} slow readers cost {} KiB", grown >> 10);
    let mut waiting = send_queues(larder.address());
    assert!(waiting.len() >= CLIENTS, "{} connections are in the system's table", waiting.len());
    waiting.sort_unstable_by(|one, other| other.cmp(one));
    assert!(waiting[0] < 8 * MIB, "{} bytes wait in the system for one reader", waiting[0]);
    assert!(waiting[FEW] < MIB, "{} bytes wait in the system for each of more than {FEW} readers", waiting[FEW]);

    drop(readers);
    larder.until(|metrics| metrics.get("connections") <= 1.0).await;
    // Those to the upstream are kept for a while.
    larder.until_descriptors(descriptors + 15).await;
    larder.until_idle().await;
    assert!(larder.has(layer));
}

/// What is fetched comes into the same memory again and again: fresh memory would cost the system a page fault for each 4 KiB.
#[tokio::test]
async fn a_fill_goes_on_in_the_memory_that_it_has() {
    const SIZE: u64 = 1024 * MIB;
    let image = Image::builder().layer(Synthetic::new(1203, SIZE)).build();
    let hub = hub_with(&image).await;
    let larder = Larder::of(&hub).await;
    let before = larder.page_faults();
    let download = larder.download(blob(image.layers()[0].digest())).await;
    assert_eq!((download.end, &download.digest), (End::Complete, image.layers()[0].digest()));
    let faults = larder.page_faults() - before;
    // All that such a process has is 30 MiB. Where what is free goes back to the system, there are 15,000 to 40,000.
    assert!(faults < 32 * MIB / 4096, "{faults} page faults");
}

/// Clients keep their connections: containerd for 30 s, others for minutes.
#[tokio::test]
async fn a_thousand_connections_that_are_kept_cost_less_than_20_mib() {
    allow_many_descriptors();
    let hub = hub_with(&image(1202, &[1000])).await;
    let larder = Larder::of(&hub).await;
    pull(&larder, NAME, TAG).await;
    let memory = larder.memory();
    let ask = |mut connection: Connection| async {
        assert_eq!(connection.ask("GET", "/v2/", &[]).await.status(), 200);
        connection
    };
    let kept = join_all((0..CLIENTS).map(|_| async { ask(larder.connect().await).await })).await;
    let grown = larder.peak_memory() - memory;
    assert!(grown < 20 * MIB, "{CLIENTS} kept connections cost {} KiB", grown >> 10);
    assert_eq!(join_all(kept.into_iter().map(ask)).await.len(), CLIENTS);
}

/// The least that is usual (1024) is too few for a thousand connections; processes started from here inherit what is set.
fn allow_many_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

/// How many bytes the system holds for each connection that was accepted at this address: proc(5), `/proc/net/tcp`.
fn send_queues(address: SocketAddr) -> Vec<u64> {
    const ESTABLISHED: &str = "01";
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", address.port());
    let connections = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let accepted = connections.filter(|fields| fields[1].ends_with(&port) && fields[3] == ESTABLISHED);
    accepted.map(|fields| u64::from_str_radix(fields[4].split_once(':').unwrap().0, 16).unwrap()).collect()
}
