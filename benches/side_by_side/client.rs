//! A client that costs little: HTTP/1.1 on one plain socket, whose bodies are kept, hashed, forgotten or never seen.
//! It knows bodies of a declared length only, and never tries again: anything unexpected is an error.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::{RecvFlags, recv};
use sha2::{Digest as _, Sha256};

/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest head of an answer, in bytes.
const HEAD: usize = 64 * 1024;
/// How much is copied out of the kernel at a time, in bytes.
const PIECE: usize = 256 * 1024;
/// How much the kernel discards at a time, in bytes.
const DISCARDED: usize = 1024 * 1024;
/// The manifests that registries serve, as their clients name them.
pub(crate) const ACCEPT: &str =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, */*";

/// A connection that is kept alive.
pub(crate) struct Client {
    stream: TcpStream,
    address: SocketAddr,
    /// A line of the head of each request, or nothing.
    authorization: String,
    /// What was read beyond a head.
    ahead: Vec<u8>,
}

/// An answer of the expected status, whose body is still to be read: all of it, for the connection to be of further use.
pub(crate) struct Answer<'a> {
    client: &'a mut Client,
    asked: Instant,
    /// In bytes.
    length: u64,
}

impl Client {
    /// Connects.
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("nobody listens at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        Ok(Self { stream, address, authorization: String::new(), ahead: Vec::new() })
    }

    /// The same, with a bearer token for all requests.
    pub(crate) fn with_token(self, token: &str) -> Self {
        Self { authorization: format!("Authorization: Bearer {token}\r\n"), ..self }
    }

    /// Asks for something, and reads the head of the answer.
    ///
    /// # Errors
    ///
    /// The status is not 200, or the body's length is not declared.
    pub(crate) fn get(&mut self, path: &str) -> Result<Answer<'_>> {
        self.request("GET", path, "", "200")
    }

    /// As [`Client::get`], with any method, a body in JSON, and another status to be expected.
    pub(crate) fn request(&mut self, method: &str, path: &str, body: &str, expected: &str) -> Result<Answer<'_>> {
        let asked = Instant::now();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAccept: {ACCEPT}\r\n{}Content-Length: {}\r\n\r\n{body}",
            self.address,
            self.authorization,
            body.len()
        );
        self.stream.write_all(request.as_bytes())?;
        let head = self.read_head().with_context(|| format!("no answer to {method} {path}"))?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        ensure!(status == expected, "{method} {path} was answered {status}:\n{head}{}", String::from_utf8_lossy(&self.ahead));
        let length = head.lines().find_map(content_length).with_context(|| format!("no length of {path} in\n{head}"))?;
        Ok(Answer { client: self, asked, length })
    }

    fn read_head(&mut self) -> Result<String> {
        ensure!(self.ahead.is_empty(), "a body was not read to its end");
        let mut buffer = [0; 4096];
        loop {
            let count = self.stream.read(&mut buffer)?;
            ensure!(count > 0, "the connection ended");
            self.ahead.extend_from_slice(&buffer[..count]);
            if let Some(end) = self.ahead.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = self.ahead.split_off(end + 4);
                return Ok(String::from_utf8(std::mem::replace(&mut self.ahead, rest))?);
            }
            ensure!(self.ahead.len() < HEAD, "the head is longer than {HEAD} bytes");
        }
    }
}

fn content_length(line: &str) -> Option<u64> {
    let (name, value) = line.split_once(':')?;
    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
}

impl Answer<'_> {
    /// Reads the body and forgets it. Tells how long after the request its first byte came.
    pub(crate) fn forget(self) -> Result<Duration> {
        self.read(&mut vec![0; PIECE], RecvFlags::empty(), |_| {})
    }

    /// As [`Answer::forget`], but the bytes never leave the kernel, so that the client takes little from the server.
    pub(crate) fn discard(self) -> Result<Duration> {
        // TRUNC discards what comes over TCP instead of copying it: tcp(7).
        self.read(&mut vec![0; DISCARDED], RecvFlags::TRUNC, |_| {})
    }

    /// Reads the body and hashes it, as every client of a registry does. Tells how long after the request its first byte came.
    ///
    /// # Errors
    ///
    /// It is not what `digest`, a SHA-256 one, names.
    pub(crate) fn verify(self, digest: &str) -> Result<Duration> {
        let mut hasher = Sha256::new();
        let first_byte = self.read(&mut vec![0; PIECE], RecvFlags::empty(), |bytes| hasher.update(bytes))?;
        let hex: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        ensure!(digest.strip_prefix("sha256:") == Some(&hex), "{digest} was asked for, and sha256:{hex} came");
        Ok(first_byte)
    }

    /// Reads the body, and keeps it.
    pub(crate) fn keep(self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        self.read(&mut vec![0; PIECE], RecvFlags::empty(), |bytes| body.extend_from_slice(bytes))?;
        Ok(body)
    }

    /// Reads the body piece by piece into `buffer`; returns the time from the request to the first byte.
    fn read(self, buffer: &mut [u8], flags: RecvFlags, mut take: impl FnMut(&[u8])) -> Result<Duration> {
        let ahead = std::mem::take(&mut self.client.ahead);
        let mut first_byte = (!ahead.is_empty()).then(|| self.asked.elapsed());
        take(&ahead);
        let mut left = self.length.checked_sub(ahead.len() as u64).context("more came than was declared")?;
        while left > 0 {
            let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let (count, _) = recv(&self.client.stream, &mut buffer[..most], flags).context("the body stopped")?;
            ensure!(count > 0, "the body ended {left} bytes short of {}", self.length);
            first_byte.get_or_insert_with(|| self.asked.elapsed());
            take(&buffer[..count]);
            left -= count as u64;
        }
        Ok(first_byte.unwrap_or_else(|| self.asked.elapsed()))
    }
}
