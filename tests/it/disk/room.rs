//! There is no room: no bytes, no inodes, no descriptors; or little, and many readers.

use futures::future::join_all;
use larder_testkit::{Digest, Hub, Listener, Repository};

use crate::support::{Connection, Disk, End, Larder, NAME, TAG, blob, fetched, hub_with, image, pull};

const NO_ROOM: &str = "ready, but nothing can be stored: no space";

/// Case 28 on a real file system: what has no room passes through, and the next that has some is kept.
#[tokio::test]
async fn a_disk_that_is_full_passes_through_until_there_is_room() {
    let disk = Disk::tmpfs("size=24m");
    let first = image(2000, &[6_000_000, 1000]);
    let hub = hub_with(&first).await;
    let larder = Larder::with(&hub, &disk.config()).await;
    // Content makes room for content; for this there would be none if all went.
    disk.fill_up();
    for _ in 0..2 {
        assert_eq!(pull(&larder, NAME, TAG).await, first.manifest().digest.as_str());
    }
    assert!(larder.readiness().await.1.starts_with(NO_ROOM), "{:?}", larder.readiness().await);
    let metrics = larder.metrics().await;
    assert_eq!((metrics.get("cache_degraded"), metrics.get("cache_reserved_bytes")), (1.0, 0.0));
    assert!(!larder.has(first.layers()[0].digest()));

    disk.make_room();
    let second = image(2001, &[6_000_000, 1000]);
    hub.edit(NAME, |repository| repository.set_tag("2", &second));
    assert_eq!(pull(&larder, NAME, "2").await, second.manifest().digest.as_str());
    assert!(larder.has(second.layers()[0].digest()));
    assert_eq!(larder.metrics().await.get("cache_degraded"), 0.0);
    assert_eq!(larder.readiness().await.1, "ready\n");
}

/// A share of the file system, by default: it is what can be had at the moment, not what could be had at the start.
#[tokio::test]
async fn a_cache_that_was_started_on_a_full_disk_keeps_what_it_can_as_soon_as_there_is_room() {
    let disk = Disk::tmpfs("size=64m");
    let first = image(2005, &[3_000_000, 1000]);
    let hub = hub_with(&first).await;
    let mut larder = Larder::with(&hub, &format!("{}\ncache.max_size = '80%'", disk.config())).await;
    larder.stop(rustix::process::Signal::TERM);
    disk.fill_up();
    disk.make_room_for(2_000_000);
    larder.start_again().await;
    assert_eq!(pull(&larder, NAME, TAG).await, first.manifest().digest.as_str());
    assert!(!larder.has(first.layers()[0].digest()));
    assert!(larder.readiness().await.1.starts_with(NO_ROOM), "{:?}", larder.readiness().await);
    assert_eq!(larder.metrics().await.get("cache_degraded"), 1.0);

    disk.make_room();
    let second = image(2006, &[20_000_000, 20_000_000, 1000]);
    hub.edit(NAME, |repository| repository.set_tag("2", &second));
    pull(&larder, NAME, "2").await;
    assert!(second.layers().iter().all(|layer| larder.has(layer.digest())));
    assert_eq!(larder.readiness().await.1, "ready\n");
    // Four fifths of it are the most.
    let metrics = larder.metrics().await;
    let capacity = metrics.get("cache_capacity_bytes");
    assert!((40_000_000.0..=0.8 * f64::from(64 << 20)).contains(&capacity), "{capacity}");
    let third = image(2007, &[20_000_000]);
    hub.edit(NAME, |repository| repository.set_tag("3", &third));
    pull(&larder, NAME, "3").await;
    let metrics = larder.metrics().await;
    assert!(metrics.get("evictions_total") > 0.0 && metrics.get("cache_used_bytes") <= capacity);
}

/// Case 30.
#[tokio::test]
async fn a_disk_without_inodes_passes_through_until_there_are_some() {
    let disk = Disk::tmpfs("size=64m,nr_inodes=1000");
    let first = image(2010, &[200_000, 1000]);
    let hub = hub_with(&first).await;
    let larder = Larder::with(&hub, &disk.config()).await;
    let others = disk.mount_point().join("others");
    std::fs::create_dir(&others).unwrap();
    let made = (0..1000).take_while(|number| std::fs::File::create(others.join(number.to_string())).is_ok()).count();
    assert!((500..1000).contains(&made), "{made}");
    assert_eq!(pull(&larder, NAME, TAG).await, first.manifest().digest.as_str());
    assert!(larder.readiness().await.1.starts_with(NO_ROOM));
    assert_eq!(larder.metrics().await.get("cache_degraded"), 1.0);

    std::fs::remove_dir_all(&others).unwrap();
    let second = image(2011, &[200_000, 1000]);
    hub.edit(NAME, |repository| repository.set_tag("2", &second));
    pull(&larder, NAME, "2").await;
    assert!(larder.has(second.layers()[0].digest()));
    assert_eq!(larder.readiness().await.1, "ready\n");
}

