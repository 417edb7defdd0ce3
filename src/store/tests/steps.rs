//! The process ends before and after each step of storing and of evicting, in turn. What it leaves is a store: within its budget, with
//! nothing half done, and a catalog that agrees with the folder.

use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;

use super::super::*;
use super::crash::copy;
use super::support::*;

/// Room for two of the contents.
const MAX: u64 = 10_000;

/// The system calls by which a store changes what is on the disk, its catalog included.
const CHANGES: &str =
    "?unlink,unlinkat,?rename,?renameat,renameat2,pwrite64,fdatasync,fsync,ftruncate,fallocate,?chmod,fchmodat,?mkdir,mkdirat";

/// Set for the process that is to be killed: the folder of its store.
const CHILD: &str = "LARDER_TEST_STEPS_CHILD";

/// Two contents that are there before, and two that take their place.
fn contents() -> [Vec<u8>; 4] {
    [bytes(1, 4000), bytes(2, 4500), bytes(3, 5000), bytes(4, 3000)]
}

/// A folder with the first two contents in it.
async fn prepared() -> Home {
    let home = Home::new();
    home.prepare().await;
    let store = home.open_on(MAX, Arc::new(OsFileSystem)).await;
    for content in &contents()[..2] {
        drop(put(&store, content).await.unwrap());
        home.advance(60);
    }
    drop(store);
    closed(&home).await;
    home
}

/// Stores the other two, for which the first two have to go.
async fn replace(store: &Store) {
    for content in &contents()[2..] {
        drop(put(store, content).await.unwrap());
    }
}

/// What must hold of a folder that such a process has left. Tells which of the contents are in it.
async fn is_a_store(home: &Home, when: &str) -> [bool; 4] {
    let store = home.open_walking(MAX, Arc::new(OsFileSystem));
    assert_eq!(home.in_flight(), 0, "{when}: a part is left");
    settled(&store).await;
    let stats = store.stats();
    assert!(stats.bytes <= MAX, "{when}: {stats:?}");
    assert_eq!((stats.bytes, stats.reserved), (home.verified_bytes(), 0), "{when}: what is counted is what is there");
    assert_eq!(stats.catalog_errors, 0, "{when}");
    assert!(stats.disk_errors.iter().all(|(_, count)| *count == 0), "{when}: {stats:?}");
    let there = contents().map(|content| home.blob(&Digest::sha256(&content)).exists());
    for (content, is_there) in contents().iter().zip(there) {
        let found = store.get(&Digest::sha256(content)).await;
        assert_eq!(found.map(|found| &read(&found) == content), is_there.then_some(true), "{when}");
    }
    assert_eq!(stats.blobs, there.iter().filter(|there| **there).count() as u64, "{when}");
    replace(&store).await;
    let last = &contents()[3];
    assert_eq!(&read(&store.get(&Digest::sha256(last)).await.unwrap()), last, "{when}: it goes on");
    let stats = store.stats();
    assert!(stats.bytes <= MAX && stats.bytes == home.verified_bytes(), "{when}: {stats:?}");
    there
}

/// What is there after how much has been done: the first goes, the third comes, the second goes, the fourth comes.
const STAGES: [[bool; 4]; 5] = [
    [true, true, false, false],
    [false, true, false, false],
    [false, true, true, false],
    [false, false, true, false],
    [false, false, true, true],
];

/// What each of the two that come takes of the file system: another one goes, a part is written and becomes a content, whose folder
/// is not there yet.
const OPERATIONS: [&str; 10] =
    ["remove", "create", "write_all_at", "len", "sync_data", "protect", "rename", "create_folder", "rename", "sync_folder"];

