//! The mirror under test: configured, started, asked, looked at, killed, started again.
//! Looks at it from outside only: over its listeners, at its folder, in `/proc`, in its log.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use larder_testkit::{Digest, Hub};
use rustix::process::Signal;
use tempfile::TempDir;

use super::PATIENCE;
use super::client::{Answer, Connection, Download};
use super::metrics::Metrics;
use super::process::{self, Log, Process};
use super::strace::{Calls, Changes, Injection};

/// Prepares a [`Larder`]. Its ports are free ones, its cache is a new folder.
pub(crate) struct Builder {
    config: toml::Table,
    dir: TempDir,
    open_files: Option<u64>,
}

/// A running mirror. It is killed, and in a test that fails its log is printed, when this is dropped.
pub(crate) struct Larder {
    config: toml::Table,
    dir: TempDir,
    open_files: Option<u64>,
    log: Log,
    process: Process,
}

/// A run that came to its end by itself.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    /// Standard output and error.
    pub(crate) said: String,
}

impl Builder {
    /// Points an upstream's name at this hub.
    pub(crate) fn upstream(self, name: &str, hub: &Hub) -> Builder {
        let config = self.config(&format!("upstreams.{name:?}.url = {:?}", hub.url()));
        match hub.ca_pem() {
            None => config,
            Some(pem) => {
                let file = config.file(&format!("{name}-ca.pem"), pem);
                config.config(&format!("upstreams.{name:?}.ca_file = {file:?}"))
            }
        }
    }

    /// Adds this to the configuration, or puts it in place of what was said before.
    pub(crate) fn config(mut self, snippet: &str) -> Builder {
        merge(&mut self.config, snippet.parse().unwrap());
        self
    }

    /// Has the process open no more than so many files, sockets included.
    pub(crate) fn open_files(mut self, most: u64) -> Builder {
        self.open_files = Some(most);
        self
    }

    /// Writes a file that the configuration can name.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        write(self.dir.path(), name, content)
    }

    pub(crate) async fn start(self) -> Larder {
        let file = self.file("larder.toml", &self.config.to_string());
        let Builder { config, dir, open_files } = self;
        let log = Log::new();
        let process = Process::start(&file, open_files, &log).await;
        Larder { config, dir, open_files, log, process }
    }

    /// Runs `larder` with this command (`serve`, `check-config`) on a configuration that is expected to be refused.
    pub(crate) fn run(self, command: &str) -> Run {
        let file = self.file("larder.toml", &self.config.to_string());
        let mut larder = process::larder();
        match command {
            "serve" => larder.args(["serve", "--config"]).arg(file),
            other => larder.arg(other).arg(file),
        };
        let output = larder.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        Run { status: output.status, said: String::from_utf8(said).unwrap() }
    }
}

impl Larder {
    pub(crate) fn builder() -> Builder {
        let dir = tempfile::tempdir().unwrap();
        let builder = Builder { config: toml::Table::new(), dir, open_files: None };
        let cache = builder.dir.path().join("cache");
        let defaults = format!(
            r#"
            listen = "127.0.0.1:0"
            admin.listen = "127.0.0.1:0"
            cache.dir = {cache:?}
            cache.max_size = "4GB"
            cache.min_free = "100MB"
            log.level = "debug"
            "#
        );
        builder.config(&defaults)
    }

    /// One whose Docker Hub is this hub.
    pub(crate) async fn of(hub: &Hub) -> Larder {
        Larder::builder().upstream("docker.io", hub).start().await
    }

    /// One whose Docker Hub is this hub, with this besides in its configuration.
    pub(crate) async fn with(hub: &Hub, snippet: &str) -> Larder {
        Larder::builder().upstream("docker.io", hub).config(snippet).start().await
    }

    // --- asking it ---

    /// Where clients are served.
    pub(crate) fn address(&self) -> SocketAddr {
        self.process.listen()
    }

