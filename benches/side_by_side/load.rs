//! Many requests for one small thing over connections that are kept alive, from one thread.
//! It counts and times whole answers; whether they are the right ones is checked before, by the other client.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::client::ACCEPT;

/// How long the last answers may take.
const PATIENCE: Duration = Duration::from_secs(30);

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
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {ACCEPT}\r\n{ending}\r\n");
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
        let mut times = tokio::time::timeout(duration + PATIENCE, all).await.context("answers do not come to an end")??;
        let took = begun.elapsed();
        times.sort_unstable();
        let p99 = times.get(times.len() * 99 / 100).copied().context("no answer came")?;
        Ok(Load { answers: times.len() as u64, took, p99 })
    })
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
    let mut buffer = vec![0; 64 * 1024];
    let mut begun = Instant::now();
    while begun < end {
        let mut fresh = None;
        let stream = match &mut kept {
            Some(stream) => stream,
            None => fresh.insert(connect(address).await?),
        };
        stream.write_all(request.as_bytes()).await?;
        read_answer(stream, &mut buffer, length).await?;
        let now = Instant::now();
        times.push(now - begun);
        begun = now;
    }
    Ok(times)
}

async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8], length: usize) -> Result<()> {
    let mut filled = 0;
    let mut whole = None;
    while whole.is_none_or(|whole| filled < whole) {
        let count = stream.read(&mut buffer[filled..]).await?;
        ensure!(count > 0, "the connection ended after {}", String::from_utf8_lossy(&buffer[..filled]));
        filled += count;
        if whole.is_none() {
            let head = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n");
            whole = head.map(|end| end + 4 + length);
        }
    }
    let is_right = buffer.starts_with(b"HTTP/1.1 200 ") && whole == Some(filled);
    ensure!(is_right, "an answer is not 200 with {length} bytes: {}", String::from_utf8_lossy(&buffer[..filled]));
    Ok(())
}
