//! What is pulled, and how often: the sizes of a full run and of a quick one.
//! Both sides derive the content from this alone, so it is the same in every run; nothing here moves a byte.

use std::time::Duration;

use larder_testkit::{Image, Repository, Synthetic};

/// The repository that holds all content.
pub(crate) const REPOSITORY: &str = "library/app";
/// Images whose one layer is a hot blob.
pub(crate) const HOT_SMALL: &str = "hot-small";
pub(crate) const HOT_MIDDLE: &str = "hot-middle";
/// An image of nine small layers, whose manifest is about 2 KiB long.
pub(crate) const HOT_MANIFEST: &str = "hot-manifest";
/// An image of layers of many sizes.
pub(crate) const COLD: &str = "cold";
/// An image whose one layer a herd asks for.
pub(crate) const HERD: &str = "herd";
/// An image whose one layer is large.
pub(crate) const LARGE: &str = "large";
/// An image whose layers are pulled all at once.
pub(crate) const CROWD: &str = "crowd";

/// The extent of a run.
pub(crate) struct Plan {
    /// How often each figure is taken of each server.
    pub(crate) rounds: usize,
    /// How often it is where a round takes a minute.
    pub(crate) slow_rounds: usize,
    /// In bytes.
    hot_small: u64,
    /// In bytes.
    hot_middle: u64,
    /// How long requests for what is hot go on in a round. Processor time is told in hundredths of a second: this must be enough for
    /// many of them.
    pub(crate) load: Duration,
    /// The layers of the cold image, in bytes.
    cold_layers: [u64; 8],
    /// In bytes.
    herd_blob: u64,
    /// In bytes.
    large_blob: u64,
    /// In bytes.
    crowd_layers: [u64; 50],
    /// Whether figures are held against their targets, which are for content of the full size.
    pub(crate) has_targets: bool,
}

impl Plan {
    /// What figures are published from.
    pub(crate) fn full() -> Self {
        Self {
            rounds: 7,
            slow_rounds: 3,
            hot_small: 1 << 20,
            hot_middle: 64 << 20,
            load: Duration::from_millis(1500),
            cold_layers: [150, 100, 60, 40, 25, 15, 8, 3].map(|megabytes| megabytes * 1_000_000),
            herd_blob: 210_000_000,
            large_blob: 1 << 30,
            crowd_layers: [50_000_000; 50],
            has_targets: true,
        }
    }

    /// Everything that [`Plan::full`] has, in less than a minute.
    pub(crate) fn quick() -> Self {
        Self {
            rounds: 2,
            slow_rounds: 1,
            hot_small: 1 << 20,
            hot_middle: 8 << 20,
            load: Duration::from_millis(300),
            cold_layers: [15, 10, 6, 4, 3, 2, 1, 1].map(|megabytes| megabytes * 1_000_000),
            herd_blob: 20_000_000,
            large_blob: 100_000_000,
            crowd_layers: [1_000_000; 50],
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
            .tag(HOT_SMALL, &image(100, &[self.hot_small]))
            .tag(HOT_MIDDLE, &image(110, &[self.hot_middle]))
            .tag(HOT_MANIFEST, &image(200, &[1000; 9]))
            .tag(COLD, &image(300, &self.cold_layers))
            .tag(HERD, &image(400, &[self.herd_blob]))
            .tag(LARGE, &image(500, &[self.large_blob]))
            .tag(CROWD, &image(600, &self.crowd_layers))
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
