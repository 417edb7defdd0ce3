//! Removing by name, and making room by hand: what goes, what stays, and that what was foretold is what happens.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::*;
use super::pins::{Picture, add_layers, digest, is_there};
use super::support::*;

const MIB: u64 = 1 << 20;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn names(removal: &Removal) -> Vec<String> {
    removal.images.iter().map(ToString::to_string).collect()
}

/// Two images that share a layer, and an index of two, in three repositories.
async fn library(store: &Store) {
    Picture::new(1, &[10, 11]).pull_as(store, "library/one", "v1").await;
    Picture::new(2, &[11, 12]).pull_as(store, "library/two", "v1").await;
    Picture::index(3, &[4, 5]).pull_as(store, "org/three", "v1").await;
    Picture::new(4, &[13]).pull(store, "org/three").await;
    Picture::new(5, &[14]).pull(store, "org/three").await;
    add_layers(store, 10..15).await;
}

#[tokio::test]
async fn with_an_image_goes_what_no_other_has() {
    let home = Home::new();
    let store = home.open().await;
    library(&store).await;
    let wanted = vec![name("hub/library/one:v1")];
    let foretold = store.remove_named(wanted.clone(), true, false).await.unwrap();
    assert_eq!(is_there(&home, [1, 10, 11]), [true; 3], "nothing was done");
    let removal = store.remove_named(wanted.clone(), false, false).await.unwrap();
    assert_eq!(removal, foretold);
    assert_eq!((names(&removal), removal.contents, removal.bytes), (vec!["hub/library/one:v1".to_owned()], 2, 2 * MIB + 1000));
    assert_eq!((removal.shared_contents, removal.shared_bytes), (1, 2 * MIB));
    assert_eq!(removal.shared_with, [name("hub/library/two:v1")]);
    assert_eq!(is_there(&home, [1, 10, 11, 2, 12]), [false, false, true, true, true]);
    let catalog = store.catalog();
    let (hub, one) = (upstream("hub"), repository("library/one"));
    assert_eq!(catalog.tag(&hub, &one, &tag("v1")).await, None);
    assert_eq!(catalog.linked(&hub, &one, Kind::Manifest, &digest(1)).await, Link::None);
    assert!(!home.path("refs/hub/library/one/_tags/v1").exists());
    assert_eq!(home.path("refs/hub/library/one/_manifests").read_dir().unwrap().count(), 0);
    assert!(matches!(store.remove_named(wanted, false, false).await, Err(RemovalError::NotCached(_))));
    assert_eq!((store.stats().catalog_errors, store.stats().blobs), (0, 8));
    // What is gone does not come back with a new catalog.
    store.blobs.catalog.database.set_aside();
    settled(&store).await;
    assert_eq!(store.catalog().tag(&hub, &one, &tag("v1")).await, None);
}

#[tokio::test]
async fn an_index_goes_with_its_platforms_and_a_tag_without_what_another_tag_names() {
    let home = Home::new();
    let store = home.open().await;
    library(&store).await;
    Picture::index(3, &[4, 5]).pull_as(&store, "org/three", "latest").await;
    let removal = store.remove_named(vec![name("hub/org/three:latest")], false, false).await.unwrap();
    assert_eq!((removal.contents, removal.shared_contents, names(&removal).len()), (0, 5, 1));
    assert_eq!(removal.shared_with, [name("hub/org/three:v1")]);
    let removal = store.remove_named(vec![name("hub/org/three:v1")], false, false).await.unwrap();
    assert_eq!((removal.contents, removal.shared_contents), (5, 0));
    assert_eq!(is_there(&home, [3, 4, 5, 13, 14]), [false; 5]);
    assert_eq!(names(&removal), ["hub/org/three:v1"], "its platforms are part of it");
}

#[tokio::test]
async fn one_platform_of_an_index_can_go_by_its_digest() {
    let home = Home::new();
    let store = home.open().await;
    library(&store).await;
    let platform = format!("hub/org/three@{}", digest(5));
    let removal = store.remove_named(vec![name(&platform)], false, false).await.unwrap();
    assert_eq!((names(&removal), removal.contents), (vec![platform], 2));
    assert_eq!(is_there(&home, [3, 4, 5, 13, 14]), [true, true, false, true, false]);
}

