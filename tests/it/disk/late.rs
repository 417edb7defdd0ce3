//! A start before the cache's file system is mounted.

use std::fs;

use crate::support::{Disk, Larder, NAME, hub_with, image, pull};

/// A share is one of the file system that the cache is on, not of the one below its mount point.
#[tokio::test]
async fn a_share_of_a_file_system_that_is_mounted_late_is_one_of_it() {
    let disk = Disk::ext4(64);
    let images: Vec<_> = (0..4).map(|number| image(2420 + number, &[20_000_000, 1000])).collect();
    let hub = hub_with(&images[0]).await;
    disk.unmount();
    // In the way of the cache's folder, as long as nothing is mounted over it.
    let dir = disk.mount_point().join("cache");
    fs::write(&dir, "").unwrap();
    let larder = Larder::with(&hub, &format!("cache.dir = {dir:?}\ncache.max_size = '80%'\ncache.min_free = '1%'")).await;
    larder.until_readiness_says("ready, but nothing can be stored").await;
    assert_eq!(larder.metrics().await.get("cache_capacity_bytes"), 0.0, "nobody knows");

    disk.mount();
    larder.until_readiness_says("ready\n").await;
    let capacity = larder.metrics().await.get("cache_capacity_bytes");
    let most = 0.8 * f64::from(64 << 20);
    assert!((0.5 * most..=most).contains(&capacity), "{capacity}");
    for (number, image) in images.iter().enumerate() {
        hub.edit(NAME, |repository| repository.set_tag(format!("n{number}"), image));
        pull(&larder, NAME, format!("n{number}")).await;
        assert!(larder.has(image.layers()[0].digest()), "{number}");
        let metrics = larder.metrics().await;
        assert!(metrics.get("cache_used_bytes") <= metrics.get("cache_capacity_bytes"), "{number}");
        assert!(metrics.get("cache_capacity_bytes") <= most, "{number}");
    }
    assert!(larder.metrics().await.get("evictions_total") > 0.0);
    assert_eq!(fs::read_dir(&dir).unwrap().filter(|entry| entry.as_ref().unwrap().file_name() == *"CACHEDIR.TAG").count(), 1);
}
