//! The inner loops, each by itself: what is done for each byte (hashing), for each request (digests, ranges, routing, look-ups in the
//! store) and for each eviction (the decision). They say where time goes; what it means beside others, `side_by_side` says.

#[path = "../../src/store/eviction/policy.rs"]
#[expect(dead_code, reason = "only the decision is timed")]
mod policy;
#[path = "../../src/server/range.rs"]
#[allow(dead_code, reason = "its own tests run where it belongs")]
mod range;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::future::BoxFuture;
use larder::mirror::{Address, Upstream, Upstreams};
use larder::oci::{Algorithm, Digest, Hasher};
use larder::store::{LastUse, OsFileSystem, Store, StoreConfig};
use larder::upstream::{Answer, Origin, Question, UpstreamError};
use larder::util::SystemClock;

use policy::{Class, Occupancy, Queue, Stage};
use range::RangeSet;

/// How many contents the store has. `scale` compares a thousand with a million.
const CONTENTS: u64 = 1000;

criterion_group!(loops, hash, digests, ranges, routing, look_ups, eviction);
criterion_main!(loops);

fn hash(criterion: &mut Criterion) {
    let bytes = vec![0xa5; 512 << 10];
    let mut group = criterion.benchmark_group("hash 512 KiB");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for algorithm in Algorithm::ALL {
        group.bench_function(algorithm.name(), |bencher| {
            bencher.iter(|| {
                let mut hasher = Hasher::new(algorithm);
                hasher.update(black_box(&bytes));
                hasher.finish()
            });
        });
    }
    group.finish();
}

fn digests(criterion: &mut Criterion) {
    let digest = Digest::sha256(b"content");
    let text = digest.to_string();
    criterion.bench_function("digest: read", |bencher| bencher.iter(|| black_box(text.as_str()).parse::<Digest>()));
    criterion.bench_function("digest: write", |bencher| bencher.iter(|| black_box(&digest).to_string()));
}

fn ranges(criterion: &mut Criterion) {
    for (name, header) in
        [("one range", "bytes=1048576-2097151"), ("ten ranges", "bytes=0-9,20-29,40-49,60-69,80-89,100-,-5,7-8,9-9,1-3")]
    {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| RangeSet::parse(black_box(header)).map(|ranges| ranges.select(black_box(1 << 30))));
        });
    }
}

fn routing(criterion: &mut Criterion) {
    let hub = upstream("docker.io");
    let others = ["ghcr.io", "quay.io", "gcr.io", "registry.k8s.io", "public.ecr.aws", "mcr.microsoft.com"].map(upstream);
    let upstreams = Upstreams::new(others.into_iter().chain([Arc::clone(&hub)]).collect(), hub);
    let host = Some("mirror.example:5050");
    for (name, address) in [
        ("route: bare name", Address { name: "library/alpine", host, ..Address::default() }),
        ("route: ns", Address { name: "library/alpine", namespace: Some("docker.io"), host, ..Address::default() }),
        ("route: in the path", Address { name: "ghcr.io/org/app", host, ..Address::default() }),
    ] {
        criterion.bench_function(name, |bencher| bencher.iter(|| upstreams.route(black_box(&address))));
    }
}

fn look_ups(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder can be made where cargo has one for this");
    let config = StoreConfig { dir: folder.path().join("cache"), max_bytes: 1 << 40 };
    let store = Store::open(config, Arc::new(OsFileSystem), Arc::new(SystemClock)).expect("an empty folder can be opened");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime can be had");
    let contents: Vec<_> = (0..CONTENTS).map(|number| number.to_be_bytes()).collect();
    let digests: Vec<_> = contents.iter().map(|content| Digest::sha256(content)).collect();
    runtime.block_on(async {
        for (content, digest) in contents.iter().zip(&digests) {
            let mut ingest = store.begin(*digest, Some(content.len() as u64)).await.expect("there is room");
            ingest.writer().write_all_at(content, 0).expect("the disk is well");
            ingest.reserve(content.len() as u64).await.expect("there is room");
            ingest.commit(content.len() as u64).await.expect("the disk is well");
        }
    });
    let mut next = digests.iter().cycle();
    criterion.bench_function("store: look-up", |bencher| {
        bencher.iter(|| runtime.block_on(store.get(next.next().expect("it never ends"))).expect("it is there"));
    });
    criterion.bench_function("store: note of a use", |bencher| bencher.iter(|| store.note_use(&digests[0], &LastUse::default())));
}

fn eviction(criterion: &mut Criterion) {
    let mut occupancy = Occupancy::default();
    for (queue, bytes) in Queue::ALL.into_iter().zip([3 << 20, 40 << 20, 3 << 30, 90 << 30]) {
        *occupancy.bytes(queue) = bytes;
    }
    let main = Queue::new(Class::Large, Stage::Main);
    criterion.bench_function("eviction: decision", |bencher| {
        bencher.iter(|| (black_box(&occupancy).next(100 << 30), main.verdict(black_box(1), 0)));
    });
}

fn upstream(name: &str) -> Arc<Upstream> {
    let name = name.parse().expect("it is a host's");
    let origin = Arc::new(Nobody);
    Arc::new(Upstream { name, aliases: Vec::new(), hosts: Vec::new(), is_anonymous: true, official_namespace: None, origin })
}

/// Routing asks nobody.
struct Nobody;

impl Origin for Nobody {
    fn ask(&self, _: Question) -> BoxFuture<'static, Result<Answer, UpstreamError>> {
        Box::pin(async { Err(UpstreamError::Offline) })
    }
}
