//! System calls of the mirror, seen with `strace`: those that change files, those that are counted, and those that are made to fail. Where `strace` is
//! missing, the test fails.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use super::PATIENCE;

/// The calls by which a process changes what is in a folder, or has that made durable.
const CHANGES: &str = "write,writev,pwrite64,pwritev,pwritev2,sendfile,copy_file_range,fsync,fdatasync,sync_file_range,ftruncate,\
    fallocate,?rename,?renameat,renameat2,?link,linkat,?symlink,symlinkat,?unlink,unlinkat,?mkdir,mkdirat,?rmdir,?chmod,fchmod,\
    fchmodat,?utime,?utimes,utimensat,setxattr,fsetxattr";

/// System calls of a process that fail. When this is dropped they succeed again.
pub(crate) struct Injection(Strace);

/// A process whose changes below a folder are noted.
pub(crate) struct Changes {
    strace: Strace,
    folder: PathBuf,
}

/// System calls of a process that are counted.
pub(crate) struct Calls(Strace);

/// Attached to a process until it is dropped.
struct Strace {
    child: Child,
    trace: NamedTempFile,
}

impl Injection {
    /// Has `calls` of the process fail or kill it, as strace's `inject` says, e.g. `error=EIO:when=3`; if `path` is given, only those
    /// on that file.
    pub(super) async fn attach(pid: u32, calls: &str, fault: &str, path: Option<&Path>) -> Injection {
        let (calls, fault) = (format!("trace={calls}"), format!("inject={calls}:{fault}"));
        let mut options = ["-e", &calls, "-e", &fault].map(OsStr::new).to_vec();
        options.extend(path.into_iter().flat_map(|path| [OsStr::new("-P"), path.as_os_str()]));
        Injection(Strace::attach(pid, &options).await)
    }

    /// Lets calls succeed again. Gives how many have failed.
    pub(crate) fn end(self) -> usize {
        self.0.end().matches("(INJECTED)").count()
    }
}

impl Changes {
    pub(super) async fn attach(pid: u32, folder: PathBuf) -> Changes {
        let calls = format!("trace={CHANGES}");
        // With the paths of descriptors, and what is no text in hexadecimal.
        let options = ["-y", "-x", "-s", "32", "-e", &calls].map(OsStr::new);
        Changes { strace: Strace::attach(pid, &options).await, folder }
    }

    /// The calls so far that changed something, as strace writes them.
    pub(crate) fn end(self) -> Vec<String> {
        let folder = self.folder.to_str().unwrap().to_owned();
        let trace = self.strace.end();
        // Of a call that took its time, the first line has what it was asked for.
        trace.lines().filter(|line| line.contains(&folder) && !line.contains(" resumed>")).map(str::to_owned).collect()
    }
}

impl Calls {
    pub(super) async fn attach(pid: u32, calls: &str) -> Calls {
        let calls = format!("trace={calls}");
        Calls(Strace::attach(pid, &["-e", &calls].map(OsStr::new)).await)
    }

    /// How many there were so far.
    pub(crate) fn end(self) -> usize {
        // One that took its time has two lines.
        self.0.end().lines().filter(|line| line.contains('(') && !line.contains(" resumed>")).count()
    }
}

impl Strace {
    async fn attach(pid: u32, options: &[&OsStr]) -> Strace {
        let mut strace = Command::new("strace");
        let trace = NamedTempFile::new().unwrap();
        strace.args(["-f", "-q", "-p", &pid.to_string(), "-o"]).arg(trace.path()).args(options);
        let child = strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut strace = Strace { child, trace };
        let asked = Instant::now();
        while !is_traced(pid) {
            assert!(strace.child.try_wait().unwrap().is_none(), "strace has ended");
            assert!(asked.elapsed() < PATIENCE, "strace does not attach");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        strace
    }

    /// Detaches. Gives what was traced.
    fn end(mut self) -> String {
        self.detach();
        fs::read_to_string(&self.trace).unwrap()
    }

    fn detach(&mut self) {
        // The process goes on. Fails where it has ended, and strace with it.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        let _ = self.child.wait();
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.detach();
    }
}

/// Whether all threads of the process are traced: proc_pid_status(5).
fn is_traced(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.map(|thread| thread.unwrap().path().join("status")).all(|status| {
        // A thread may have ended in between.
        fs::read_to_string(status).is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
    })
}
