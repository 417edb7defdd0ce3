//! A server as a process: started with its output in a file, weighed with all its children, ended in order.
//! It knows nothing of what the server serves.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::param::clock_ticks_per_second;
use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is asked whether it listens.
const PAUSE: Duration = Duration::from_millis(5);

/// A running server. Dropping it ends it.
pub(crate) struct Process {
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts a server that will listen at `address`, and waits until it does. Its output goes to the file `output`.
    pub(crate) fn start(command: &mut Command, address: SocketAddr, output: &Path) -> Result<Self> {
        let file = File::create(output).with_context(|| format!("cannot write {}", output.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{} does not start", command.get_program().display()))?;
        let mut process = Self { child, output: output.to_owned() };
        process.await_listening(address)?;
        Ok(process)
    }

    fn await_listening(&mut self, address: SocketAddr) -> Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            let output = || fs::read_to_string(&self.output).unwrap_or_default();
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended, {status}, having said:\n{}", output());
            }
            if begun.elapsed() > PATIENCE {
                bail!("the server does not listen at {address} after {PATIENCE:?}, having said:\n{}", output());
            }
            sleep(PAUSE);
        }
        Ok(())
    }

    /// The processor time that it and its children have used, in user and kernel mode, to a tick (mostly 10 ms) each.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let ticks = self.family()?.iter().map(|stat| stat.ticks).sum::<u64>();
        Ok(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
    }

    /// The memory that it and its children occupy, in bytes. What they share is counted once (it is the proportional set size).
    pub(crate) fn memory(&self) -> Result<u64> {
        self.family()?.iter().map(|stat| proportional_set_size(stat.pid)).sum()
    }

    /// The most memory that it and its living children have occupied so far, each for itself, in bytes: proc(5), `VmHWM`. What they
    /// share counts for each of them.
    pub(crate) fn peak_memory(&self) -> Result<u64> {
        self.family()?.iter().map(|stat| kilobytes(&format!("/proc/{}/status", stat.pid), "VmHWM:")).sum()
    }

    /// It and its living descendants.
    fn family(&self) -> Result<Vec<Stat>> {
        let mut others = all_processes()?;
        let mut family: Vec<Stat> = others.extract_if(.., |stat| stat.pid == self.child.id()).collect();
        let mut next = 0;
        while let Some(parent) = family.get(next).map(|stat| stat.pid) {
            family.extend(others.extract_if(.., |stat| stat.parent == parent));
            next += 1;
        }
        Ok(family)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // By a signal that it can hear: nginx leaves its workers behind if it is killed.
        let is_asked = Pid::from_raw(self.child.id().cast_signed()).is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        if is_asked && let Err(error) = self.child.wait() {
            eprintln!("a server may still run: {error}");
        }
    }
}

/// What /proc/PID/stat tells: proc_pid_stat(5).
struct Stat {
    pid: u32,
    parent: u32,
    /// Processor time of its own and of the children that it has buried.
    ticks: u64,
}

fn all_processes() -> Result<Vec<Stat>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(line) => all.push(parse(pid, &line).with_context(|| format!("process {pid} has an odd status: {line}"))?),
            // It has ended since.
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_no_such_process(&error) => {}
            Err(error) => return Err(error).context("cannot read the state of a process"),
        }
    }
    Ok(all)
}

fn is_no_such_process(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn parse(pid: u32, line: &str) -> Option<Stat> {
    // The second field is the program's name, in parentheses, which may hold anything.
    let (_, fields) = line.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let parent = fields.get(1)?.parse().ok()?;
    // Fields 14 to 17 of the line: utime, stime, cutime, cstime.
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum::<Option<u64>>()?;
    Some(Stat { pid, parent, ticks })
}

fn proportional_set_size(pid: u32) -> Result<u64> {
    kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// What a file of the system's tells in kilobytes, in bytes.
fn kilobytes(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(1024 * kilobytes.with_context(|| format!("{path} tells no {name}\n{text}"))?)
}
