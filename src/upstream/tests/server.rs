//! A small HTTP/1.1 server that does what it is told, right or wrong, and remembers what it was asked.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A running server. Dropping it ends it and all its connections.
pub(super) struct Server {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    handler: Box<dyn Fn(&Seen) -> Reply + Send + Sync>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    /// Path and query as they came.
    pub(super) target: String,
    headers: Vec<(String, String)>,
    /// The number of the connection it came on, from 1.
    pub(super) connection: usize,
}

/// What to answer.
pub(super) struct Reply {
    head: Option<String>,
    body: Body,
}

enum Body {
    /// With its `Content-Length`, unless a header says otherwise.
    Whole(Vec<u8>),
    /// As one chunk and the end of chunks.
    Chunked(Vec<u8>),
    /// The bytes, then the end of the connection.
    Cut(Vec<u8>),
    /// The bytes, then nothing more.
    Stalled(Vec<u8>),
    /// Zeroes for as long as somebody reads.
    Endless,
}

/// Serves on 127.0.0.1.
pub(super) fn serve(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
    serve_on(Ipv4Addr::LOCALHOST, None, handler)
}

/// Serves on another loopback address: another host to whoever looks at URLs.
pub(super) fn serve_on(
    address: Ipv4Addr,
    tls: Option<TlsAcceptor>,
    handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
) -> Server {
    let listener = std::net::TcpListener::bind((address, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let address = listener.local_addr().unwrap();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let shared = Arc::new(Shared { handler: Box::new(handler), seen: Mutex::default(), connections: AtomicUsize::new(0) });
    let task = tokio::spawn(accept(listener, tls, Arc::clone(&shared)));
    Server { address, scheme, shared, task }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let connection = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        connections.spawn(async move {
            // A client that goes away, or that does not trust us, is what some tests are about.
            let _ = match tls {
                None => converse(stream, connection, &shared).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => converse(stream, connection, &shared).await,
                    Err(error) => Err(error),
                },
            };
        });
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, connection: usize, shared: &Shared) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(seen) = read_request(&mut stream, connection).await? {
        let reply = (shared.handler)(&seen);
        let is_head = seen.method == "HEAD";
        shared.seen.lock().unwrap().push(seen);
        if !reply.write(&mut stream, is_head).await? {
            break;
        }
    }
    stream.shutdown().await
}

async fn read_request(stream: &mut (impl AsyncBufReadExt + Unpin), connection: usize) -> io::Result<Option<Seen>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut words = lines[0].split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let split = |line: &String| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    let headers = lines[1..].iter().filter_map(split).collect();
    Ok(Some(Seen { method, target, headers, connection }))
}

impl Server {
    /// Without a path.
    pub(super) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How many requests came for this path.
    pub(super) fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path() == path).count()
    }

    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    /// The first header of this name, which is in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn header_names(&self) -> Vec<&str> {
        self.headers.iter().map(|(name, _)| name.as_str()).collect()
    }

    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub(super) fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// What stands between `/v2/` and the kind of thing that is asked for.
    pub(super) fn repository(&self) -> &str {
        let path = self.path().trim_start_matches("/v2/");
        ["/manifests/", "/blobs/", "/tags/", "/referrers/"].iter().find_map(|kind| path.split_once(kind)).unwrap().0
    }
}

impl Reply {
    pub(super) fn new(status: u16) -> Self {
        Self { head: Some(format!("HTTP/1.1 {status} Whatever\r\n")), body: Body::Whole(Vec::new()) }
    }

    /// A body that is JSON.
    pub(super) fn json(text: &str) -> Self {
        Self::new(200).header("content-type", "application/json").body(text.as_bytes())
    }

    pub(super) fn redirect(status: u16, location: &str) -> Self {
        Self::new(status).header("location", location).body(b"moved")
    }

    /// No answer at all, and the connection stays open.
    pub(super) fn silence() -> Self {
        Self { head: None, body: Body::Stalled(Vec::new()) }
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        if let Some(head) = &mut self.head {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        self
    }

    pub(super) fn body(self, bytes: &[u8]) -> Self {
        Self { body: Body::Whole(bytes.to_vec()), ..self }
    }

    pub(super) fn chunked(self, bytes: &[u8]) -> Self {
        Self { body: Body::Chunked(bytes.to_vec()), ..self.header("transfer-encoding", "chunked") }
    }

    /// Ends the connection after these bytes of a body of `declared` bytes.
    pub(super) fn cut(self, bytes: &[u8], declared: usize) -> Self {
        Self { body: Body::Cut(bytes.to_vec()), ..self.header("content-length", &declared.to_string()) }
    }

    /// Falls silent after these bytes of a body of `declared` bytes.
    pub(super) fn stalled(self, bytes: &[u8], declared: usize) -> Self {
        Self { body: Body::Stalled(bytes.to_vec()), ..self.header("content-length", &declared.to_string()) }
    }

    /// A body of `declared` bytes that really come.
    pub(super) fn endless(self, declared: u64) -> Self {
        Self { body: Body::Endless, ..self.header("content-length", &declared.to_string()) }
    }

    /// Whether the connection may be used again.
    async fn write(self, stream: &mut (impl AsyncWrite + Unpin), is_head: bool) -> io::Result<bool> {
        let Some(mut head) = self.head else {
            return std::future::pending().await;
        };
        if let Body::Whole(bytes) = &self.body
            && !head.contains("content-length:")
        {
            head.push_str(&format!("content-length: {}\r\n", bytes.len()));
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).await?;
        if is_head {
            stream.flush().await?;
            return Ok(true);
        }
        let bytes = match &self.body {
            Body::Whole(bytes) | Body::Cut(bytes) | Body::Stalled(bytes) => bytes.clone(),
            Body::Chunked(bytes) => [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n0\r\n\r\n"].concat(),
            Body::Endless => vec![0; 64 * 1024],
        };
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        match self.body {
            Body::Whole(_) | Body::Chunked(_) => Ok(true),
            Body::Cut(_) => Ok(false),
            Body::Stalled(_) => std::future::pending().await,
            Body::Endless => loop {
                stream.write_all(&bytes).await?;
            },
        }
    }
}
