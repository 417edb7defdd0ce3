//! Many requests for one small thing: from one thread, as fast as answers come, or at a rate, whatever the server makes of it.
//! It counts and times whole answers; whether they are the right ones is checked before, by the other client.

use std::io::{Read, Write};
use std::net::{self, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::client::ACCEPT;

/// How long the last answers may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest answer, in bytes.
const BUFFER: usize = 64 * 1024;

/// How a server bore it.
pub(crate) struct Load {
    /// How many answers came.
    pub(crate) answers: u64,
    /// From the first request to the last answer.
    pub(crate) took: Duration,
    /// What 99 of 100 answers did not take longer than.
    pub(crate) p99: Duration,
}

/// Over what requests come.
#[derive(Clone, Copy)]
pub(crate) enum Connections {
    /// So many at a time, each kept for many requests.
    Kept(usize),
    /// So many at a time, each for one request.
    Fresh(usize),
}

/// Asks for what is `length` bytes long, for so long over so many connections at once, each as fast as answers come.
///
/// # Errors
///
/// An answer is not 200, or is not of that length, or a connection ends.
pub(crate) fn run(address: SocketAddr, path: &str, length: u64, connections: Connections, duration: Duration) -> Result<Load> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (count, ending) = match connections {
        Connections::Kept(count) => (count, ""),
        Connections::Fresh(count) => (count, "Connection: close\r\n"),
    };
    let request = request(address, path, ending);
    let length = usize::try_from(length)?;
    runtime.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..count {
            streams.push(match connections {
                Connections::Kept(_) => Some(connect(address).await?),
                Connections::Fresh(_) => None,
            });
        }
        let begun = Instant::now();
        let end = begun + duration;
        let mut asking: JoinSet<_> =
            streams.into_iter().map(|stream| ask(address, stream, request.clone(), length, end)).collect();
        let all = async {
            let mut times = Vec::new();
            while let Some(asked) = asking.join_next().await {
                times.append(&mut asked??);
            }
            anyhow::Ok(times)
        };
        let times = tokio::time::timeout(duration + PATIENCE, all).await.context("answers do not come to an end")??;
        let took = begun.elapsed();
        Ok(Load { answers: times.len() as u64, took, p99: p99(times)? })
    })
}

/// Asks for what is `length` bytes long, so many times a second, for so long, over so many connections in turn, each of which has a thread of
/// its own: two servers that are asked so bear the same load. Returns what 99 of 100 answers did not take longer than, from when they
/// were to be asked for: what comes late makes what is asked for next late, too.
///
/// # Errors
///
/// As for [`run`].
pub(crate) fn run_at_rate(
    address: SocketAddr,
    path: &str,
    length: u64,
    connections: u32,
    rate: u32,
    duration: Duration,
) -> Result<Duration> {
    let request = request(address, path, "");
    let length = usize::try_from(length)?;
    let between = Duration::from_secs(1) / rate;
    // Those that come last are not late for it.
    let begin = Instant::now() + Duration::from_millis(20);
    let asked: Result<Vec<_>> = thread::scope(|scope| {
        let asking: Vec<_> = (0..connections)
            .map(|at| {
                let request = request.as_bytes();
                let first = begin + between * at;
                scope.spawn(move || ask_at(address, request, length, first, between * connections, begin + duration))
            })
            .collect();
        asking.into_iter().map(|asking| asking.join().expect("who asks does not panic")).collect()
    });
    p99(asked?.concat())
}

fn request(address: SocketAddr, path: &str, ending: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {ACCEPT}\r\n{ending}\r\n")
}

fn p99(mut times: Vec<Duration>) -> Result<Duration> {
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().context("no answer came")
}

/// Asks over one connection, at `due` and again after each `period`, until `end`; returns how long after that each answer was there.
fn ask_at(
    address: SocketAddr,
    request: &[u8],
    length: usize,
    mut due: Instant,
    period: Duration,
    end: Instant,
) -> Result<Vec<Duration>> {
    let mut stream = net::TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut times = Vec::new();
    let mut buffer = vec![0; BUFFER];
    while due < end {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(request)?;
        let mut arriving = Arriving::new(&mut buffer, length);
        let mut is_whole = false;
        while !is_whole {
            let count = stream.read(arriving.room())?;
            is_whole = arriving.take(count)?;
        }
        times.push(due.elapsed());
        due += period;
    }
    Ok(times)
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Asks over one connection, or over a new one each time, until `end`; returns how long each answer took.
async fn ask(
    address: SocketAddr,
    mut kept: Option<TcpStream>,
    request: String,
    length: usize,
    end: Instant,
) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut buffer = vec![0; BUFFER];
    let mut begun = Instant::now();
    while begun < end {
        let mut fresh = None;
        let stream = match &mut kept {
            Some(stream) => stream,
            None => fresh.insert(connect(address).await?),
        };
        stream.write_all(request.as_bytes()).await?;
        let mut arriving = Arriving::new(&mut buffer, length);
        let mut is_whole = false;
        while !is_whole {
            let count = stream.read(arriving.room()).await?;
            is_whole = arriving.take(count)?;
        }
        let now = Instant::now();
        times.push(now - begun);
        begun = now;
    }
    Ok(times)
}

/// An answer on its way.
struct Arriving<'a> {
    buffer: &'a mut [u8],
    filled: usize,
    /// Of the body.
    length: usize,
    /// How long all of it is, once its head is there.
    whole: Option<usize>,
}

impl<'a> Arriving<'a> {
    fn new(buffer: &'a mut [u8], length: usize) -> Self {
        Self { buffer, filled: 0, length, whole: None }
    }

    /// Where what comes next is to be put.
    fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// Takes the `count` bytes that were put there. Whether all of it is there now.
    fn take(&mut self, count: usize) -> Result<bool> {
        let told = |buffer: &[u8]| String::from_utf8_lossy(buffer).into_owned();
        ensure!(count > 0, "the connection ended after {}", told(&self.buffer[..self.filled]));
        self.filled += count;
        let answer = &self.buffer[..self.filled];
        if self.whole.is_none() {
            let head = answer.windows(4).position(|window| window == b"\r\n\r\n");
            self.whole = head.map(|end| end + 4 + self.length);
        }
        if self.whole.is_none_or(|whole| self.filled < whole) {
            return Ok(false);
        }
        let is_right = answer.starts_with(b"HTTP/1.1 200 ") && self.whole == Some(self.filled);
        ensure!(is_right, "an answer is not 200 with {} bytes: {}", self.length, told(answer));
        Ok(true)
    }
}
