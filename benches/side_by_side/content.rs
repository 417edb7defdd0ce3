//! What is pulled, and how often: the sizes of a full run and of a quick one.
//! Both sides derive the content from this alone, so it is the same in every run; nothing here moves a byte.

use std::time::Duration;

use larder_testkit::{Image, Repository, Synthetic};

/// The repository that holds all content.
pub(crate) const REPOSITORY: &str = "library/app";
/// An image whose one layer is the hot blob.
pub(crate) const HOT_BLOB: &str = "hot-blob";
/// An image of nine small layers, whose manifest is about 2 KiB long.
pub(crate) const HOT_MANIFEST: &str = "hot-manifest";
/// An image of layers of many sizes.
pub(crate) const COLD: &str = "cold";
/// An image whose one layer a herd asks for.
pub(crate) const HERD: &str = "herd";
/// An image whose one layer is large.
pub(crate) const LARGE: &str = "large";

/// The extent of a run.
pub(crate) struct Plan {
    /// How often each figure is taken of each server.
    pub(crate) rounds: usize,
    /// How often it is where a round takes a minute.
    pub(crate) slow_rounds: usize,
    /// In bytes.
    hot_blob: u64,
    /// How many times a lone client reads the hot blob in a round. Processor time is told in hundredths of a second: this must
    /// be enough for many of them.
    pub(crate) lone_reads: usize,
    /// How many times each of several clients reads it.
    pub(crate) shared_reads: usize,
    /// How long requests for a manifest go on in a round.
    pub(crate) load: Duration,
    /// The layers of the cold image, in bytes.
    cold_layers: [u64; 8],
    /// In bytes.
    herd_blob: u64,
    /// In bytes.
    large_blob: u64,
    /// Whether figures are held against their targets, which are for content of the full size.
    pub(crate) has_targets: bool,
}

impl Plan {
    /// What figures are published from.
    pub(crate) fn full() -> Self {
        Self {
            rounds: 5,
            slow_rounds: 3,
            hot_blob: 256 << 20,
            lone_reads: 8,
            shared_reads: 2,
            load: Duration::from_secs(3),
            cold_layers: [150, 100, 60, 40, 25, 15, 8, 3].map(|megabytes| megabytes * 1_000_000),
            herd_blob: 210_000_000,
            large_blob: 1 << 30,
            has_targets: true,
        }
    }

    /// Everything that [`Plan::full`] has, in less than a minute.
    pub(crate) fn quick() -> Self {
        Self {
            rounds: 2,
            slow_rounds: 1,
            hot_blob: 64 << 20,
            lone_reads: 4,
            shared_reads: 1,
            load: Duration::from_millis(500),
            cold_layers: [15, 10, 6, 4, 3, 2, 1, 1].map(|megabytes| megabytes * 1_000_000),
            herd_blob: 20_000_000,
            large_blob: 100_000_000,
            has_targets: false,
        }
    }

    /// The content of the upstream. Hashes all of it, at about 0.6 s per GB.
    pub(crate) fn repository(&self) -> Repository {
        let image = |seed: u64, sizes: &[u64]| {
            let layers = (seed..).zip(sizes);
            layers.fold(Image::builder(), |image, (seed, size)| image.layer(Synthetic::new(seed, *size))).build()
        };
        Repository::new(REPOSITORY)
            .tag(HOT_BLOB, &image(100, &[self.hot_blob]))
            .tag(HOT_MANIFEST, &image(200, &[1000; 9]))
            .tag(COLD, &image(300, &self.cold_layers))
            .tag(HERD, &image(400, &[self.herd_blob]))
            .tag(LARGE, &image(500, &[self.large_blob]))
    }
}

/// The path of a manifest, by tag or digest.
pub(crate) fn manifest_path(reference: &str) -> String {
    format!("/v2/{REPOSITORY}/manifests/{reference}")
}

/// The path of a blob.
pub(crate) fn blob_path(digest: &str) -> String {
    format!("/v2/{REPOSITORY}/blobs/{digest}")
}
