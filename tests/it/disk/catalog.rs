//! The place on the disk that the catalog is in goes bad.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::{Larder, NAME, TAG, blob, hub_with, image, pull};

/// Nothing can be written to it for good: it is begun elsewhere, all that is known is read from the files, and clients notice
/// nothing.
#[tokio::test]
async fn a_catalog_that_the_disk_does_not_take_for_long_is_begun_anew() {
    let first = image(2410, &[300_000, 1000]);
    let hub = hub_with(&first).await;
    let larder = Larder::of(&hub).await;
    let digest = pull(&larder, NAME, TAG).await;
    let images: Vec<_> = (2411..).map(|seed| image(seed, &[3000])).take(400).collect();
    let injection = larder.inject("pwrite64", "error=EIO", Some(&larder.cache().join("catalog.sqlite-wal"))).await;
    let set_aside = "the catalog is set aside";
    let mut pulled = 0;
    for (number, image) in images.iter().enumerate() {
        hub.edit(NAME, |repository| repository.set_tag(format!("n{number}"), image));
        assert_eq!(pull(&larder, NAME, &image.manifest().digest).await, image.manifest().digest.as_str());
        // What was there when it began is there all the time.
        let hits = larder.metrics().await.requests("blob", "hit");
        assert_eq!(larder.download(blob(first.layers()[0].digest())).await.digest, *first.layers()[0].digest());
        larder.until(|metrics| metrics.requests("blob", "hit") == hits + 1.0).await;
        pulled += 1;
        if larder.log().contains(set_aside) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(larder.log().contains(set_aside), "not after {pulled} pulls");
    assert!(pulled > 1, "one pull is too little to give a catalog up");
    // The new one is where the disk fails as well, until it does not: then it is made, though nobody wants anything noted.
    assert_eq!(pull(&larder, NAME, TAG).await, digest);
    larder.until_readiness_says("it cannot be noted").await;
    assert!(injection.end() >= 16);
    larder.until_readiness_says("ready\n").await;
    let names = fs::read_dir(larder.cache()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_catalog =
        |name: &String| name.starts_with("catalog.sqlite.corrupt-") && !name.ends_with("-wal") && !name.ends_with("-shm");
    assert_eq!(names.filter(is_catalog).count(), 1);

    // Made anew from what is there, as soon as all of that has been looked at: without an upstream it is as before.
    let listed = format!("docker.io/{NAME}:{TAG}");
    let asked = Instant::now();
    loop {
        let run = larder.tool(&["ls", &listed]);
        assert!(run.status.success(), "{run:?}");
        if run.said.contains(&listed) && !run.said.contains("missing") {
            break;
        }
        assert!(asked.elapsed() < Duration::from_secs(60), "{run:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let on_disk: u64 = larder.cache_files().iter().map(|file| larder.cache().join(file).metadata().unwrap().len()).sum();
    larder.until(|metrics| metrics.get("cache_used_bytes") == on_disk as f64).await;
    hub.stop_listening().await;
    assert_eq!(pull(&larder, NAME, &digest).await, digest);
}
