//! A process that ends at any instant leaves a folder that the next one opens, with all in it that was said to be stored.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::super::*;
use super::support::*;
use crate::oci::MediaType;

/// Set for the process that is to be killed: the folder of its store.
const CHILD: &str = "LARDER_TEST_STORE_CHILD";

/// The longest time for which that process lives if nobody kills it.
const LIFETIME: Duration = Duration::from_secs(20);

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

pub(super) fn copy(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

#[tokio::test]
async fn the_folder_as_it_is_at_any_moment_is_a_store() {
    let home = Home::new();
    let store = home.open().await;
    let (stored, half) = (bytes(1, 4000), bytes(2, 4000));
    put(&store, &stored).await.unwrap();
    let ingest = store.begin(Digest::sha256(&half), Some(4000)).await.unwrap();
    write(&ingest, &half[..2000]).unwrap();
    // A blob that has its name, by a process that did not get to tell the catalog.
    let unknown = bytes(3, 500);
    std::fs::create_dir_all(home.blob(&Digest::sha256(&unknown)).parent().unwrap()).unwrap();
    std::fs::write(home.blob(&Digest::sha256(&unknown)), &unknown).unwrap();

    let later = Home::new();
    copy(home.dir.path(), later.dir.path());
    assert_eq!(later.in_flight(), 1);
    let store = later.open_walking(ROOMY, Arc::new(OsFileSystem));
    assert_eq!(later.in_flight(), 0);
    assert_eq!(read(&store.get(&Digest::sha256(&stored)).await.unwrap()), stored);
    assert_eq!(read(&store.get(&Digest::sha256(&unknown)).await.unwrap()), unknown);
    assert!(store.get(&Digest::sha256(&half)).await.is_none());
    settled(&store).await;
    assert_eq!((store.stats().bytes, store.stats().blobs), (4500, 2));
    assert_eq!(later.verified_bytes(), 4500);
}

#[tokio::test]
async fn the_walk_finds_what_is_there_and_what_is_not() {
    let home = Home::new();
    let store = home.open().await;
    let contents: Vec<_> = (0..40).map(|seed| bytes(seed, 100 + usize::from(seed))).collect();
    for content in &contents {
        put(&store, content).await.unwrap();
    }
    drop(store);
    closed(&home).await;
    for content in &contents[..10] {
        std::fs::remove_file(home.blob(&Digest::sha256(content))).unwrap();
    }
    let unknown = bytes(77, 5000);
    std::fs::create_dir_all(home.blob(&Digest::sha256(&unknown)).parent().unwrap()).unwrap();
    std::fs::write(home.blob(&Digest::sha256(&unknown)), &unknown).unwrap();
    // What a power failure can leave on a file system that keeps names better than content.
    let empty = Digest::sha256(b"lost");
    std::fs::create_dir_all(home.blob(&empty).parent().unwrap()).unwrap();
    std::fs::write(home.blob(&empty), b"").unwrap();
    let store = home.open().await;
    assert_eq!(store.stats().blobs, 31);
    assert!(!home.blob(&empty).exists());
    assert_eq!(store.stats().bytes, home.verified_bytes());
}

/// Stores one content after the other, each with a tag, and says so.
async fn store_until_killed(dir: &str, seed: u64) {
    let fs = Arc::new(OsFileSystem);
    let config = StoreConfig { dir: dir.into(), max_bytes: ROOMY };
    let store = Store::open(config, fs, Arc::new(crate::util::SystemClock)).unwrap();
    let begun = Instant::now();
    let (hub, app) = (upstream("docker.io"), repository("my/app"));
    for number in 0u64.. {
        assert!(begun.elapsed() < LIFETIME, "nobody killed this process");
        let content = format!("{seed} {number} {}", "x".repeat(usize::try_from(number % 7 * 9000).unwrap())).into_bytes();
        let digest = Digest::sha256(&content);
        put(&store, &content).await.unwrap();
        let kind = media_type(MediaType::OCI_INDEX);
        store.catalog().add_manifest(&hub, &app, &digest, &kind, content.len() as u64, &Default::default()).await;
        let record = TagRecord { digest, media_type: kind, size: content.len() as u64, checked_at: 1 };
        store.catalog().set_tag(&hub, &app, &tag(&format!("t{}", number % 5)), record).await;
        // Not by print!, which the test harness keeps to itself.
        std::io::stdout().write_all(format!("stored {digest} {}\n", number % 5).as_bytes()).unwrap();
    }
}

#[tokio::test]
async fn what_was_stored_when_the_process_was_killed_is_there() {
    if let Ok(child) = std::env::var(CHILD) {
        let (seed, dir) = child.split_once(' ').unwrap();
        return store_until_killed(dir, seed.parse().unwrap()).await;
    }
    let home = Home::new();
    let mut stored = Vec::new();
    for round in 0..12u64 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "store::tests::crash::what_was_stored_when_the_process_was_killed_is_there"]);
        command.env(CHILD, format!("{round} {}", home.dir.path().display())).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = Killed(command.spawn().unwrap());
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(|line| line.unwrap());
        let mut said = lines.by_ref().filter(|line| line.starts_with("stored ")).take(3).collect::<Vec<_>>();
        // Not at the same point of its work each time.
        std::thread::sleep(Duration::from_micros(round * 1700));
        drop(child);
        said.extend(lines.filter(|line| line.starts_with("stored ")));
        stored.extend(said.iter().map(|line| line.split(' ').nth(1).unwrap().parse::<Digest>().unwrap()));

        let store = home.open_walking(ROOMY, Arc::new(OsFileSystem));
        assert_eq!(home.in_flight(), 0);
        for digest in &stored {
            assert!(store.get(digest).await.is_some(), "round {round}: {digest} was said to be stored");
        }
        settled(&store).await;
        let stats = store.stats();
        assert_eq!((stats.bytes, stats.catalog_errors), (home.verified_bytes(), 0));
        assert!(stats.disk_errors.iter().all(|(_, count)| *count == 0), "{stats:?}");
        let (hub, app) = (upstream("docker.io"), repository("my/app"));
        for line in &said {
            let number = line.split(' ').nth(2).unwrap();
            let record = store.catalog().tag(&hub, &app, &tag(&format!("t{number}"))).await.unwrap();
            assert!(store.get(&record.digest).await.is_some());
        }
        // What the last tag of each number points to is what was said last, or what came right after it.
        let last = said.last().unwrap();
        let mut parts = last.split(' ').skip(1);
        let (digest, number) = (parts.next().unwrap().parse::<Digest>().unwrap(), parts.next().unwrap());
        let record = store.catalog().tag(&hub, &app, &tag(&format!("t{number}"))).await.unwrap();
        assert_eq!(record.digest, digest, "round {round}: five contents cannot have come after the last word");
        drop(store);
        closed(&home).await;
    }
    assert!(stored.len() >= 36, "each process stored three contents before it was killed");
}
