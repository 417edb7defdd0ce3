//! What is known about content, and that losing the catalog costs freshness and nothing else.

use std::fs;
use std::path::Path;
use std::slice::from_ref;

use super::super::*;
use super::gate::Gate;
use super::support::*;
use crate::oci::{Manifest, MediaType, RepositoryName, Tag, UpstreamName};

/// An image in a repository: an index, a manifest, a configuration and a layer, with a tag.
struct Image {
    upstream: UpstreamName,
    repository: RepositoryName,
    tag: Tag,
    index: Vec<u8>,
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
}

impl Image {
    fn new(upstream_name: &str, name: &str, seed: u8) -> Self {
        let descriptor =
            |content: &[u8]| format!(r#"{{"mediaType":"x/y","digest":"{}","size":{}}}"#, Digest::sha256(content), content.len());
        let (config, layer) = (bytes(seed, 300), bytes(seed.wrapping_add(100), 3000));
        let manifest = format!(r#"{{"config":{},"layers":[{}]}}"#, descriptor(&config), descriptor(&layer)).into_bytes();
        let index = format!(r#"{{"manifests":[{}]}}"#, descriptor(&manifest)).into_bytes();
        let (upstream, repository) = (upstream(upstream_name), repository(name));
        Self { upstream, repository, tag: tag("latest"), index, manifest, config, layer }
    }

    fn record(&self, checked_at: i64) -> TagRecord {
        let media_type = media_type(MediaType::OCI_INDEX);
        TagRecord { digest: Digest::sha256(&self.index), media_type, size: self.index.len() as u64, checked_at }
    }

    /// Stores it as a mirror that pulls it does.
    async fn pull(&self, store: &Store) {
        let Self { upstream, repository, .. } = self;
        for (bytes, kind) in [(&self.index, MediaType::OCI_INDEX), (&self.manifest, MediaType::OCI_MANIFEST)] {
            put(store, bytes).await.unwrap();
            let (digest, kind) = (Digest::sha256(bytes), media_type(kind));
            let content = Manifest::inspect(bytes, &kind).unwrap();
            store.catalog().add_manifest(upstream, repository, &digest, &kind, bytes.len() as u64, &content).await;
        }
        for bytes in [&self.config, &self.layer] {
            put(store, bytes).await.unwrap();
            store.catalog().link(upstream, repository, Kind::Blob, &Digest::sha256(bytes)).await;
        }
        store.catalog().set_tag(upstream, repository, &self.tag, self.record(1234)).await;
    }

    /// Asks for all of it, in the order in which a client does.
    async fn assert_known(&self, store: &Store, checked_at: i64) {
        let catalog = store.catalog();
        let linked = |kind, digest: Digest| async move { catalog.linked(&self.upstream, &self.repository, kind, &digest).await };
        assert_eq!(catalog.tag(&self.upstream, &self.repository, &self.tag).await, Some(self.record(checked_at)));
        for (bytes, kind) in [(&self.index, MediaType::OCI_INDEX), (&self.manifest, MediaType::OCI_MANIFEST)] {
            let digest = Digest::sha256(bytes);
            assert_eq!(linked(Kind::Manifest, digest).await, Link::Fetched);
            assert_eq!(catalog.media_type(&digest).await, Some(media_type(kind)));
            assert!(catalog.origins(&digest).await.contains(&self.upstream));
            assert_eq!(&read(&store.get(&digest).await.unwrap()), bytes);
        }
        for bytes in [&self.config, &self.layer] {
            let digest = Digest::sha256(bytes);
            assert_ne!(linked(Kind::Blob, digest).await, Link::None);
            assert_eq!(linked(Kind::Manifest, digest).await, Link::None, "a blob is no manifest");
            assert_eq!(catalog.origins(&digest).await, from_ref(&self.upstream));
            assert_eq!(&read(&store.get(&digest).await.unwrap()), bytes);
        }
    }
}

fn images() -> Vec<Image> {
    vec![Image::new("docker.io", "library/alpine", 1), Image::new("ghcr.io", "a/b/c", 2), Image::new("localhost:5000", "a", 3)]
}

#[tokio::test]
async fn tags_are_kept_moved_listed_and_removed() {
    let home = Home::new();
    let store = home.open().await;
    let catalog = store.catalog();
    let (hub, app) = (upstream("docker.io"), repository("my/app"));
    assert!(catalog.tags(&hub, &app).await.is_empty());
    let record = |content: &[u8], checked_at| TagRecord {
        digest: Digest::sha256(content),
        media_type: media_type(MediaType::OCI_MANIFEST),
        size: content.len() as u64,
        checked_at,
    };
    for name in ["v10", "latest", "v2", "V1"] {
        catalog.set_tag(&hub, &app, &tag(name), record(b"one", 1)).await;
    }
    assert_eq!(catalog.tags(&hub, &app).await, ["V1", "latest", "v10", "v2"].map(tag));
    catalog.set_tag(&hub, &app, &tag("v2"), record(b"three", 2)).await;
    assert_eq!(catalog.tag(&hub, &app, &tag("v2")).await, Some(record(b"three", 2)));
    assert_eq!(catalog.tag(&hub, &app, &tag("v10")).await, Some(record(b"one", 1)));
    assert_eq!(catalog.tag(&hub, &repository("my"), &tag("v10")).await, None);
    assert_eq!(catalog.tag(&upstream("ghcr.io"), &app, &tag("v10")).await, None);
    catalog.remove_tag(&hub, &app, &tag("v2")).await;
    catalog.remove_tag(&hub, &app, &tag("never-was")).await;
    assert_eq!(catalog.tag(&hub, &app, &tag("v2")).await, None);
    assert_eq!(catalog.tags(&hub, &app).await, ["V1", "latest", "v10"].map(tag));
    assert_eq!(store.stats().catalog_errors, 0);
    assert!(store.stats().disk_errors.iter().all(|(_, count)| *count == 0));
}

#[tokio::test]
async fn a_ref_is_written_only_when_the_tag_moves() {
    let home = Home::new();
    home.prepare().await;
    let fs = FaultFs::one(u64::MAX);
    let count = Arc::clone(&fs.count);
    let store = home.open_faulty(fs).await;
    let image = Image::new("docker.io", "app", 1);
    let path = home.path("refs/docker.io/app/_tags/latest");
    let set = |checked_at| store.catalog().set_tag(&image.upstream, &image.repository, &image.tag, image.record(checked_at));
    set(1).await;
    let written = fs::metadata(&path).unwrap().modified().unwrap();
    let before = count.load(Ordering::SeqCst);
    set(2).await;
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), written);
    assert!(count.load(Ordering::SeqCst) - before <= 3, "it is opened and read at most");
    let record = store.catalog().tag(&image.upstream, &image.repository, &image.tag).await;
    assert_eq!(record, Some(image.record(2)), "but the catalog knows when it was checked");
}

#[tokio::test]
async fn links_tell_how_a_digest_is_known() {
    let home = Home::new();
    let store = home.open().await;
    let catalog = store.catalog();
    let image = Image::new("docker.io", "library/alpine", 1);
    let Image { upstream: hub, repository: alpine, .. } = &image;
    let (manifest, layer) = (Digest::sha256(&image.manifest), Digest::sha256(&image.layer));
    let kind = media_type(MediaType::OCI_MANIFEST);
    let content = Manifest::inspect(&image.manifest, &kind).unwrap();
    assert_eq!(catalog.linked(hub, alpine, Kind::Blob, &layer).await, Link::None);
    assert!(catalog.origins(&layer).await.is_empty());
    catalog.add_manifest(hub, alpine, &manifest, &kind, image.manifest.len() as u64, &content).await;
    assert_eq!(catalog.linked(hub, alpine, Kind::Manifest, &manifest).await, Link::Fetched);
    assert_eq!(catalog.linked(hub, alpine, Kind::Blob, &layer).await, Link::Referenced { size: 3000 });
    assert_eq!(catalog.linked(hub, &repository("other"), Kind::Blob, &layer).await, Link::None);
    assert_eq!(catalog.origins(&layer).await, from_ref(hub), "referred to from one upstream only");

    let ghcr = upstream("ghcr.io");
    catalog.add_manifest(&ghcr, alpine, &manifest, &kind, image.manifest.len() as u64, &content).await;
    assert!(catalog.origins(&layer).await.is_empty(), "referred to from two");
    assert_eq!(catalog.origins(&manifest).await, [hub.clone(), ghcr.clone()]);
    catalog.link(&ghcr, &repository("elsewhere"), Kind::Blob, &layer).await;
    assert_eq!(catalog.origins(&layer).await, from_ref(&ghcr), "fetched from one");

    catalog.link(hub, alpine, Kind::Blob, &layer).await;
    assert_eq!(catalog.linked(hub, alpine, Kind::Blob, &layer).await, Link::Fetched);
    catalog.add_manifest(hub, alpine, &manifest, &kind, image.manifest.len() as u64, &content).await;
    assert_eq!(catalog.linked(hub, alpine, Kind::Blob, &layer).await, Link::Fetched, "a reference makes no link weaker");
    catalog.unlink(hub, alpine, Kind::Blob, &layer).await;
    assert_eq!(catalog.linked(hub, alpine, Kind::Blob, &layer).await, Link::None);
    catalog.unlink(hub, alpine, Kind::Manifest, &manifest).await;
    assert_eq!(catalog.linked(hub, alpine, Kind::Manifest, &manifest).await, Link::None, "its ref is gone, too");
    assert_eq!(store.stats().catalog_errors, 0);
}

#[tokio::test]
async fn a_manifest_that_another_repository_holds_too_is_linked_for_good() {
    let home = Home::new();
    let store = home.open().await;
    let image = Image::new("docker.io", "library/alpine", 1);
    image.pull(&store).await;
    let fork = repository("fork/alpine");
    store.catalog().link(&image.upstream, &fork, Kind::Manifest, &Digest::sha256(&image.manifest)).await;
    for walked in [false, true] {
        let catalog = store.catalog();
        let linked = |kind, content: &[u8]| {
            let digest = Digest::sha256(content);
            let (upstream, fork) = (image.upstream.clone(), fork.clone());
            async move { catalog.linked(&upstream, &fork, kind, &digest).await }
        };
        assert_eq!(linked(Kind::Manifest, &image.manifest).await, Link::Fetched);
        assert_eq!(linked(Kind::Blob, &image.layer).await, Link::Referenced { size: 3000 });
        if !walked {
            lose_catalog(&home, &store).await;
        }
    }
}

/// Has the open store set its catalog aside, and waits until there is a new one.
async fn lose_catalog(home: &Home, store: &Store) {
    settled(store).await;
    store.blobs.catalog.database.set_aside();
    assert_eq!(set_aside(home, "corrupt"), 1);
    settled(store).await;
}

/// How many catalogs have been set aside for that reason.
fn set_aside(home: &Home, reason: &str) -> usize {
    let names = fs::read_dir(home.dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| {
            name.starts_with(&format!("catalog.sqlite.{reason}-")) && !name.ends_with("-wal") && !name.ends_with("-shm")
        })
        .count()
}

/// A large one takes hundreds of megabytes that no budget counts.
#[tokio::test]
async fn one_catalog_is_set_aside_at_most() {
    let home = Home::new();
    home.prepare().await;
    for own in ["catalog.sqlite.bak", "catalog.sqlite.corruption"] {
        fs::write(home.path(own), "somebody's own").unwrap();
    }
    fs::write(home.path("catalog.sqlite.version-1"), "an old one").unwrap();
    let store = home.open().await;
    for _ in 0..3 {
        home.advance(1);
        lose_catalog(&home, &store).await;
    }
    assert_eq!(set_aside(&home, "version"), 0);
    assert!(home.path("catalog.sqlite.bak").exists() && home.path("catalog.sqlite.corruption").exists());
}

/// Fills a store, closes it, does something to its catalog, opens it again, and looks whether all is back.
async fn survives(harm: impl FnOnce(&Path), reason: Option<&str>) {
    let home = Home::new();
    let images = images();
    let store = home.open().await;
    for image in &images {
        image.pull(&store).await;
        image.assert_known(&store, 1234).await;
    }
    let before = store.stats();
    drop(store);
    closed(&home).await;
    harm(&home.path("catalog.sqlite"));
    let store = home.open().await;
    // One that opens well and is found to be broken later is replaced later.
    eventually("it is set aside", || reason.is_none_or(|reason| set_aside(&home, reason) == 1)).await;
    eventually("all is counted", || store.stats().blobs == before.blobs && !store.stats().walking).await;
    // The file has its new name a moment before nobody reads it any more.
    let Image { upstream, repository, tag, .. } = &images[0];
    let begun = std::time::Instant::now();
    while store.catalog().tag(upstream, repository, tag).await != Some(images[0].record(TagRecord::NEVER)) {
        assert!(begun.elapsed().as_secs() < 60, "the new catalog is not read");
    }
    settled(&store).await;
    for image in &images {
        image.assert_known(&store, TagRecord::NEVER).await;
        let places = (&image.upstream, &image.repository);
        assert_eq!(store.catalog().tags(places.0, places.1).await, from_ref(&image.tag));
    }
    let after = store.stats();
    assert_eq!((after.bytes, after.blobs), (before.bytes, before.blobs));
    assert_eq!(after.bytes, home.verified_bytes());
}

#[tokio::test]
async fn a_catalog_that_is_gone_is_made_anew() {
    survives(|path| fs::remove_file(path).unwrap(), None).await;
}

#[tokio::test]
async fn a_catalog_that_is_none_is_made_anew() {
    survives(
        |path| fs::write(path, b"this is no database, and is long enough to be looked at".repeat(99)).unwrap(),
        Some("corrupt"),
    )
    .await;
}

/// Fills the catalog's pages from the `first` on with what no page can be.
fn break_pages(path: &Path, first: impl FnOnce(usize) -> usize) {
    const PAGE: usize = 4096;
    let mut bytes = fs::read(path).unwrap();
    assert!(bytes.len() > 4 * PAGE, "the log has been taken into the file");
    let first = first(bytes.len() / PAGE);
    bytes[first * PAGE..].fill(0xa5);
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_catalog_with_broken_pages_is_made_anew() {
    survives(|path| break_pages(path, |_| 1), Some("corrupt")).await;
}

#[tokio::test]
async fn a_catalog_that_opens_well_and_is_broken_further_on_is_made_anew() {
    let from_tags = |path: &Path| {
        let connection = rusqlite::Connection::open(path).unwrap();
        let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'tag'";
        let page: u32 = connection.query_row(root, [], |row| row.get(0)).unwrap();
        drop(connection);
        break_pages(path, |_| page as usize - 1);
    };
    survives(from_tags, Some("corrupt")).await;
}

#[tokio::test]
async fn a_catalog_of_a_later_version_is_made_anew() {
    let harm = |path: &Path| {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.execute_batch("PRAGMA user_version = 99").unwrap();
    };
    survives(harm, Some("version")).await;
}

#[tokio::test]
async fn a_catalog_that_lacks_its_tables_is_made_anew() {
    survives(|path| rusqlite::Connection::open(path).unwrap().execute_batch("DROP TABLE queue").unwrap(), Some("version")).await;
}

#[tokio::test]
async fn a_catalog_that_breaks_while_the_store_is_open_is_replaced_meanwhile() {
    let home = Home::new();
    let images = images();
    let store = home.open().await;
    for image in &images {
        image.pull(&store).await;
    }
    let before = store.stats();
    lose_catalog(&home, &store).await;
    for image in &images {
        image.assert_known(&store, TagRecord::NEVER).await;
    }
    eventually("all is counted", || store.stats().bytes == before.bytes).await;
    images[0].pull(&store).await;
    images[0].assert_known(&store, 1234).await;
}

/// The walk does not get anywhere.
fn walk_gate() -> Arc<Gate> {
    Gate::closed(|folder| !folder.ends_with("ingest") && !folder.ends_with("blobs"))
}

#[tokio::test]
async fn what_is_asked_for_before_the_walk_gets_there_is_found() {
    let home = Home::new();
    let images = images();
    let store = home.open().await;
    for image in &images {
        image.pull(&store).await;
    }
    drop(store);
    closed(&home).await;
    fs::remove_file(home.path("catalog.sqlite")).unwrap();

    let gate = walk_gate();
    let store = home.open_walking(ROOMY, gate.fs());
    for image in &images {
        image.assert_known(&store, TagRecord::NEVER).await;
    }
    assert!(store.stats().walking);
    let counted = home.verified_bytes();
    eventually("what was asked for is counted already", || store.stats().bytes == counted).await;
    gate.open();
    settled(&store).await;
    assert_eq!(store.stats().bytes, counted, "and not twice");
}

/// What is pinned can be told only when all of `refs/` has been read.
#[tokio::test]
async fn nothing_is_evicted_before_a_new_catalog_knows_the_pins() {
    let home = Home::new();
    let image = Image::new("docker.io", "app", 1);
    let contents = [&image.index, &image.manifest, &image.config, &image.layer];
    let size = contents.iter().map(|content| content.len() as u64).sum::<u64>();
    let store = home.open().await;
    image.pull(&store).await;
    store.pin(vec![Pin::try_from("docker.io/app:latest".parse::<Name>().unwrap()).unwrap()]).await.unwrap();
    drop(store);
    closed(&home).await;
    fs::remove_file(home.path("catalog.sqlite")).unwrap();

    let gate = walk_gate();
    let store = home.open_walking(size + 100, gate.fs());
    for content in contents {
        assert!(store.get(&Digest::sha256(content)).await.is_some());
    }
    eventually("what was asked for is counted", || store.stats().bytes == size).await;
    let other = bytes(9, 200);
    assert!(matches!(put(&store, &other).await, Err(StoreError::NoSpace)));
    gate.open();
    settled(&store).await;
    assert!(matches!(put(&store, &other).await, Err(StoreError::NoSpace)), "all is pinned");
    assert_eq!((store.pinned_blocking().contents, home.count()), (4, 4));
    store.unpin(vec![Pin::try_from("docker.io/app:latest".parse::<Name>().unwrap()).unwrap()]).await.unwrap();
    put(&store, &other).await.unwrap();
}

/// That a folder cannot be listed does not mean that nothing is in it: pins least of all.
#[tokio::test]
async fn pins_that_cannot_be_listed_are_kept_and_found_later() {
    let image = Image::new("docker.io", "app", 1);
    let contents = [&image.index, &image.manifest, &image.config, &image.layer];
    let size = contents.iter().map(|content| content.len() as u64).sum::<u64>();
    // The first list, or the second one, and so on; and the same for the walk after it.
    for fails in 1..8 {
        let home = Home::new();
        let store = home.open().await;
        image.pull(&store).await;
        store.pin(vec![Pin::try_from("docker.io/app:latest".parse::<Name>().unwrap()).unwrap()]).await.unwrap();
        drop(store);
        closed(&home).await;
        fs::remove_file(home.path("catalog.sqlite")).unwrap();
        let fs = FaultFs::one(u64::MAX);
        let unlisted = Arc::clone(&fs.unlisted);
        unlisted.store(fails, Ordering::SeqCst);
        let store = home.open_walking(size + 100, Arc::new(fs));
        // However often it is tried meanwhile.
        eventually("all is known again", || {
            let _ = futures::executor::block_on(async { store.begin(Digest::sha256(b"x"), Some(200)).await.map(drop) });
            assert_eq!(home.count(), 4, "what is pinned went");
            unlisted.load(Ordering::SeqCst) == 0 && store.pinned_blocking().contents == 4
        })
        .await;
    }
}

#[tokio::test]
async fn a_ref_that_cannot_be_read_is_no_ref() {
    let home = Home::new();
    let image = Image::new("docker.io", "app", 1);
    home.prepare().await;
    let path = home.path("refs/docker.io/app/_tags/latest");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let elsewhere = home.path("elsewhere");
    let good = format!(r#"{{"digest":"{}","media_type":"a/b","size":1}}"#, Digest::sha256(b"x"));
    fs::write(&elsewhere, &good).unwrap();
    let huge = format!("{}{}", " ".repeat(5000), good);
    let wrong = good.replace("sha256:", "sha256:../");
    let store = home.open().await;
    for (content, known) in [("", false), ("{", false), (&huge, false), (&wrong, false), (&good, true)] {
        fs::write(&path, content).unwrap();
        let record = store.catalog().tag(&image.upstream, &image.repository, &image.tag).await;
        assert_eq!(record.is_some(), known, "{content}");
    }
    store.catalog().remove_tag(&image.upstream, &image.repository, &image.tag).await;
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(store.catalog().tag(&image.upstream, &image.repository, &image.tag).await.is_none(), "no link is followed");
}
