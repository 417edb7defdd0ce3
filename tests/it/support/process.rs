//! The binary under test as a process of its own.
//! Starts it, reads what it says, ends it; what it serves is none of its business.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;

use super::PATIENCE;

/// The binary under test.
const LARDER: &str = env!("CARGO_BIN_EXE_larder");

/// What processes have logged, one after the other: a file that they write to themselves, so that what has been said can be read.
pub(super) struct Log(File);

/// A running `larder serve`. It is killed when this is dropped.
pub(super) struct Process {
    child: Child,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Process {
    /// Runs `larder serve` with this configuration file and, if it is given, this limit on open files, and waits until it says where
    /// it listens.
    pub(super) async fn start(config: &Path, open_files: Option<u64>, log: &Log) -> Process {
        let mut command = match open_files {
            Some(limit) => {
                let mut command = clean("prlimit");
                command.arg(format!("--nofile={limit}")).arg(LARDER);
                command
            }
            None => larder(),
        };
        let command = command.args(["serve", "--config"]).arg(config);
        let mut child = command.stdout(Stdio::piped()).stderr(log.as_output()).spawn().unwrap();
        let announced = addresses(child.stdout.take().unwrap());
        let Ok(Ok((listen, admin))) = tokio::time::timeout(PATIENCE, announced).await else {
            let status = child.kill().and_then(|()| child.wait());
            panic!("it did not start ({status:?}):\n{}", log.text());
        };
        Process { child, listen, admin }
    }

    /// Where clients are served.
    pub(super) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where health and metrics are.
    pub(super) fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// A size in bytes that `/proc/PID/status` tells under this name: proc_pid_status(5).
    pub(super) fn status_bytes(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes << 10
    }

    /// How many page faults it has had for which nothing was read from a disk: proc_pid_stat(5), `minflt`.
    pub(super) fn page_faults(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name of the program, in parentheses, is the second field; this is the tenth.
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(7).unwrap().parse().unwrap()
    }

    /// How many descriptors it has open.
    pub(super) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// How many bytes it has read, of files and of what else is read: proc_pid_io(5), `rchar`.
    pub(super) fn bytes_read(&self) -> u64 {
        let io = fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// How it ended, if it did.
    pub(super) fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self) -> ExitStatus {
        let asked = Instant::now();
        loop {
            if let Some(status) = self.status() {
                return status;
            }
            assert!(asked.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Log {
    pub(super) fn new() -> Self {
        Self(tempfile::tempfile().unwrap())
    }

    pub(super) fn text(&self) -> String {
        let mut bytes = vec![0; usize::try_from(self.0.metadata().unwrap().len()).unwrap()];
        // Not by reading on: those who write to it are where they are in it by the same offset.
        self.0.read_exact_at(&mut bytes, 0).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn as_output(&self) -> Stdio {
        self.0.try_clone().unwrap().into()
    }
}

/// Where a process says that it listens, for clients and for its operator.
fn addresses(stdout: impl Read + Send + 'static) -> oneshot::Receiver<(SocketAddr, SocketAddr)> {
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let mut find = |marker: &str| {
            lines.find_map(|line| line.split_once(marker).map(|(_, rest)| rest.to_owned())).and_then(|rest| {
                let rest = rest.strip_prefix("https://").or(rest.strip_prefix("http://"))?;
                rest.split('/').next()?.parse().ok()
            })
        };
        if let (Some(listen), Some(admin)) = (find("listens on "), find("admin    ")) {
            let _ = tell.send((listen, admin));
        }
        // The rest is read so that the process never waits for somebody to do so.
        lines.for_each(drop);
    });
    told
}

/// The binary under test, without what the environment of the tests might configure.
pub(super) fn larder() -> Command {
    clean(LARDER)
}

fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    let proxies = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
    let named = |name: &str| name.starts_with("LARDER_") || proxies.contains(&name.to_ascii_lowercase().as_str());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(named) {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}
