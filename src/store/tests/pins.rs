//! Pins: what they keep from eviction, and for how long.

use proptest::prelude::*;

use super::super::*;
use super::support::*;
use crate::oci::{Manifest, MediaType, Reference, Tag};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 2 * MIB;

/// An image whose manifest, config and layers are files of holes: nothing here looks at the bytes.
pub(super) struct Picture {
    pub(super) digest: Digest,
    pub(super) content: Manifest,
}

pub(super) fn digest(key: u32) -> Digest {
    Digest::sha256(&key.to_be_bytes())
}

fn descriptor(key: u32, size: u64) -> crate::oci::Descriptor {
    crate::oci::Descriptor { digest: digest(key), size, is_attachment: false, is_foreign: false, platform: None }
}

impl Picture {
    /// Its manifest is of `key`, its layers of `layers`.
    pub(super) fn new(key: u32, layers: &[u32]) -> Self {
        let blobs = layers.iter().map(|layer| descriptor(*layer, SIZE)).collect();
        Self { digest: digest(key), content: Manifest { blobs, ..Manifest::default() } }
    }

    pub(super) fn index(key: u32, manifests: &[u32]) -> Self {
        let manifests = manifests.iter().map(|manifest| descriptor(*manifest, 1000)).collect();
        Self { digest: digest(key), content: Manifest { manifests, ..Manifest::default() } }
    }

    fn record(&self) -> TagRecord {
        TagRecord { digest: self.digest, media_type: media_type(MediaType::OCI_MANIFEST), size: 1000, checked_at: 1 }
    }

    /// Stores the manifest as a mirror that pulls it by its digest does.
    pub(super) async fn pull(&self, store: &Store, name: &str) {
        add(store, self.digest, 1000).await.unwrap();
        let kind = media_type(MediaType::OCI_MANIFEST);
        store.catalog().add_manifest(&upstream("hub"), &repository(name), &self.digest, &kind, 1000, &self.content).await;
    }

    /// The same by a tag.
    pub(super) async fn pull_as(&self, store: &Store, name: &str, tag: &str) {
        self.pull(store, name).await;
        store.catalog().set_tag(&upstream("hub"), &repository(name), &tag.parse::<Tag>().unwrap(), self.record()).await;
    }
}

/// Stores a file of `size` bytes, all holes, unless it is there.
pub(super) async fn add(store: &Store, digest: Digest, size: u64) -> Result<(), StoreError> {
    if store.get(&digest).await.is_some() {
        return Ok(());
    }
    let mut ingest = store.begin(digest, None).await?;
    ingest.reserve(size).await?;
    ingest.file().truncate(size).unwrap();
    ingest.commit(size).await.map(drop)
}

pub(super) async fn add_layers(store: &Store, keys: impl IntoIterator<Item = u32>) {
    for key in keys {
        add(store, digest(key), SIZE).await.unwrap();
    }
}

pub(super) fn is_there(home: &Home, keys: impl IntoIterator<Item = u32>) -> Vec<bool> {
    keys.into_iter().map(|key| home.blob(&digest(key)).exists()).collect()
}

async fn open(home: &Home, max_bytes: u64) -> Store {
    home.open_on(max_bytes, Arc::new(OsFileSystem)).await
}

fn pin(text: &str) -> Pin {
    Pin::try_from(text.parse::<Name>().unwrap()).unwrap()
}

/// Much more passes through than there is room for.
async fn press(store: &Store, keys: std::ops::Range<u32>) {
    for key in keys {
        // Where nothing may go there is no room, and content passes through.
        let _ = add(store, digest(key), SIZE).await;
    }
}

#[tokio::test]
async fn what_is_pinned_stays_and_what_is_not_any_more_goes() {
    let home = Home::new();
    let store = open(&home, 20 * MIB).await;
    Picture::index(1, &[2, 3]).pull_as(&store, "app", "v1").await;
    Picture::new(2, &[10, 11]).pull(&store, "app").await;
    add_layers(&store, 10..12).await;
    assert_eq!(store.pinned_blocking(), PinnedBytes::default());
    let pinned = store.pin(vec![pin("hub/app:v1")]).await.unwrap();
    let keeps = PinnedBytes { bytes: 2 * SIZE + 2000, contents: 4 };
    assert_eq!(pinned, [Pinned { pin: pin("hub/app:v1"), keeps }]);
    press(&store, 1000..1050).await;
    assert_eq!(is_there(&home, [1, 2, 10, 11]), [true; 4]);
    assert_eq!((store.pinned_blocking(), store.stats().catalog_errors), (keeps, 0));
    // Of the other platform, which comes later, all is pinned as well.
    Picture::new(3, &[12]).pull(&store, "app").await;
    add_layers(&store, [12]).await;
    press(&store, 1050..1100).await;
    assert_eq!(is_there(&home, [1, 2, 10, 11, 3, 12]), [true; 6]);
    assert_eq!(store.unpin(vec![pin("hub/app:v1")]).await.unwrap()[0].keeps.contents, 6);
    assert_eq!(store.pinned_blocking(), PinnedBytes::default());
    store.clear(u64::MAX, false).await.unwrap();
    assert_eq!(home.count(), 0);
    assert!(matches!(store.unpin(vec![pin("hub/app:v1")]).await, Err(PinError::NotPinned(_))));
}