#[tokio::test]
async fn repositories_namespaces_and_upstreams_go_as_a_whole() {
    for (what, images, contents) in [("hub/library/one", 1, 2), ("hub/library", 2, 5), ("hub", 3, 10)] {
        let home = Home::new();
        let store = home.open().await;
        library(&store).await;
        let removal = store.remove_named(vec![name(what)], false, false).await.unwrap();
        assert_eq!((removal.images.len(), removal.contents), (images, contents), "{what}");
        assert_eq!(home.count(), 10 - contents, "{what}");
    }
    let home = Home::new();
    let store = home.open().await;
    library(&store).await;
    for what in ["ghcr.io", "hub/lib", "hub/library/one:v2", "hub/library:v1"] {
        assert!(matches!(store.remove_named(vec![name(what)], false, false).await, Err(RemovalError::NotCached(_))), "{what}");
    }
}

#[tokio::test]
async fn a_digest_goes_from_everywhere_and_who_reads_it_reads_on() {
    let home = Home::new();
    let store = home.open().await;
    library(&store).await;
    let reading = store.get(&digest(11)).await.unwrap();
    let removal = store.remove_named(vec![name(&digest(11).to_string())], false, false).await.unwrap();
    assert_eq!((removal.contents, removal.images.len()), (1, 0));
    assert!(!is_there(&home, [11])[0] && store.get(&digest(11)).await.is_none());
    assert_eq!(read(&reading).len() as u64, 2 * MIB);
    // A manifest goes with its names.
    let removal = store.remove_named(vec![name(&digest(1).to_string())], false, false).await.unwrap();
    assert_eq!((names(&removal), removal.contents), (vec!["hub/library/one:v1".to_owned()], 2));
    let gone = Name::Content(Digest::sha256(b"never was here"));
    assert!(matches!(store.remove_named(vec![gone], false, false).await, Err(RemovalError::NotCached(_))));
}

#[tokio::test]
async fn what_is_pinned_is_not_removed_by_the_way() {
    let home = Home::new();
    let store = home.open().await;
    library(&store).await;
    let pin = Pin::try_from(name("hub/library/two:v1")).unwrap();
    store.pin(vec![pin]).await.unwrap();
    for what in ["hub/library", "hub", "hub/library/two:v1", &digest(12).to_string()] {
        let refused = store.remove_named(vec![name(what)], false, false).await;
        assert!(matches!(refused, Err(RemovalError::Pinned(_))), "{what}: {refused:?}");
    }
    assert_eq!(store.stats().blobs, 10);
    let removal = store.remove_named(vec![name("hub/library/two:v1")], false, true).await.unwrap();
    assert_eq!((removal.contents, store.pinned_blocking()), (2, PinnedBytes::default()));
    library(&store).await;
    assert_eq!(store.pinned_blocking().contents, 3, "the pin is still there");
}

#[tokio::test]
async fn room_is_made_as_it_was_foretold() {
    let home = Home::new();
    let store = home.open_on(100 * MIB, Arc::new(OsFileSystem)).await;
    library(&store).await;
    for key in 100..120 {
        home.advance(20);
        add_layers(&store, [key]).await;
        if key % 3 == 0 {
            home.advance(20);
            assert!(store.get(&digest(key)).await.is_some());
        }
    }
    let open = store.get(&digest(101)).await.unwrap();
    store.pin(vec![Pin::try_from(name("hub/library/two")).unwrap()]).await.unwrap();
    let free = 100 * MIB - store.stats().bytes;
    let before = store.stats();
    let foretold = store.clear(free + 30 * MIB, true).await.unwrap();
    assert_eq!((store.stats().bytes, foretold.free_before), (before.bytes, free), "nothing was done");
    let cleared = store.clear(free + 30 * MIB, false).await.unwrap();
    assert_eq!(cleared, foretold);
    assert!((30 * MIB..33 * MIB).contains(&(cleared.free_after - free)), "{cleared:?}");
    assert!(cleared.evicted.iter().any(|evicted| evicted.images == [name("hub/library/one:v1")]), "{cleared:?}");
    assert_eq!(is_there(&home, [101, 11, 12]), [true; 3], "open, or pinned");
    assert_eq!(store.stats().evictions, cleared.evicted.len() as u64);
    drop(open);
    let all = store.clear(u64::MAX, true).await.unwrap();
    assert_eq!(store.clear(u64::MAX, false).await.unwrap(), all);
    assert_eq!(store.stats().blobs, store.pinned_blocking().contents, "all that may go");
    assert_eq!(store.clear(MIB, false).await.unwrap().evicted, [], "there is room");
}

