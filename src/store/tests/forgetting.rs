//! What is known by name of content does not outlive it.

use std::fs;
use std::path::Path;

use super::super::*;
use super::pins::{Picture, add, add_layers, digest};
use super::support::*;

const MIB: u64 = 1 << 20;

async fn open(home: &Home) -> Store {
    home.open_on(40 * MIB, Arc::new(OsFileSystem)).await
}

/// How many refs there are, and how many rows of the catalog that say something by name.
fn known(home: &Home, store: &Store) -> (usize, [i64; 5]) {
    let rows = store.blobs.catalog.read("count", |connection| {
        let mut counts = [0; 5];
        for (count, table) in counts.iter_mut().zip(["tag", "link", "edge", "manifest", "repository"]) {
            *count = connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
        }
        Ok(counts)
    });
    (files_below(&home.path("refs")), rows.unwrap())
}

fn files_below(path: &Path) -> usize {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

async fn evict_all(store: &Store) {
    store.clear(u64::MAX, false).await.unwrap();
}

async fn tag_of(store: &Store, name: &str, text: &str) -> Option<Digest> {
    store.catalog().tag(&upstream("hub"), &repository(name), &tag(text)).await.map(|record| record.digest)
}

#[tokio::test]
async fn names_go_with_what_they_are_of() {
    let home = Home::new();
    let store = open(&home).await;
    let nothing = known(&home, &store);
    Picture::index(1, &[2]).pull_as(&store, "app", "v1").await;
    Picture::new(2, &[10, 11]).pull(&store, "app").await;
    // The same image by another name, and of the last one a layer.
    Picture::index(1, &[2]).pull_as(&store, "copy/of/app", "v1").await;
    Picture::new(3, &[11, 12]).pull_as(&store, "other", "v1").await;
    add_layers(&store, 10..13).await;
    store.catalog().link(&upstream("hub"), &repository("other"), Kind::Blob, &digest(12)).await;
    assert_eq!(known(&home, &store), (7, [3, 9, 5, 3, 3]));
    store.pin(vec![Pin::try_from("hub/other:v1".parse::<Name>().unwrap()).unwrap()]).await.unwrap();

    evict_all(&store).await;
    assert_eq!((tag_of(&store, "app", "v1").await, tag_of(&store, "copy/of/app", "v1").await), (None, None));
    assert_eq!(tag_of(&store, "other", "v1").await, Some(digest(3)), "it is pinned");
    // Its tag, its manifest and its pin; and that the layer that it shares was in the other one, too.
    assert_eq!(known(&home, &store), (3, [1, 4, 2, 1, 2]));

    store.unpin(vec![Pin::try_from("hub/other:v1".parse::<Name>().unwrap()).unwrap()]).await.unwrap();
    evict_all(&store).await;
    assert_eq!(known(&home, &store), nothing);
    // The folder of the pin that was taken away is another matter.
    let folders = fs::read_dir(home.path("refs/hub")).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(folders, ["other"], "the folders of the others have gone");
    assert_eq!(store.stats().catalog_errors, 0);
}

/// The last ref of a repository goes again and again, and its folders with it, while others are written there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_name_is_kept_however_often_its_folder_goes() {
    let home = Home::new();
    let store = open(&home).await;
    let coming_and_going = tokio::spawn({
        let store = store.clone();
        async move {
            for number in 0..300 {
                Picture::new(number, &[]).pull_as(&store, "a/b", &format!("v{number}")).await;
                evict_all(&store).await;
            }
        }
    });
    for number in 1000..1300 {
        let kept = Picture::new(number, &[]);
        add(&store, kept.digest, 1000).await.unwrap();
        // What is open does not go.
        let open = store.get(&kept.digest).await;
        if open.is_some() {
            kept.pull_as(&store, "a/b", "kept").await;
            assert!(home.path("refs/hub/a/b/_tags/kept").exists(), "{number}");
        }
    }
    coming_and_going.await.unwrap();
    let stats = store.stats();
    assert!(stats.disk_errors.iter().all(|(_, count)| *count == 0), "{stats:?}");
}

