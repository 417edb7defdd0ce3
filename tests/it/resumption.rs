//! Fills that end before their content is whole, and the ones that go on from there.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use larder_testkit::{Digest, Fault, Hub, Image, Listener, Network, PerListener};
use rustix::process::Signal;

use crate::support::{Download, End, Larder, NAME, TAG, blob, fetched, hub_with, image, pull};

const MIB: u64 = 1 << 20;

/// What may be read twice for each interruption: what arrived after the last note, and what was on its way in sockets.
const SLACK: u64 = 8 * MIB;

/// On a machine that is slow enough a second one would take over what the first is held back before.
const ONE_CONNECTION: &str = "limits.connections_per_blob = 1";

struct Bed {
    image: Image,
    hub: Hub,
    larder: Larder,
}

impl Bed {
    async fn new(seed: u64, size: u64, snippet: &str) -> Self {
        let image = image(seed, &[size]);
        let hub = hub_with(&image).await;
        let larder = Larder::with(&hub, snippet).await;
        Self { image, hub, larder }
    }

    fn layer(&self) -> &Digest {
        self.image.layers()[0].digest()
    }

    /// A client reads until the upstream has sent so much of the answer that comes after `skip` others, and holds back the rest.
    async fn read_until(&self, sent: u64) {
        let gate = self.hub.fault(Fault::on(Listener::Cdn).path_contains(self.layer()).once().hold_at(sent));
        let mut client = self.larder.connect().await;
        client.request("GET", &blob(self.layer()), &[]).await;
        gate.until_held(1).await;
        client.until_received(1000).await;
        // More than the time after which what has arrived is noted in any case.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    async fn whole(&self) {
        let Download { end, digest, .. } = self.larder.download(blob(self.layer())).await;
        assert_eq!((end, &digest), (End::Complete, self.layer()));
        self.larder.until_idle().await;
        assert!(self.larder.has(self.layer()));
        assert!(parts(&self.larder).is_empty(), "{:?}", parts(&self.larder));
    }

    fn fetched(&self) -> u64 {
        fetched(&self.hub, self.layer()).body_bytes()
    }
}

/// What lies in the folder of parts in flight.
fn parts(larder: &Larder) -> Vec<PathBuf> {
    larder.all_files().into_iter().filter(|path| path.parent().is_some_and(|folder| folder.ends_with("ingest"))).collect()
}

/// Issue 3, "Restarts": after a kill only the rest is read, however often it happens.
#[tokio::test]
async fn after_a_kill_only_the_rest_is_read() {
    let mut bed = Bed::new(1700, 48 * MIB, ONE_CONNECTION).await;
    for _ in 0..4 {
        bed.read_until(10 * MIB).await;
        bed.larder.kill9_and_restart().await;
        bed.hub.clear_faults();
    }
    assert!(!bed.larder.has(bed.layer()));
    bed.whole().await;
    assert!(bed.fetched() <= 48 * MIB + 4 * SLACK, "{} bytes were read of {}", bed.fetched(), 48 * MIB);
    assert_eq!(pull(&bed.larder, NAME, TAG).await, bed.image.manifest().digest.as_str());
}

/// As above, for a stop that was asked for and then insisted on.
#[tokio::test]
async fn after_a_stop_only_the_rest_is_read() {
    let mut bed = Bed::new(1701, 24 * MIB, ONE_CONNECTION).await;
    bed.read_until(16 * MIB).await;
    bed.larder.signal(Signal::TERM);
    bed.larder.until_logged("answers under way are finished first").await;
    bed.larder.signal(Signal::TERM);
    assert_eq!(bed.larder.wait().code(), Some(0));
    // It is no failure of anybody.
    let log = bed.larder.log();
    assert!(log.contains("stopping before all of a blob has come") && !log.contains("could not be fetched"), "{log}");
    bed.hub.clear_faults();
    bed.larder.start_again().await;
    bed.whole().await;
    assert!(bed.fetched() <= 24 * MIB + SLACK, "{}", bed.fetched());
}