#[tokio::test]
async fn a_pin_of_something_that_is_not_there_holds_when_it_comes() {
    let home = Home::new();
    let store = open(&home, 20 * MIB).await;
    let pins = vec![pin("hub/app:v1"), pin(&format!("hub/other@{}", digest(2))), pin("hub/whole")];
    assert!(store.pin(pins.clone()).await.unwrap().iter().all(|pinned| pinned.keeps == PinnedBytes::default()));
    Picture::new(1, &[10]).pull_as(&store, "app", "v1").await;
    Picture::new(2, &[11]).pull(&store, "other").await;
    // A repository whose name continues the pinned one, and no other that begins like it.
    Picture::new(3, &[12]).pull_as(&store, "whole/part", "x").await;
    Picture::new(4, &[13]).pull_as(&store, "wholesale", "x").await;
    Picture::new(5, &[14]).pull_as(&store, "app", "v2").await;
    add_layers(&store, 10..15).await;
    press(&store, 1000..1050).await;
    assert_eq!(is_there(&home, 10..15), [true, true, true, false, false]);
    let all = store.pins().await.unwrap();
    let mut names: Vec<_> = pins.iter().map(ToString::to_string).collect();
    names.sort();
    assert_eq!(all.iter().map(|pinned| pinned.pin.to_string()).collect::<Vec<_>>(), names);
    assert!(all.iter().all(|pinned| pinned.keeps.contents == 2), "{all:?}");
}

#[tokio::test]
async fn when_a_tag_moves_its_pin_moves_with_it() {
    let home = Home::new();
    let store = open(&home, 20 * MIB).await;
    store.pin(vec![pin("hub/app:v1")]).await.unwrap();
    Picture::new(1, &[10, 11]).pull_as(&store, "app", "v1").await;
    add_layers(&store, 10..12).await;
    Picture::new(2, &[11, 12]).pull_as(&store, "app", "v1").await;
    add_layers(&store, [12]).await;
    press(&store, 1000..1050).await;
    store.clear(u64::MAX, false).await.unwrap();
    assert_eq!(is_there(&home, [2, 10, 11, 12]), [true, false, true, true]);
    store.catalog().remove_tag(&upstream("hub"), &repository("app"), &tag("v1")).await;
    assert_eq!(store.pinned_blocking(), PinnedBytes::default(), "what the upstream has no more is not kept for its name");
}

