//! An HTTP/1.1 client on a bare socket, which says exactly what is sent and tells exactly how an answer ended.
//! Follows nothing, retries nothing and hides nothing.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use larder_testkit::{Algorithm, Digest, Hasher};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// How long a test waits for the next byte.
const PATIENCE: Duration = Duration::from_secs(60);

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As its framing says.
    Complete,
    /// By FIN, before that.
    Fin,
    /// By RST, before that.
    Reset,
}

/// Status and header fields of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
}

/// An answer with its body in memory.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

/// An answer whose body was looked at and dropped.
#[derive(Clone, Debug)]
pub(crate) struct Download {
    pub(crate) head: Head,
    /// Of the body.
    pub(crate) bytes: u64,
    /// What the body hashes to.
    pub(crate) digest: Digest,
    pub(crate) end: End,
}

/// A connection that stays open between requests.
pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Head {
    /// The value of a header field; of several of this name, the first one's.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let same = |(key, _): &&(String, String)| key.eq_ignore_ascii_case(name);
        self.headers.iter().find(same).map(|(_, value)| value.as_str())
    }

    fn framing(&self) -> Framing {
        if self.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return Framing::Chunked;
        }
        match self.header("content-length") {
            Some(length) => Framing::Length(length.parse().unwrap()),
            None if self.status == 204 || self.status == 304 => Framing::Length(0),
            None => Framing::UntilClose,
        }
    }
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of an error answer, which has to have the form and the header fields that clients expect of one.
    pub(crate) fn error_code(&self) -> String {
        assert!(self.status() >= 400, "no error: {self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        assert_eq!(self.header("docker-distribution-api-version"), Some("registry/2.0"), "{self:?}");
        assert_eq!(self.header("www-authenticate"), None, "a mirror solicits no credentials: {self:?}");
        let document = self.json();
        let error = &document["errors"][0];
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{document}");
        error["code"].as_str().unwrap().to_owned()
    }

    /// Status and code of an error answer.
    pub(crate) fn error(&self) -> (u16, String) {
        (self.status(), self.error_code())
    }

    /// The member of `Cache-Status` (RFC 9211).
    pub(crate) fn cache_status(&self) -> &str {
        self.header("cache-status").unwrap_or_default()
    }
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Connection {
        Connection { stream: TcpStream::connect(address).await.unwrap(), received: Vec::new() }
    }

    /// A connection from this address of the machine's own.
    pub(crate) async fn open_from(source: IpAddr, address: SocketAddr) -> Connection {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source, 0)).unwrap();
        Connection { stream: socket.connect(address).await.unwrap(), received: Vec::new() }
    }

    /// Sends these bytes, whatever they are; `false` if the other side has closed before it took them all.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        match self.stream.write_all(bytes.as_ref()).await {
            Ok(()) => true,
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Sends a request without a body.
    pub(crate) async fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) {
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str("Host: mirror.test\r\n");
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.send(head).await;
    }

    /// Sends a request without a body, and reads the answer.
    pub(crate) async fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        self.request(method, target, headers).await;
        self.answer(method).await
    }

    /// Reads the answer to a request of this method.
    pub(crate) async fn answer(&mut self, method: &str) -> Answer {
        let head = self.head().await;
        let mut body = Vec::new();
        let end = match method {
            "HEAD" => End::Complete,
            _ => self.body(&head, &mut |bytes| body.extend_from_slice(bytes)).await,
        };
        Answer { head, body, end }
    }

    /// Reads an answer, and keeps of its body only what it hashes to.
    pub(crate) async fn download(&mut self) -> Download {
        let head = self.head().await;
        self.rest(head).await
    }

    /// Reads the body of an answer whose head is read, and keeps of it only what it hashes to.
    pub(crate) async fn rest(&mut self, head: Head) -> Download {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut count = 0;
        let mut take = |bytes: &[u8]| {
            count += bytes.len() as u64;
            hasher.update(bytes);
        };
        let end = self.body(&head, &mut take).await;
        Download { head, bytes: count, digest: hasher.finish(), end }
    }

    /// Reads the head of an answer.
    pub(crate) async fn head(&mut self) -> Head {
        self.head_or_end().await.unwrap_or_else(|end| panic!("no answer came, but {end:?}"))
    }

    /// Reads the head of an answer, or how the connection ended without one.
    pub(crate) async fn head_or_end(&mut self) -> Result<Head, End> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut parsed = httparse::Response::new(&mut fields);
            if let httparse::Status::Complete(used) = parsed.parse(&self.received).unwrap() {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                let headers = parsed.headers.iter().map(|field| (field.name.to_owned(), text(field.value))).collect();
                let head = Head { status: parsed.code.unwrap(), headers };
                self.received.drain(..used);
                return Ok(head);
            }
            self.more().await?;
        }
    }

    /// Waits until so many bytes of a body that is not chunked are here. They stay for [`Connection::rest`].
    pub(crate) async fn until_received(&mut self, bytes: usize) {
        while self.received.len() < bytes {
            let end = self.more().await;
            assert_eq!(end, Ok(()), "after {} bytes, where {bytes} should come", self.received.len());
        }
    }

    /// Reads to the end of the connection, which has nothing more to say: how it ended, and what it said all the same.
    pub(crate) async fn end(&mut self) -> (End, Vec<u8>) {
        loop {
            if let Err(end) = self.more().await {
                return (end, std::mem::take(&mut self.received));
            }
        }
    }

    async fn body(&mut self, head: &Head, take: &mut (dyn FnMut(&[u8]) + Send)) -> End {
        let read = match head.framing() {
            Framing::Length(length) => self.pass(length, take).await,
            Framing::UntilClose => match self.pass(u64::MAX, take).await {
                Err(End::Fin) => Ok(()),
                other => other,
            },
            Framing::Chunked => self.chunks(take).await,
        };
        read.err().unwrap_or(End::Complete)
    }

    async fn chunks(&mut self, take: &mut (dyn FnMut(&[u8]) + Send)) -> Result<(), End> {
        loop {
            let (used, size) = loop {
                match httparse::parse_chunk_size(&self.received).unwrap() {
                    httparse::Status::Complete(found) => break found,
                    httparse::Status::Partial => self.more().await?,
                }
            };
            self.received.drain(..used);
            self.pass(size, take).await?;
            self.pass(2, &mut |_| {}).await?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// Hands `left` bytes on.
    async fn pass(&mut self, mut left: u64, take: &mut (dyn FnMut(&[u8]) + Send)) -> Result<(), End> {
        while left > 0 {
            if self.received.is_empty() {
                self.more().await?;
            }
            let count = usize::try_from(left).map_or(self.received.len(), |left| left.min(self.received.len()));
            take(&self.received[..count]);
            self.received.drain(..count);
            left -= count as u64;
        }
        Ok(())
    }

    /// Reads what comes next.
    async fn more(&mut self) -> Result<(), End> {
        self.received.reserve(64 << 10);
        let read = self.stream.read_buf(&mut self.received);
        match tokio::time::timeout(PATIENCE, read).await.expect("nothing came for a minute") {
            Ok(1..) => Ok(()),
            Ok(0) => Err(End::Fin),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(End::Reset),
            Err(error) => panic!("{error}"),
        }
    }
}
