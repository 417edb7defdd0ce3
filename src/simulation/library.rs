//! All content that there is in the simulated world: made once for all schedules, since hashing it takes longer than most of them.

use std::collections::HashMap;
use std::sync::LazyLock;

use bytes::Bytes;

use super::dice::Dice;
use crate::oci::{Algorithm, Digest, MediaType};

/// The sizes of layers in bytes: around the withheld tail and the buffers, and the ends of what there can be.
const LAYERS: [u64; 14] = [0, 1, 2, 1000, 4096, 65_535, 65_536, 65_537, 70_000, 100_000, 131_072, 131_073, 200_000, 300_000];

/// Layers that are worth several connections.
const LARGE: [u64; 3] = [6 << 20, (8 << 20) + 12_345, 12 << 20];

/// Content is made of tiles of so many bytes, each of which has its number at its end: no two are the same.
const TILE: usize = 2048;

/// How many images have no large layer.
pub(super) const SMALL_IMAGES: usize = 12;

/// How many images there are, and how many have a large layer: the last ones.
pub(super) const IMAGES: usize = SMALL_IMAGES + LARGE.len();

/// A manifest, and what a client gets with it.
pub(super) struct Image {
    pub(super) digest: Digest,
    pub(super) manifest: Bytes,
    pub(super) media_type: MediaType,
    /// Of an index: the one manifest in it.
    pub(super) child: Option<usize>,
    /// Configuration and layers; of an index, none.
    pub(super) blobs: Vec<Digest>,
}

/// The content of the world.
pub(super) struct Library {
    pub(super) images: Vec<Image>,
    blobs: HashMap<Digest, Bytes>,
}

pub(super) static LIBRARY: LazyLock<Library> = LazyLock::new(Library::new);

impl Library {
    fn new() -> Self {
        let mut library = Self { images: Vec::new(), blobs: HashMap::new() };
        let mut dice = Dice::new(0);
        let layers: Vec<Digest> = LAYERS.iter().map(|size| library.add(&mut dice, *size, Algorithm::Sha256)).collect();
        for index in 0..SMALL_IMAGES - 2 {
            let config = library.add(&mut dice, 300 + index as u64, Algorithm::Sha256);
            // Neighbours share a layer, as images of one base do.
            let layers = vec![config, layers[index], layers[index + 1], layers[(index + 4) % layers.len()]];
            library.add_image(layers);
        }
        let sha512 = library.add(&mut dice, 90_000, Algorithm::Sha512);
        library.add_image(vec![sha512]);
        library.add_index(3);
        for size in LARGE {
            let config = library.add(&mut dice, size / 10_000, Algorithm::Sha256);
            let layer = library.add(&mut dice, size, Algorithm::Sha256);
            library.add_image(vec![config, layer]);
        }
        library
    }

    /// A blob's bytes.
    pub(super) fn blob(&self, digest: &Digest) -> &Bytes {
        &self.blobs[digest]
    }

    /// The bytes of a manifest or a blob.
    pub(super) fn bytes(&self, digest: &Digest) -> Option<&Bytes> {
        self.blobs.get(digest).or_else(|| self.image(digest).map(|image| &image.manifest))
    }

    pub(super) fn image(&self, digest: &Digest) -> Option<&Image> {
        self.images.iter().find(|image| image.digest == *digest)
    }

    /// The images that a client gets who pulls image `index`: itself, and the one in it if it is an index.
    pub(super) fn pulled_with(&self, index: usize) -> impl Iterator<Item = &Image> {
        [Some(index), self.images[index].child].into_iter().flatten().map(|index| &self.images[index])
    }

    /// How many bytes a client gets who pulls the image.
    pub(super) fn bytes_pulled_with(&self, digest: &Digest) -> u64 {
        let index = self.images.iter().position(|image| image.digest == *digest);
        let images = index.into_iter().flat_map(|index| self.pulled_with(index));
        images.flat_map(|image| &image.blobs).map(|digest| self.blob(digest).len() as u64).sum()
    }

    fn add(&mut self, dice: &mut Dice, size: u64, algorithm: Algorithm) -> Digest {
        let mut tile: Vec<u8> = (0..TILE / 8).flat_map(|_| dice.roll().to_le_bytes()).collect();
        let mut bytes = Vec::new();
        for number in 0..size.div_ceil(TILE as u64) {
            tile[TILE - 8..].copy_from_slice(&number.to_be_bytes());
            bytes.extend_from_slice(&tile);
        }
        bytes.truncate(usize::try_from(size).expect("some megabytes"));
        let bytes = Bytes::from(bytes);
        let digest = Digest::of(algorithm, &bytes);
        self.blobs.insert(digest, bytes);
        digest
    }

    fn add_image(&mut self, blobs: Vec<Digest>) {
        let descriptors: Vec<_> = blobs.iter().map(|digest| descriptor(digest, self.blobs[digest].len())).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
            "config": descriptors[0], "layers": descriptors[1..],
        });
        self.add_manifest(&manifest, MediaType::OCI_MANIFEST, None, blobs);
    }

    fn add_index(&mut self, child: usize) {
        let Image { digest, manifest, .. } = &self.images[child];
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [descriptor(digest, manifest.len())],
        });
        self.add_manifest(&index, MediaType::OCI_INDEX, Some(child), Vec::new());
    }

    fn add_manifest(&mut self, manifest: &serde_json::Value, media_type: &str, child: Option<usize>, blobs: Vec<Digest>) {
        let manifest = Bytes::from(manifest.to_string());
        let digest = Digest::sha256(&manifest);
        self.images.push(Image { digest, manifest, media_type: media_type.parse().unwrap(), child, blobs });
    }
}

fn descriptor(digest: &Digest, size: usize) -> serde_json::Value {
    serde_json::json!({"mediaType": "application/octet-stream", "digest": digest.to_string(), "size": size})
}

/// How the journal names content.
pub(super) fn short(digest: &Digest) -> String {
    digest.hex()[..8].to_owned()
}