    /// Where health and metrics are.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.process.admin()
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(self.process.listen()).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        self.connect().await.ask(method, target, headers).await
    }

    pub(crate) async fn get(&self, target: impl AsRef<str>) -> Answer {
        self.ask("GET", target.as_ref(), &[]).await
    }

    /// A GET from this address of the machine's own.
    pub(crate) async fn get_from(&self, source: IpAddr, target: impl AsRef<str>) -> Answer {
        Connection::open_from(source, self.address()).await.ask("GET", target.as_ref(), &[]).await
    }

    pub(crate) async fn head(&self, target: impl AsRef<str>) -> Answer {
        self.ask("HEAD", target.as_ref(), &[]).await
    }

    pub(crate) async fn get_range(&self, target: impl AsRef<str>, range: &str) -> Answer {
        self.ask("GET", target.as_ref(), &[("Range", range)]).await
    }

    /// A GET whose body is hashed and not kept.
    pub(crate) async fn download(&self, target: impl AsRef<str>) -> Download {
        let mut connection = self.connect().await;
        connection.request("GET", target.as_ref(), &[]).await;
        connection.download().await
    }

    /// A GET at the admin listener.
    pub(crate) async fn admin_get(&self, target: &str) -> Answer {
        Connection::open(self.process.admin()).await.ask("GET", target, &[]).await
    }

    /// One request of any kind to the admin listener.
    pub(crate) async fn admin_ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        Connection::open(self.process.admin()).await.ask(method, target, headers).await
    }

    // --- looking at it ---

    pub(crate) async fn metrics(&self) -> Metrics {
        let answer = self.admin_get("/metrics").await;
        assert_eq!(answer.status(), 200);
        Metrics::parse(std::str::from_utf8(&answer.body).unwrap())
    }

    /// Waits until this is true of the metrics.
    pub(crate) async fn until(&self, is_so: impl Fn(&Metrics) -> bool) {
        let asked = Instant::now();
        while !is_so(&self.metrics().await) {
            assert!(asked.elapsed() < PATIENCE, "in vain for {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What it says of its readiness.
    pub(crate) async fn readiness(&self) -> (u16, String) {
        let answer = self.admin_get("/readyz").await;
        (answer.status(), String::from_utf8(answer.body).unwrap())
    }

    /// Waits until it says this of its readiness, among others.
    pub(crate) async fn until_readiness_says(&self, part: &str) {
        let asked = Instant::now();
        loop {
            let (status, said) = self.readiness().await;
            assert_eq!(status, 200, "{said}");
            if said.contains(part) {
                return;
            }
            assert!(asked.elapsed() < PATIENCE, "{part:?} was not said for {PATIENCE:?}, but {said:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until Docker Hub is asked again, after it was left alone.
    pub(crate) async fn until_asking(&self) {
        let series = ["upstream_open", "upstream_limited_seconds"].map(|name| format!("{name}{{upstream=\"docker.io\"}}"));
        self.until(|metrics| series.iter().all(|series| metrics.get(series) == 0.0)).await;
    }

    /// Waits until nothing is in flight. A client has the last byte of a blob a moment before the blob is at rest.
    pub(crate) async fn until_idle(&self) {
        self.until(|metrics| metrics.get("fills_in_flight") == 0.0).await;
    }

    /// All that it has logged, over restarts.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// The access lines of the log that have this in them.
    pub(crate) fn access_lines(&self, part: &str) -> Vec<String> {
        let log = self.log();
        log.lines().filter(|line| line.contains("larder::access") && line.contains(part)).map(str::to_owned).collect()
    }

    /// Waits until the log has this in it.
    pub(crate) async fn until_logged(&self, part: &str) {
        let asked = Instant::now();
        while !self.log().contains(part) {
            assert!(asked.elapsed() < PATIENCE, "{part:?} was not logged for {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The folder of the cache.
    pub(crate) fn cache(&self) -> PathBuf {
        PathBuf::from(self.config["cache"]["dir"].as_str().unwrap())
    }

    /// The file that a blob or manifest is in, once it is at rest.
    pub(crate) fn blob_file(&self, digest: &Digest) -> PathBuf {
        let (algorithm, hex) = digest.as_str().split_once(':').unwrap();
        self.cache().join("blobs").join(algorithm).join(&hex[..2]).join(hex)
    }

    /// Whether a blob or manifest is at rest.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.blob_file(digest).exists()
    }

    /// All files at rest or in flight, relative to the folder of the cache.
    pub(crate) fn cache_files(&self) -> Vec<PathBuf> {
        let cache = self.cache();
        let all = ["blobs", "ingest"].iter().flat_map(|part| files_below(&cache.join(part)));
        all.map(|path| path.strip_prefix(&cache).unwrap().to_owned()).collect()
    }

    /// Every file in the folder of the test, for what must not be in any of them.
    pub(crate) fn all_files(&self) -> Vec<PathBuf> {
        files_below(self.dir.path())
    }

    /// Writes a file that the configuration can name.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        write(self.dir.path(), name, content)
    }

    /// Makes a file at rest, which is read-only, into this.
    pub(crate) fn spoil(&self, digest: &Digest, content: &[u8]) {
        let path = self.blob_file(digest);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, content).unwrap();
    }

    /// The memory that the process has resident, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.process.status_bytes("VmRSS")
    }

    /// The most memory that the process has had resident, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.process.status_bytes("VmHWM")
    }

    /// How many pages of memory the system has given to the process so far.
    pub(crate) fn page_faults(&self) -> u64 {
        self.process.page_faults()
    }

    /// How many descriptors the process has open.
    pub(crate) fn descriptors(&self) -> usize {
        self.process.descriptors()
    }

    /// Waits until it has no more than so many descriptors open. The connections to upstreams that nobody has used for half a minute
    /// are closed, but it is looked for such ones only every half minute.
    pub(crate) async fn until_descriptors(&self, most: usize) {
        let asked = Instant::now();
        while self.descriptors() > most {
            assert!(asked.elapsed() < 2 * PATIENCE, "{} descriptors are open, and not {most} at the most", self.descriptors());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the process has read so many bytes since it was started.
    pub(crate) async fn until_it_has_read(&self, bytes: u64) {
        let asked = Instant::now();
        while self.process.bytes_read() < bytes {
            assert!(asked.elapsed() < PATIENCE, "{bytes} bytes were not read for {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Runs another command of `larder` on the same configuration, whether or not the mirror runs.
    pub(crate) fn tool(&self, args: &[&str]) -> Run {
        let output = process::larder().args(args).arg("--config").arg(self.dir.path().join("larder.toml")).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        Run { status: output.status, said: String::from_utf8(said).unwrap() }
    }

    /// Waits until it is known that all of these were asked for in vain: of who has left, or been left, that is noted behind him.
    pub(crate) async fn until_missing(&self, names: &[String]) {
        let asked = Instant::now();
        loop {
            let listed = self.tool(&["missing"]).said;
            if names.iter().all(|name| listed.lines().any(|line| line.split(' ').next() == Some(name))) {
                return;
            }
            assert!(asked.elapsed() < PATIENCE, "these are not missing for {PATIENCE:?}: {names:?}\n{listed}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Has system calls of the process fail, on the file at `path` only if one is given: see [`Injection::attach`].
    pub(crate) async fn inject(&self, calls: &str, fault: &str, path: Option<&Path>) -> Injection {
        Injection::attach(self.process.id(), calls, fault, path).await
    }

    /// Notes what the process changes below the folder of the cache.
    pub(crate) async fn changes(&self) -> Changes {
        Changes::attach(self.process.id(), self.cache()).await
    }

    /// Counts these system calls of the process.
    pub(crate) async fn calls(&self, calls: &str) -> Calls {
        Calls::attach(self.process.id(), calls).await
    }

    // --- ending it ---

    /// Asks the process to stop, waits for that, and starts another one on the same cache.
    pub(crate) async fn restart(&mut self) {
        self.stop(Signal::TERM);
        self.start_again().await;
    }

    /// The same, with this put into the configuration.
    pub(crate) async fn restart_with(&mut self, snippet: &str) {
        merge(&mut self.config, snippet.parse().unwrap());
        self.restart().await;
    }

    /// Changes its configuration file; it has been read already.
    pub(crate) fn edit_config(&self, snippet: &str) {
        let mut config = self.config.clone();
        merge(&mut config, snippet.parse().unwrap());
        write(self.dir.path(), "larder.toml", &config.to_string());
    }

    /// Kills the process as a power cut would, and starts another one on the same cache.
    pub(crate) async fn kill9_and_restart(&mut self) {
        self.kill9();
        self.start_again().await;
    }

    pub(crate) fn kill9(&mut self) {
        let status = self.stop(Signal::KILL);
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Sends a signal, and waits for the end of the process.
    pub(crate) fn stop(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.wait()
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.process.wait()
    }

    /// Whether the process runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.process.status().is_none()
    }

    /// Starts the process on the same cache, when it has ended.
    pub(crate) async fn start_again(&mut self) {
        let file = self.file("larder.toml", &self.config.to_string());
        self.process = Process::start(&file, self.open_files, &self.log).await;
    }
}

impl Drop for Larder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of the mirror ---\n{}---", self.log.text());
        }
    }
}

fn write(dir: &Path, name: &str, content: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    path
}

/// Puts what `more` says into `config`, table by table.
fn merge(config: &mut toml::Table, more: toml::Table) {
    for (key, value) in more {
        match (config.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => drop(config.insert(key, value)),
        }
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}
