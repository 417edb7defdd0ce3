//! `larder serve` on a folder, as a process: started, asked over HTTP, weighed, stopped or killed. Its one upstream is not there.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use larder::oci::Digest;
use rustix::process::{Pid, Signal, kill_process};

use crate::folder::Image;

/// How long anything may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(1800);

/// What the log says when the catalog agrees with the folder.
const AGREEMENT: &str = "in agreement with the folder";

/// A running `larder serve`. Dropping it kills it.
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
    begun: Instant,
    address: SocketAddr,
}

/// A connection that is kept.
pub(crate) struct Client(BufReader<TcpStream>);

impl Server {
    /// Starts it, and does not wait.
    pub(crate) fn start(dir: &Path, scratch: &Path) -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let nowhere = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = scratch.join("larder.toml");
        let text = format!(
            "listen = \"{address}\"\nadmin.listen = \"127.0.0.1:0\"\nlog.level = \"info\"\n[cache]\ndir = {:?}\nmax_size = \"1TB\"\nmin_free = \"1MB\"\n\
             [upstreams.\"docker.io\"]\nurl = \"http://{nowhere}\"\n",
            dir
        );
        fs::write(&config, text)?;
        let log = scratch.join("larder.log");
        let output = File::create(&log)?;
        let begun = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_larder"))
            .args(["serve", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("larder does not start")?;
        Ok(Self { child, log, begun, address })
    }

    /// Since the process was started.
    pub(crate) fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// A connection, as soon as there is somebody to connect to.
    pub(crate) fn connect(&mut self) -> Result<Client> {
        loop {
            match TcpStream::connect(self.address) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(Client(BufReader::new(stream)));
                }
                Err(error) if self.age() > PATIENCE => return Err(error).context("larder does not listen"),
                Err(_) => sleep(Duration::from_millis(1)),
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("larder ended, {status}, having said:\n{}", self.said());
            }
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether the catalog agrees with the folder.
    pub(crate) fn is_settled(&self) -> bool {
        self.said().contains(AGREEMENT)
    }

    pub(crate) fn await_settled(&self) -> Result<()> {
        while !self.is_settled() {
            ensure!(self.age() < PATIENCE, "the catalog does not come to agree with the folder");
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Its largest resident set so far, in bytes: proc(5), `VmHWM`.
    pub(crate) fn peak_memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(1024 * kilobytes.context("no VmHWM in the status of the process")?)
    }

    /// Has it stop in order.
    pub(crate) fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::TERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "larder ended, {status}, having said:\n{}", self.said());
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop).context("larder cannot be waited for")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended, and then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Client {
    /// Pulls the manifest of an image by its tag, and one of its blobs. Both must be what they should be.
    pub(crate) fn pull(&mut self, image: Image, blob: usize) -> Result<()> {
        let repository = image.repository();
        let manifest = self.get(&format!("/v2/{repository}/manifests/{}", image.tag()))?;
        ensure!(manifest == image.manifest().as_bytes(), "this is not the manifest of image {}", image.0);
        let expected = image.blobs().nth(blob).context("an image has less blobs")?;
        let found = self.get(&format!("/v2/{repository}/blobs/{}", Digest::sha256(&expected)))?;
        ensure!(found == expected, "this is not a blob of image {}", image.0);
        Ok(())
    }

    fn get(&mut self, target: &str) -> Result<Vec<u8>> {
        self.0.get_mut().write_all(format!("GET {target} HTTP/1.1\r\nHost: larder\r\n\r\n").as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let status = line.trim().to_owned();
        let mut length = 0;
        loop {
            line.clear();
            ensure!(self.0.read_line(&mut line)? > 0, "the connection ended in the head of an answer to {target}");
            match line.trim().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse()?,
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        ensure!(status.contains(" 200 "), "{status} for {target}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }
}