/// Case 30: where few files can be open, clients wait for each other rather than get errors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_few_descriptors_clients_wait_and_are_served() {
    const LIMIT: u64 = 112;
    let image = image(2020, &[100_000; 30]);
    let hub = hub_with(&image).await;
    let larder = Larder::builder().upstream("docker.io", &hub).open_files(LIMIT).start().await;
    // Cold, then hot.
    for _ in 0..2 {
        let layers = image.layers().iter().chain(image.layers());
        let downloads = join_all(layers.map(|layer| larder.download(blob(layer.digest())))).await;
        for (download, layer) in downloads.iter().zip(image.layers().iter().chain(image.layers())) {
            assert_eq!((download.head.status, download.end, &download.digest), (200, End::Complete, layer.digest()));
        }
        larder.until_idle().await;
    }
    assert_eq!(larder.metrics().await.get("disk_errors_total"), 0.0);
    assert!(!larder.log().contains("Too many open files"));
    assert!(image.layers().iter().all(|layer| fetched(&hub, layer.digest()).count() == 1));
}

/// Issue 4, "Shown by": 64 readers of more than there is room for. Each gets right bytes, the upstream is not asked more often than
/// content was not there, and the budget holds all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_readers_of_more_than_there_is_room_for() {
    const READERS: usize = 64;
    const BUDGET: f64 = 12_000_000.0;
    let image = image(2030, &[1_000_000; 24]);
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "cache.max_size = '12MB'").await;
    let layers = image.layers();
    let reader = async |reader: usize| {
        for round in 0..6 {
            let digest = layers[(reader * 5 + round * round * 7) % layers.len()].digest();
            let download = larder.download(blob(digest)).await;
            assert_eq!((download.head.status, download.end, &download.digest), (200, End::Complete, digest));
            let metrics = larder.metrics().await;
            let used = metrics.get("cache_used_bytes") + metrics.get("cache_reserved_bytes");
            assert!(used <= BUDGET, "{used} bytes");
        }
    };
    join_all((0..READERS).map(reader)).await;
    larder.until_idle().await;
    let metrics = larder.metrics().await;
    assert!(metrics.get("evictions_total") > 0.0);
    let fills = metrics.fills("stored") + metrics.fills("not-stored");
    let passed = metrics.requests("blob", "passed-through");
    let asked = hub.requests().on(Listener::Cdn).method("GET").count() as f64;
    assert!(asked <= fills + passed, "{asked} GETs for {fills} fills and {passed} blobs that passed through");
    let on_disk: u64 = larder.cache_files().iter().map(|file| larder.cache().join(file).metadata().unwrap().len()).sum();
    assert_eq!((on_disk as f64, metrics.get("cache_reserved_bytes")), (metrics.get("cache_used_bytes"), 0.0));
    for file in larder.cache_files() {
        let content = std::fs::read(larder.cache().join(&file)).unwrap();
        let hex = file.file_name().unwrap().to_str().unwrap();
        assert_eq!(Digest::sha256(&content).as_str(), format!("sha256:{hex}"));
    }
}

/// Issue 4, "Shown by": a layer that two repositories have is one content. While one of them is pulled, it is not evicted for the
/// other's being out of use; later it goes, for both, and comes back for whoever asks.
#[tokio::test]
async fn a_shared_layer_is_evicted_after_it_was_pulled_and_not_before() {
    // Larger than what a connection holds back: who takes nothing keeps it open.
    let shared = image(2040, &[24 << 20]);
    let layer = shared.layers()[0].digest();
    let hub = hub_with(&shared).await;
    hub.put(Repository::new("library/other").tag(TAG, &shared));
    let larder = Larder::with(&hub, "cache.max_size = '40MB'").await;
    pull(&larder, NAME, TAG).await;
    pull(&larder, "library/other", TAG).await;
    assert_eq!(fetched(&hub, layer).count(), 1);

    let mut client = larder.connect().await;
    let target = format!("/v2/library/other/blobs/{layer}");
    client.request("GET", &target, &[]).await;
    client.until_received(100_000).await;
    push_out(&larder, &hub, 2041).await;
    assert!(larder.has(layer), "it was open");
    assert_eq!(complete(&mut client).await, *layer);
    drop(client);

    push_out(&larder, &hub, 2061).await;
    assert!(!larder.has(layer), "its turn came");
    for name in [NAME, "library/other"] {
        let download = larder.download(format!("/v2/{name}/blobs/{layer}")).await;
        assert_eq!((download.end, &download.digest), (End::Complete, layer));
        larder.until_idle().await;
    }
    assert_eq!(fetched(&hub, layer).count(), 2);
}

/// Pulls more than the cache has room for.
async fn push_out(larder: &Larder, hub: &Hub, seed: u64) {
    for seed in seed..seed + 10 {
        let other = image(seed, &[7_000_000]);
        hub.edit(NAME, |repository| repository.set_tag(format!("{seed}"), &other));
        pull(larder, NAME, seed).await;
    }
}

async fn complete(client: &mut Connection) -> Digest {
    let download = client.download().await;
    assert_eq!((download.head.status, download.end), (200, End::Complete));
    download.digest
}