/// Images 0 to 5 of three layers each, indexes 6 and 7 of three images each.
fn refers_to(key: u32) -> Vec<u32> {
    match key {
        0..6 => vec![20 + key, 20 + (key + 1) % 6, 20 + (key * 5 + 2) % 6],
        6 => vec![0, 1, 2],
        7 => vec![2, 3, 4],
        _ => Vec::new(),
    }
}

/// The roots and what can be reached from them through manifests that are here.
fn reach(roots: impl IntoIterator<Item = u32>, here: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut open: Vec<u32> = roots.into_iter().filter(|key| here.contains(key)).collect();
    let mut reached = BTreeSet::new();
    while let Some(key) = open.pop() {
        if reached.insert(key) && here.contains(&key) {
            open.extend(refers_to(key));
        }
    }
    reached
}

const REPOSITORIES: [&str; 3] = ["a", "a/b", "c"];

/// What `refs/` names in each repository: what its tags point to, and its manifests.
fn named(store: &Store, keys: &BTreeMap<Digest, u32>) -> BTreeSet<u32> {
    let refs = &store.blobs.catalog.refs;
    let mut named = BTreeSet::new();
    for name in REPOSITORIES {
        let (hub, name) = (upstream("hub"), repository(name));
        named.extend(refs.tags(&hub, &name).unwrap().iter().map(|tag| keys[&refs.tag(&hub, &name, tag).unwrap().digest]));
        let manifests = refs.list(&refs.layout.manifests(&hub, &name)).unwrap().into_iter();
        named.extend(manifests.map(|(file, _)| keys[&Layout::parse_manifest(&file).unwrap()]));
    }
    named
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is removed: all that something still names is still here, and what only the removed names led to is not.
    #[test]
    fn what_goes_is_what_nothing_else_names(
        pulls in proptest::collection::vec((0..8u32, 0..3usize, proptest::option::of(0..2u32)), 1..12),
        layers in proptest::collection::btree_set(20..26u32, 0..6),
        removals in proptest::collection::vec((0..3usize, prop_oneof![Just(None), (0..2u32).prop_map(Some)]), 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let home = Home::new();
            let store = home.open().await;
            let keys: BTreeMap<Digest, u32> = (0..30).map(|key| (digest(key), key)).collect();
            for (key, place, tag) in pulls {
                let image = if key < 6 { Picture::new(key, &refers_to(key)) } else { Picture::index(key, &refers_to(key)) };
                match tag {
                    Some(tag) => image.pull_as(&store, REPOSITORIES[place], &format!("t{tag}")).await,
                    None => image.pull(&store, REPOSITORIES[place]).await,
                }
            }
            add_layers(&store, layers).await;
            let here = || (0..30).filter(|key| home.blob(&digest(*key)).exists()).collect::<BTreeSet<u32>>();
            for (place, tag) in removals {
                let place = REPOSITORIES[place];
                let wanted = tag.map_or_else(|| format!("hub/{place}"), |tag| format!("hub/{place}:t{tag}"));
                let (before, was_named) = (here(), named(&store, &keys));
                let removal = store.remove_named(vec![name(&wanted)], false, false).await;
                let (after, is_named) = (here(), named(&store, &keys));
                let stays = reach(is_named.iter().copied(), &before);
                let goes = reach(was_named.difference(&is_named).copied(), &before);
                assert!(before.intersection(&stays).all(|key| after.contains(key)), "{wanted} took what is named: {removal:?}");
                assert!(goes.difference(&stays).all(|key| !after.contains(key)), "{wanted} left what nothing names: {removal:?}");
                let gone = before.difference(&after).count() as u64;
                assert_eq!(removal.map_or(0, |removal| removal.contents), gone, "{wanted}");
                assert!(before.difference(&after).all(|key| goes.contains(key)), "{wanted}");
            }
            assert_eq!(store.stats().catalog_errors, 0);
        });
    }
}
