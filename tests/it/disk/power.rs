//! The disk loses its power while content is written: what was not synced is gone. Case 34 on a real file system; the simulation knows
//! more of what may be lost.

use std::time::{Duration, Instant};

use futures::future::join_all;
use larder_testkit::{Digest, Image, Listener};

use crate::support::{Disk, End, Larder, NAME, TAG, blob, hub_with, image, pull};

/// Pulls that are under way come to their end, or end short of it; what was said to be at rest still is, what is at rest is right, and the rest is fetched
/// again. Half of the times the mirror is killed as well, else it finds the disk again by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_loss_of_power_leaves_is_right() {
    let disk = Disk::ext4(200);
    let images: Vec<Image> = (0..6).map(|seed| image(2300 + seed, &[3_000_000, 400_000, 2_000_000, 1_000])).collect();
    let hub = hub_with(&images[0]).await;
    hub.configure(|config| config.network.cdn.connection_rate = Some(20 << 20));
    let mut larder = Larder::with(&hub, &disk.config()).await;
    for (round, image) in images.iter().enumerate() {
        hub.edit(NAME, |repository| repository.set_tag(TAG, image));
        let downloads = {
            let (larder, blobs) = (&larder, image.layers());
            async move { join_all(blobs.iter().map(|layer| larder.download(blob(layer.digest())))).await }
        };
        let loss = async {
            // A sample of moments, from before the first byte to after the last commit.
            tokio::time::sleep(Duration::from_millis(40 * round as u64)).await;
            disk.lose_power();
        };
        let (downloads, ()) = tokio::join!(downloads, loss);
        for (download, layer) in downloads.iter().zip(image.layers()) {
            // Whether what has gone out was right can be told no more where the disk gives nothing back: such a body ends short.
            let is_right = (download.end, &download.digest) == (End::Complete, layer.digest());
            let ends_short = download.end == End::Fin && download.bytes < layer.bytes().len() as u64;
            assert!(download.head.status == 200 && (is_right || ends_short), "{round}: {download:?}");
        }
        let is_killed = round % 2 == 0;
        if is_killed {
            larder.kill9();
        }
        disk.unmount();
        disk.mend().await;
        disk.mount();
        if is_killed {
            larder.start_again().await;
        }
        larder.until_readiness_says("ready\n").await;
        for file in larder.cache_files().into_iter().filter(|file| file.starts_with("blobs")) {
            let content = std::fs::read(larder.cache().join(&file)).unwrap();
            let hex = file.file_name().unwrap().to_str().unwrap();
            assert_eq!(Digest::sha256(&content).as_str(), format!("sha256:{hex}"), "{round}");
        }
        // For some seconds a mirror that lives on passes through what it could not store.
        let asked = Instant::now();
        loop {
            pull(&larder, NAME, &image.manifest().digest).await;
            if image.blobs().iter().all(|blob| larder.has(blob.digest())) {
                break;
            }
            assert!(asked.elapsed() < Duration::from_secs(60), "{round}: it is not kept again");
        }
        // What was at rest before the power went was synced.
        hub.reset_records();
        for earlier in &images[..round] {
            pull(&larder, NAME, &earlier.manifest().digest).await;
        }
        assert_eq!(hub.requests().on(Listener::Cdn).lines(), Vec::<String>::new(), "{round}");
    }
}