#[tokio::test]
async fn pins_outlive_the_catalog() {
    let home = Home::new();
    let layers: Vec<Vec<u8>> = (1..4).map(|seed| bytes(seed, SIZE as usize)).collect();
    let descriptor =
        |bytes: &[u8]| format!(r#"{{"mediaType":"x/y","digest":"{}","size":{}}}"#, Digest::sha256(bytes), bytes.len());
    let manifest = format!(r#"{{"config":{},"layers":[{}]}}"#, descriptor(&layers[0]), descriptor(&layers[1])).into_bytes();
    let (hub, app, kind) = (upstream("hub"), repository("app"), media_type(MediaType::OCI_MANIFEST));
    {
        let store = open(&home, 20 * MIB).await;
        for content in layers.iter().chain([&manifest]) {
            drop(put(&store, content).await.unwrap());
        }
        let (digest, content) = (Digest::sha256(&manifest), Manifest::inspect(&manifest, &kind).unwrap());
        store.catalog().add_manifest(&hub, &app, &digest, &kind, manifest.len() as u64, &content).await;
        let record = TagRecord { digest, media_type: kind, size: manifest.len() as u64, checked_at: 1 };
        store.catalog().set_tag(&hub, &app, &tag("v1"), record).await;
        store.pin(vec![pin("hub/app:v1")]).await.unwrap();
    }
    for loses_catalog in [true, false] {
        closed(&home).await;
        if loses_catalog {
            std::fs::remove_file(home.path("catalog.sqlite")).unwrap();
        }
        // Content comes from the first moment on, before the catalog knows what is there.
        let store = home.open_walking(20 * MIB, Arc::new(OsFileSystem));
        press(&store, 1000..1030).await;
        settled(&store).await;
        press(&store, 2000..2030).await;
        store.clear(u64::MAX, false).await.unwrap();
        let kept = [&layers[0], &layers[1], &manifest].map(|content| home.blob(&Digest::sha256(content)).exists());
        assert_eq!(kept, [true; 3], "{loses_catalog}");
        assert!(!home.blob(&Digest::sha256(&layers[2])).exists(), "what is not pinned went");
        assert_eq!(store.pins().await.unwrap().len(), 1);
        assert_eq!(store.pinned_blocking().contents, 3);
    }
}

#[tokio::test]
async fn where_all_is_pinned_content_passes_through() {
    let home = Home::new();
    let store = open(&home, 10 * MIB).await;
    store.pin(vec![pin("hub/app")]).await.unwrap();
    Picture::new(1, &[10, 11, 12, 13]).pull_as(&store, "app", "v1").await;
    add_layers(&store, 10..14).await;
    assert!(matches!(add(&store, digest(99), 3 * MIB).await, Err(StoreError::NoSpace)));
    assert!(is_there(&home, 10..14).iter().all(|there| *there));
    store.unpin(vec![pin("hub/app")]).await.unwrap();
    add(&store, digest(99), 3 * MIB).await.unwrap();
}

/// What an operator, a client or an upstream does.
#[derive(Clone, Debug)]
enum Act {
    Pull { image: u32, tag: u32 },
    Layer(u32),
    Pin { tag: Option<u32> },
    Unpin { tag: Option<u32> },
    Forget { tag: u32 },
    Press,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let tag = 0..3u32;
    let pinned = prop_oneof![3 => tag.clone().prop_map(Some), 1 => Just(None)];
    let act = prop_oneof![
        4 => (0..6u32, tag.clone()).prop_map(|(image, tag)| Act::Pull { image, tag }),
        4 => (0..8u32).prop_map(Act::Layer),
        2 => pinned.clone().prop_map(|tag| Act::Pin { tag }),
        1 => pinned.prop_map(|tag| Act::Unpin { tag }),
        1 => tag.prop_map(|tag| Act::Forget { tag }),
        2 => Just(Act::Press),
    ];
    proptest::collection::vec(act, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens: what pins reach and was here is here, and no more than that counts as pinned.
    #[test]
    fn nothing_that_a_pin_reaches_is_evicted(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let home = Home::new();
            let store = open(&home, 12 * MIB).await;
            let layers = |image: u32| [100 + image, 100 + (image + 1) % 8, 100 + (image * 3) % 8];
            let mut tags = std::collections::BTreeMap::new();
            let (mut images, mut pins) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
            let mut filler = 10_000;
            for act in acts {
                let name = |tag: Option<u32>| {
                    let reference = tag.map(|tag| Reference::Tag(super::support::tag(&format!("t{tag}"))));
                    Pin { upstream: upstream("hub"), repository: repository("app"), reference }
                };
                let before: Vec<u32> = (100..108).chain(0..6).filter(|key| home.blob(&digest(*key)).exists()).collect();
                match act.clone() {
                    Act::Pull { image, tag } => {
                        // Where all is pinned, not even a manifest finds room.
                        if add(&store, digest(image), 1000).await.is_ok() {
                            Picture::new(image, &layers(image)).pull_as(&store, "app", &format!("t{tag}")).await;
                            tags.insert(tag, image);
                            images.insert(image);
                        }
                    }
                    Act::Layer(layer) => drop(add(&store, digest(100 + layer), SIZE).await),
                    Act::Pin { tag } => {
                        store.pin(vec![name(tag)]).await.unwrap();
                        pins.insert(tag);
                    }
                    Act::Unpin { tag } => {
                        let unpinned = store.unpin(vec![name(tag)]).await;
                        assert_eq!(unpinned.is_ok(), pins.remove(&tag));
                    }
                    Act::Forget { tag } => {
                        store.catalog().remove_tag(&upstream("hub"), &repository("app"), &super::support::tag(&format!("t{tag}"))).await;
                        tags.remove(&tag);
                    }
                    Act::Press => {
                        press(&store, filler..filler + 8).await;
                        filler += 8;
                    }
                }
                let mut kept: std::collections::BTreeSet<u32> = if pins.contains(&None) { images.clone() } else { Default::default() };
                kept.extend(pins.iter().flatten().filter_map(|tag| tags.get(tag)));
                let kept: std::collections::BTreeSet<u32> = kept.iter().flat_map(|image| layers(*image).into_iter().chain([*image])).collect();
                let there = |key: &u32| home.blob(&digest(*key)).exists();
                for key in before.iter().filter(|key| kept.contains(key)) {
                    assert!(there(key), "{key} went with {act:?}");
                }
                assert_eq!(store.pinned_blocking().contents, kept.iter().filter(|key| there(key)).count() as u64, "after {act:?}");
            }
            assert_eq!(store.stats().catalog_errors, 0);
        });
    }
}