#[tokio::test]
async fn whatever_the_last_operation_was_what_is_left_is_a_store() {
    for after_the_fact in [false, true] {
        let (mut stages, mut operations) = (Vec::new(), Vec::new());
        for step in 0.. {
            let (home, left) = (prepared().await, Home::new());
            let (from, to) = (home.dir.path().to_owned(), left.dir.path().to_owned());
            let instead: Arc<dyn Fn() + Send + Sync> = Arc::new(move || copy(&from, &to));
            let fs = FaultFs { after_the_fact, instead: Some(instead), ..FaultFs::one(step) };
            let (count, names) = (Arc::clone(&fs.count), Arc::clone(&fs.names));
            let store = home.open_on(MAX, Arc::new(fs)).await;
            count.store(0, Ordering::SeqCst);
            replace(&store).await;
            let names = names.lock().unwrap().clone();
            assert_eq!(store.stats().evictions, 2);
            let Some(name) = names.get(operations.len()) else {
                assert_eq!(operations, names, "after it: {after_the_fact}");
                break;
            };
            operations.push(*name);
            stages.push(is_a_store(&left, &format!("step {step}, after it: {after_the_fact}")).await);
        }
        stages.dedup();
        assert_eq!(operations, OPERATIONS.repeat(2), "after it: {after_the_fact}");
        // The first operation is the first removal: before it nothing has changed yet.
        assert_eq!(stages, STAGES[usize::from(after_the_fact)..], "after it: {after_the_fact}");
    }
}

/// The disk fails rather than the process: at one operation, at one that is done all the same, or from one on.
#[tokio::test]
async fn whatever_operation_fails_the_accounts_are_right_and_the_next_start_heals() {
    for (for_good, after_the_fact) in [(false, false), (false, true), (true, false)] {
        let mut failed = Vec::new();
        for fails in 0.. {
            let when = format!("step {fails}, for good: {for_good}, after it: {after_the_fact}");
            let home = prepared().await;
            let fs = FaultFs { for_good, after_the_fact, ..FaultFs::one(fails) };
            let (count, names) = (Arc::clone(&fs.count), Arc::clone(&fs.names));
            let store = home.open_on(MAX, Arc::new(fs)).await;
            count.store(0, Ordering::SeqCst);
            let mut stored = 0;
            for content in &contents()[2..] {
                stored += u32::from(put(&store, content).await.is_ok());
            }
            eventually("what was reserved is given back", || store.stats().reserved == 0).await;
            let stats = store.stats();
            assert!(stats.bytes <= MAX, "{when}: {stats:?}");
            if !for_good {
                assert_eq!((stats.bytes, home.in_flight()), (home.verified_bytes(), 0), "{when}");
                assert!(stored > 0, "{when}: one failure is no reason not to store the other content");
            }
            drop(store);
            closed(&home).await;
            is_a_store(&home, &when).await;
            let Some(name) = names.lock().unwrap().get(failed.len()).copied() else { break };
            failed.push(name);
        }
        assert_eq!(failed, OPERATIONS.repeat(2), "for good: {for_good}, after it: {after_the_fact}");
    }
}

/// The process that is to be killed.
async fn replace_in(dir: &str) {
    let config = StoreConfig { dir: dir.into(), max_bytes: MAX };
    let store = Store::open(config, Arc::new(OsFileSystem), Arc::new(crate::util::SystemClock)).unwrap();
    settled(&store).await;
    replace(&store).await;
}

/// Runs that process and has it killed at the n-th change that any of its threads makes.
fn run_until(change: u32, home: &Home) -> ExitStatus {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={CHANGES}")]);
    strace.args(["-e", &format!("inject={CHANGES}:signal=KILL:when={change}")]);
    strace.arg(std::env::current_exe().unwrap());
    strace.args(["--exact", "store::tests::steps::a_process_that_is_killed_at_any_change_leaves_a_store"]);
    strace.env(CHILD, home.dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
    strace.status().unwrap_or_else(|error| panic!("strace: {error}"))
}

#[tokio::test]
async fn a_process_that_is_killed_at_any_change_leaves_a_store() {
    if let Ok(dir) = std::env::var(CHILD) {
        return replace_in(&dir).await;
    }
    let mut stages = Vec::new();
    for change in 1.. {
        let home = prepared().await;
        let status = run_until(change, &home);
        stages.push(is_a_store(&home, &format!("change {change}")).await);
        if status.success() {
            break;
        }
    }
    stages.dedup();
    assert_eq!(stages, STAGES);
}