/// A manifest of an index that is still here stays known as a part of it, as it would in a catalog that is made anew.
#[tokio::test]
async fn what_is_still_referred_to_stays_known() {
    let home = Home::new();
    let store = open(&home).await;
    let (hub, app) = (upstream("hub"), repository("app"));
    Picture::new(2, &[10]).pull(&store, "app").await;
    add_layers(&store, 10..11).await;
    evict_all(&store).await;
    Picture::index(1, &[2]).pull_as(&store, "app", "v1").await;
    Picture::new(2, &[10]).pull(&store, "app").await;
    add_layers(&store, 10..11).await;
    // The index is what was used.
    home.advance(60);
    for _ in 0..3 {
        home.advance(60);
        assert!(store.get(&digest(1)).await.is_some());
    }
    let index = store.get(&digest(1)).await;
    evict_all(&store).await;
    assert!(index.is_some() && store.get(&digest(2)).await.is_none());
    assert_eq!(tag_of(&store, "app", "v1").await, Some(digest(1)));
    let catalog = store.catalog();
    assert_eq!(catalog.linked(&hub, &app, Kind::Manifest, &digest(1)).await, Link::Fetched);
    assert_eq!(catalog.linked(&hub, &app, Kind::Manifest, &digest(2)).await, Link::Referenced { size: 1000 });
    // With the manifest went what only it had told.
    assert_eq!(catalog.linked(&hub, &app, Kind::Blob, &digest(10)).await, Link::None);
    assert_eq!(known(&home, &store), (2, [1, 2, 1, 1, 1]));
}

/// However much passes through, the names are those of what is here.
#[tokio::test]
async fn what_is_known_does_not_grow_with_what_has_passed_through() {
    let home = Home::new();
    let store = open(&home).await;
    for number in 0..200 {
        let name = format!("app-{number}");
        // A large one, so that its turn comes.
        add(&store, digest(number), MIB).await.unwrap();
        Picture::new(number, &[1000 + number]).pull_as(&store, &name, "latest").await;
        add_layers(&store, 1000 + number..1001 + number).await;
        home.advance(15);
    }
    let (refs, [tags, links, edges, manifests, repositories]) = known(&home, &store);
    let blobs = store.stats().blobs.cast_signed();
    assert!(blobs < 200, "{blobs}");
    assert!(manifests < blobs && (tags, edges) == (manifests, manifests), "{manifests} manifests, {tags} tags, {edges} edges");
    assert!(repositories <= blobs && links <= 2 * blobs, "{repositories} repositories, {links} links, {blobs} contents");
    assert_eq!(refs.cast_signed() as i64, 2 * manifests);
    evict_all(&store).await;
    assert_eq!(known(&home, &store), (0, [0; 5]));
}

/// The content was fetched again, but for the bytes that are wrong, by clients that know it by this name.
#[tokio::test]
async fn what_is_wrong_keeps_its_names_and_so_does_a_tag_that_has_moved() {
    let home = Home::new();
    let store = open(&home).await;
    Picture::new(1, &[10]).pull_as(&store, "app", "v1").await;
    store.remove(&digest(1)).await;
    assert_eq!(tag_of(&store, "app", "v1").await, Some(digest(1)));
    // The tag moves, and what it pointed to goes.
    Picture::new(1, &[10]).pull_as(&store, "app", "v1").await;
    Picture::new(2, &[10]).pull_as(&store, "app", "v1").await;
    let second = store.get(&digest(2)).await;
    evict_all(&store).await;
    assert!(second.is_some() && store.get(&digest(1)).await.is_none());
    assert_eq!(tag_of(&store, "app", "v1").await, Some(digest(2)));
    assert_eq!(known(&home, &store), (2, [1, 2, 1, 1, 1]));
}

/// An eviction was cut short between the content and its names, or a loss of power brought them back.
#[tokio::test]
async fn what_was_left_of_an_eviction_is_forgotten_at_the_next_start() {
    for loses_catalog in [false, true] {
        let home = Home::new();
        let store = open(&home).await;
        for (number, name) in [(1, "app"), (2, "other"), (3, "pinned")] {
            Picture::new(number, &[10 + number]).pull_as(&store, name, "v1").await;
            add_layers(&store, 10 + number..11 + number).await;
        }
        store.pin(vec![Pin::try_from("hub/pinned:v1".parse::<Name>().unwrap()).unwrap()]).await.unwrap();
        drop(store);
        closed(&home).await;
        for number in [1, 11, 3, 13] {
            fs::remove_file(home.blob(&digest(number))).unwrap();
        }
        if loses_catalog {
            fs::remove_file(home.path("catalog.sqlite")).unwrap();
        }
        let store = open(&home).await;
        assert_eq!(tag_of(&store, "app", "v1").await, None);
        assert_eq!(tag_of(&store, "other", "v1").await, Some(digest(2)));
        assert_eq!(tag_of(&store, "pinned", "v1").await, Some(digest(3)), "what is pinned is wanted, here or not");
        let (refs, [tags, ..]) = known(&home, &store);
        assert_eq!((refs, tags), (5, 2), "a tag and a manifest of each, and the pin");
        assert_eq!(store.stats().catalog_errors, 0);
    }
}
