//! Issue 5: whatever an upstream does, and however often, what it has cost in memory and descriptors is given back.

use std::time::Duration;

use larder_testkit::{Fault, FaultHandle, Hub, Image, Listener, Repository};

use crate::support::{Larder, NAME, TAG, blob, hub_with, image, manifest, pull};

const MIB: u64 = 1 << 20;

/// How often each fault comes and goes.
const ROUNDS: u64 = 5;

/// How much more may be resident after the last round than after the first: what an allocator keeps differs by the order of things.
const SLACK: u64 = 8 * MIB;

/// How much more the most may be that was ever resident than what was after the first round.
const PEAK: u64 = 24 * MIB;

/// Connections that are kept for a while: to the registry, its token server and its CDN, and that of the test.
const KEPT: usize = 12;

/// What can become of an upstream.
#[derive(Clone, Copy, Debug)]
enum Class {
    Down,
    NoTokens,
    NoCdn,
    Limited,
    Flapping,
    BrownOut,
    Stalled,
    Cut,
    WrongBytes,
}

const CLASSES: [Class; 9] = [
    Class::Down,
    Class::NoTokens,
    Class::NoCdn,
    Class::Limited,
    Class::Flapping,
    Class::BrownOut,
    Class::Stalled,
    Class::Cut,
    Class::WrongBytes,
];

impl Class {
    async fn begin(self, hub: &Hub) -> Option<FaultHandle> {
        let registry = || Fault::on(Listener::Registry);
        let cdn = || Fault::on(Listener::Cdn);
        Some(match self {
            Self::Down => {
                hub.stop_listening().await;
                return None;
            }
            Self::NoTokens => {
                hub.revoke_tokens();
                hub.stop_listening_on(Listener::Token).await;
                return None;
            }
            Self::NoCdn => {
                hub.stop_listening_on(Listener::Cdn).await;
                return None;
            }
            Self::Limited => hub.fault(registry().answer(429, &[("Retry-After", "1")], "slow down")),
            Self::Flapping => hub.fault(registry().probability(0.5, 7).status(503)),
            Self::BrownOut => hub.fault(registry().hold()),
            Self::Stalled => hub.fault(cdn().hold_at(100_000)),
            Self::Cut => hub.fault(cdn().cut_at(100_000)),
            Self::WrongBytes => hub.fault(cdn().corrupt(10)),
        })
    }

    async fn end(self, hub: &Hub, fault: Option<FaultHandle>) {
        hub.clear_faults();
        drop(fault);
        if matches!(self, Self::Down | Self::NoTokens | Self::NoCdn) {
            hub.resume().await.unwrap();
        }
    }
}

/// What clients ask for while the upstream is in trouble: what is cached, what is not, and what there has never been.
async fn ask(larder: &Larder, name: &str, image: &Image) {
    let layer = image.layers()[0].digest();
    let absent = |number: u32| manifest(format!("absent-{number}"));
    let mut targets = vec![manifest(TAG), format!("/v2/{name}/manifests/{TAG}"), format!("/v2/{name}/blobs/{layer}")];
    targets.extend((0..8).map(absent).chain((0..8).map(|_| manifest(TAG))));
    let clients = targets.iter().map(|target| async move {
        // Some wait to the end, some not so long.
        let patience = Duration::from_millis(2500);
        let _ = tokio::time::timeout(patience, larder.download(target)).await;
    });
    futures::future::join_all(clients).await;
}

/// Rounds of a fault with other content each time: what is resident after the first round, and after the last.
async fn assert_footprint(class: Class, seed: u64) {
    let cached = image(seed, &[1_000]);
    let hub = hub_with(&cached).await;
    let images: Vec<_> = (1..=ROUNDS).map(|round| image(seed + round, &[2_000_000])).collect();
    let name = |round: usize| format!("library/round-{round}");
    for (round, image) in images.iter().enumerate() {
        hub.put(Repository::new(name(round)).tag(TAG, image));
    }
    let timeouts = "timeouts = { answer = '3s', headers = '1s', connect = '1s', stall = '1s', revalidation = '500ms' }";
    let larder = Larder::with(&hub, &format!("freshness.tags = '0s'\n {timeouts}")).await;
    pull(&larder, NAME, TAG).await;
    larder.until_idle().await;
    let descriptors = larder.descriptors();
    let mut first = 0;
    for (round, image) in images.iter().enumerate() {
        let fault = class.begin(&hub).await;
        ask(&larder, &name(round), image).await;
        class.end(&hub, fault).await;
        larder.until_asking().await;
        larder.until_idle().await;
        // Whatever was refused for a while is had again.
        for _ in 0..100 {
            if larder.download(format!("/v2/{}/blobs/{}", name(round), image.layers()[0].digest())).await.head.status == 200 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        larder.until_idle().await;
        assert_eq!(larder.get(blob(cached.layers()[0].digest())).await.status(), 200, "{class:?}");
        larder.until(|metrics| metrics.get("connections") <= 1.0).await;
        larder.until_descriptors(descriptors + KEPT).await;
        if round == 0 {
            first = larder.memory();
        }
    }
    let (last, peak) = (larder.memory(), larder.peak_memory());
    assert!(
        last <= first + SLACK,
        "{class:?}: {} KiB are resident after the first round, {} after the last",
        first >> 10,
        last >> 10
    );
    assert!(
        peak <= first + PEAK,
        "{class:?}: {} KiB were resident at the most, {} after the first round",
        peak >> 10,
        first >> 10
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_descriptors_return_after_each_fault() {
    let classes = CLASSES.into_iter().zip((0..).map(|number| 1300 + 10 * number));
    let rounds = classes.map(|(class, seed)| tokio::spawn(assert_footprint(class, seed)));
    for rounds in futures::future::join_all(rounds).await {
        rounds.unwrap();
    }
}