/// What several connections have brought, each its share, is kept as well.
#[tokio::test]
async fn what_several_connections_have_brought_outlives_a_kill() {
    let mut bed = Bed::new(1702, 64 * MIB, "limits.connections_per_blob = 4").await;
    bed.hub.configure(|config| {
        config.network = PerListener::from_fn(|_| Network { connection_rate: Some(5 << 20), ..Network::default() });
    });
    let mut client = bed.larder.connect().await;
    client.request("GET", &blob(bed.layer()), &[]).await;
    bed.larder.until(|metrics| metrics.get("upstream_received_bytes_total{upstream=\"docker.io\"}") > 32.0 * MIB as f64).await;
    assert!(fetched(&bed.hub, bed.layer()).count() > 1, "one connection was all there was");
    bed.larder.kill9_and_restart().await;
    bed.hub.configure(|config| config.network = PerListener::from_fn(|_| Network::default()));
    bed.whole().await;
    assert!(bed.fetched() <= 64 * MIB + 2 * SLACK, "{}", bed.fetched());
}

/// Promise P1: what a power failure, or somebody, has made of a part is not believed.
#[tokio::test]
async fn a_part_that_was_damaged_never_makes_a_complete_answer() {
    let mut bed = Bed::new(1703, 16 * MIB, ONE_CONNECTION).await;
    bed.read_until(8 * MIB).await;
    bed.larder.kill9();
    bed.hub.clear_faults();
    let part = parts(&bed.larder).into_iter().find(|path| path.extension().is_some_and(|end| end == "part")).unwrap();
    let mut content = fs::read(&part).unwrap();
    content[3_000_000] ^= 1;
    fs::write(&part, content).unwrap();
    bed.larder.start_again().await;
    let download = bed.larder.download(blob(bed.layer())).await;
    assert_eq!(download.end, End::Fin, "{download:?}");
    bed.larder.until_idle().await;
    assert!(!bed.larder.has(bed.layer()));
    assert_eq!(bed.larder.metrics().await.get("verification_failures_total{upstream=\"docker.io\"}"), 0.0, "not its fault");
    bed.whole().await;
}

/// A part that was kept counts for the budget, and gives way to what is asked for.
#[tokio::test]
async fn a_part_that_was_kept_is_within_the_budget() {
    let mut bed = Bed::new(1704, 10 * MIB, &format!("cache.max_size = \"100MiB\"\n{ONE_CONNECTION}")).await;
    bed.read_until(8 * MIB).await;
    bed.larder.kill9_and_restart().await;
    bed.hub.clear_faults();
    let metrics = bed.larder.metrics().await;
    let reserved = metrics.get("cache_reserved_bytes");
    assert!((4.0 * MIB as f64..=10.0 * MIB as f64).contains(&reserved), "{reserved}");
    bed.whole().await;
    assert_eq!(bed.larder.metrics().await.get("cache_reserved_bytes"), 0.0);
}

/// Issue 3, "Manners": a fill whose readers all left goes on, or stops and keeps its part, by size and rate.
#[tokio::test]
async fn a_large_blob_that_nobody_reads_any_more_is_left_and_gone_on_with() {
    let bed = Bed::new(1705, 64 * MIB, "cache.finish_unread = \"1MiB\"").await;
    // Fast enough for a part, and too slow to be complete within a minute.
    bed.hub.configure(|config| {
        config.network = PerListener::from_fn(|_| Network { total_rate: Some(500_000), ..Network::default() });
    });
    let mut client = bed.larder.connect().await;
    client.request("GET", &blob(bed.layer()), &[]).await;
    client.until_received(500_000).await;
    drop(client);
    bed.larder.until(|metrics| metrics.fills("unread") == 1.0).await;
    bed.hub.configure(|config| config.network = PerListener::from_fn(|_| Network::default()));
    assert!(!bed.larder.has(bed.layer()) && !parts(&bed.larder).is_empty());
    bed.whole().await;
    assert!(bed.fetched() <= 64 * MIB + SLACK, "{}", bed.fetched());
}
