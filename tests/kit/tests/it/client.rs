//! An HTTP/1.1 client on a bare socket, which tells how exactly an answer ended.
//! Follows nothing and retries nothing by itself.

use std::io::{ErrorKind, Read as _};
use std::sync::Arc;

use larder_testkit::{Blob, Hub, Image, Repository, Synthetic};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) const NAME: &str = "library/app";

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

/// An answer; of status 0 if there was none.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let same = |(key, _): &&(String, String)| key.eq_ignore_ascii_case(name);
        self.headers.iter().find(same).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn error_code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap().to_owned()
    }

    pub(crate) fn gunzipped(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(&self.body[..]);
        decoder.read_to_end(&mut plain).unwrap();
        plain
    }
}

/// A connection that stays open between requests.
pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(authority: &str) -> Connection {
        Connection { stream: TcpStream::connect(authority).await.unwrap(), received: Vec::new() }
    }

    pub(crate) async fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        exchange(&mut self.stream, &mut self.received, method, target, headers).await
    }

    pub(crate) async fn ask_with_body(&mut self, method: &str, target: &str, body: &str) -> Answer {
        let length = body.len().to_string();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: hub\r\nContent-Length: {length}\r\n\r\n");
        self.stream.write_all(head.as_bytes()).await.unwrap();
        self.stream.write_all(body.as_bytes()).await.unwrap();
        answer_to(&mut self.stream, &mut self.received, method).await
    }

    /// Sends a request and leaves without waiting for the answer.
    pub(crate) async fn leave_after(mut self, target: &str) {
        let head = format!("GET {target} HTTP/1.1\r\nHost: hub\r\n\r\n");
        self.stream.write_all(head.as_bytes()).await.unwrap();
    }
}

/// One request on a connection of its own, to an `http://` URL.
pub(crate) async fn ask(method: &str, url: &str, headers: &[(&str, &str)]) -> Answer {
    let rest = url.strip_prefix("http://").unwrap();
    let at = rest.find('/').unwrap();
    Connection::open(&rest[..at]).await.ask(method, &rest[at..], headers).await
}

pub(crate) async fn get(url: &str) -> Answer {
    ask("GET", url, &[]).await
}

pub(crate) async fn get_range(url: &str, range: &str) -> Answer {
    ask("GET", url, &[("Range", range)]).await
}

/// One GET through TLS, trusting only this authority; an error where the certificate is not good for `server`.
pub(crate) async fn get_tls(url: &str, server: &str, ca_pem: &str) -> std::io::Result<Answer> {
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls::pki_types::CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let rest = url.strip_prefix("https://").unwrap();
    let at = rest.find('/').unwrap();
    let tcp = TcpStream::connect(&rest[..at]).await?;
    let server = server.to_owned().try_into().unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(server, tcp).await?;
    Ok(exchange(&mut stream, &mut Vec::new(), "GET", &rest[at..], &[]).await)
}

async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    received: &mut Vec<u8>,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Answer {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: hub\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    answer_to(stream, received, method).await
}

async fn answer_to(stream: &mut (impl AsyncRead + Unpin), received: &mut Vec<u8>, method: &str) -> Answer {
    let mut end = End::Complete;
    loop {
        if let Some((answer, used)) = parse(received, method == "HEAD", end) {
            received.drain(..used);
            return answer;
        }
        match stream.read_buf(received).await {
            Ok(1..) => {}
            Ok(0) => end = End::Fin,
            // A TLS connection that ends without close_notify.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => end = End::Fin,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => end = End::Reset,
            Err(error) => panic!("{error}"),
        }
    }
}

/// An answer and the bytes that it takes, once there is one or the connection has ended.
fn parse(received: &[u8], is_head: bool, end: End) -> Option<(Answer, usize)> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head) = parsed.parse(received).unwrap() else {
        let nothing = Answer { status: 0, headers: Vec::new(), body: Vec::new(), end };
        return (end != End::Complete).then_some((nothing, received.len()));
    };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut answer = Answer {
        status: parsed.code.unwrap(),
        headers: parsed.headers.iter().map(|field| (field.name.to_owned(), text(field.value))).collect(),
        body: Vec::new(),
        end: End::Complete,
    };
    let rest = &received[head..];
    if is_head || answer.status == 204 {
        return Some((answer, head));
    }
    if answer.header("transfer-encoding") == Some("chunked") {
        let (body, used) = unchunk(rest);
        answer.body = body;
        return match used {
            Some(used) => Some((answer, head + used)),
            None if end != End::Complete => {
                answer.end = end;
                Some((answer, received.len()))
            }
            None => None,
        };
    }
    if let Some(length) = answer.header("content-length") {
        let length: usize = length.parse().unwrap();
        if rest.len() >= length {
            answer.body = rest[..length].to_vec();
            return Some((answer, head + length));
        }
        answer.end = end;
    } else if end == End::Reset {
        answer.end = end;
    }
    answer.body = rest.to_vec();
    (end != End::Complete).then_some((answer, received.len()))
}

/// The chunks' bytes so far and, if the last chunk is there, how much they took.
fn unchunk(mut rest: &[u8]) -> (Vec<u8>, Option<usize>) {
    let whole = rest.len();
    let mut body = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((skip, size))) = httparse::parse_chunk_size(rest) else {
            return (body, None);
        };
        let size = usize::try_from(size).unwrap();
        let available = rest.len() - skip;
        if available < size + 2 {
            body.extend(&rest[skip..skip + available.min(size)]);
            return (body, None);
        }
        body.extend(&rest[skip..skip + size]);
        rest = &rest[skip + size + 2..];
        if size == 0 {
            return (body, Some(whole - rest.len()));
        }
    }
}

/// A hub without auth and redirects that has one image, tagged `1`, with one layer of `size` bytes.
pub(crate) async fn plain_hub(size: u64) -> (Hub, Image, Blob) {
    let image = Image::builder().layer(Synthetic::new(11, size)).build();
    let hub = Hub::builder()
        .repository(Repository::new(NAME).tag("1", &image))
        .auth(larder_testkit::Auth::None)
        .without_redirects()
        .start()
        .await
        .unwrap();
    let layer = image.layers()[0].clone();
    (hub, image, layer)
}

pub(crate) fn blob_url(hub: &Hub, blob: &Blob) -> String {
    format!("{}/v2/{NAME}/blobs/{}", hub.url(), blob.digest())
}

pub(crate) fn manifest_url(hub: &Hub, reference: impl ToString) -> String {
    format!("{}/v2/{NAME}/manifests/{}", hub.url(), reference.to_string())
}

/// A token for pulling from [`NAME`], as this user or anonymously.
pub(crate) async fn token(hub: &Hub, credential: Option<&str>) -> String {
    use base64::Engine as _;
    let realm = hub.url_of(larder_testkit::Listener::Token);
    let url = format!("{realm}/token?service=registry.docker.io&scope=repository:{NAME}:pull");
    let encoded = credential.map(|credential| {
        let encoded = base64::engine::general_purpose::STANDARD.encode(credential);
        format!("Basic {encoded}")
    });
    let headers: Vec<_> = encoded.iter().map(|value| ("Authorization", value.as_str())).collect();
    let answer = ask("GET", &url, &headers).await;
    assert_eq!(answer.status, 200);
    answer.json()["token"].as_str().unwrap().to_owned()
}

/// A GET with this token.
pub(crate) async fn get_as(url: &str, token: &str) -> Answer {
    ask("GET", url, &[("Authorization", &format!("Bearer {token}"))]).await
}
