//! A request as it was received.
//! Parses the head of an HTTP/1.x message; does not read from sockets.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes, BytesMut};
use percent_encoding::percent_decode_str;

use super::Headers;

/// The longest head that is read, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// The most header fields that are read.
const MAX_FIELDS: usize = 100;

/// Bytes that are not the head of a request, or one that is too long.
#[derive(Debug, thiserror::Error)]
#[error("not an HTTP/1.x request head of at most {MAX_HEAD} bytes")]
pub(crate) struct BadRequest;

/// The request line and the header fields.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) minor_version: u8,
    pub(crate) headers: Headers,
}

impl Head {
    /// Takes a head from the front of `buffer`; `None` while it is incomplete.
    pub(crate) fn take(buffer: &mut BytesMut) -> Result<Option<Head>, BadRequest> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut parsed = httparse::Request::new(&mut fields);
        let length = match parsed.parse(buffer).map_err(|_| BadRequest)? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial if buffer.len() > MAX_HEAD => return Err(BadRequest),
            httparse::Status::Partial => return Ok(None),
        };
        let head = Head {
            method: parsed.method.ok_or(BadRequest)?.to_owned(),
            target: parsed.path.ok_or(BadRequest)?.to_owned(),
            minor_version: parsed.version.ok_or(BadRequest)?,
            headers: parsed.headers.iter().map(|field| (field.name, String::from_utf8_lossy(field.value))).collect(),
        };
        buffer.advance(length);
        Ok(Some(head))
    }

    /// The length of the body that follows; chunked bodies are not understood.
    pub(crate) fn body_length(&self) -> Result<usize, BadRequest> {
        if self.headers.get("transfer-encoding").is_some() {
            return Err(BadRequest);
        }
        match self.headers.get("content-length") {
            None => Ok(0),
            Some(length) => length.parse().map_err(|_| BadRequest),
        }
    }
}

/// A request with its body, and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// The path as it was sent, percent-encoded where the client did so.
    pub(crate) path: String,
    /// What follows the question mark, as it was sent.
    pub(crate) query: String,
    pub(crate) minor_version: u8,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
    pub(crate) peer: SocketAddr,
    /// Counts the connections of a listener.
    pub(crate) connection: u64,
}

impl Request {
    pub(crate) fn new(head: Head, body: Bytes, peer: SocketAddr, connection: u64) -> Request {
        let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
        Request {
            path: path.to_owned(),
            query: query.to_owned(),
            method: head.method,
            minor_version: head.minor_version,
            headers: head.headers,
            body,
            peer,
            connection,
        }
    }

    pub(crate) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// Whether GET or HEAD.
    pub(crate) fn is_read(&self) -> bool {
        self.is_head() || self.method == "GET"
    }

    /// Whether the client wants the connection to stay (RFC 9112, section 9.3).
    pub(crate) fn keeps_alive(&self) -> bool {
        let has = |token: &str| {
            self.headers
                .get_all("connection")
                .flat_map(|value| value.split(','))
                .any(|option| option.trim().eq_ignore_ascii_case(token))
        };
        !has("close") && (self.minor_version >= 1 || has("keep-alive"))
    }

    /// The path, decoded.
    pub(crate) fn decoded_path(&self) -> String {
        percent_decode_str(&self.path).decode_utf8_lossy().into_owned()
    }

    /// The values of a query parameter, decoded.
    pub(crate) fn parameters<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> + 'a {
        self.query.split('&').filter_map(|pair| pair.split_once('=')).filter(move |(key, _)| *key == name).map(|(_, value)| {
            let spaced = value.replace('+', " ");
            percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
        })
    }

    /// The first value of a query parameter, decoded.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        self.parameters(name).next()
    }

    /// User and password of an `Authorization: Basic` (RFC 7617).
    pub(crate) fn basic_credential(&self) -> Option<(String, String)> {
        let encoded = self.authorization("basic")?;
        let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        Some((user.to_owned(), password.to_owned()))
    }

    /// The token of an `Authorization: Bearer` (RFC 6750).
    pub(crate) fn bearer_token(&self) -> Option<&str> {
        self.authorization("bearer")
    }

    fn authorization(&self, scheme: &str) -> Option<&str> {
        let (stated, credential) = self.headers.get("authorization")?.split_once(' ')?;
        stated.eq_ignore_ascii_case(scheme).then_some(credential.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Request {
        let head = Head::take(&mut BytesMut::from(text)).unwrap().unwrap();
        Request::new(head, Bytes::new(), SocketAddr::from(([127, 0, 0, 1], 1)), 0)
    }

    #[test]
    fn path_query_and_credentials_are_read() {
        let request = parse("GET /v2/a%3Ab?scope=x%3Ay&scope=z+w HTTP/1.1\r\nAUTHORIZATION: basic YTpiOmM=\r\n\r\n");
        assert_eq!(request.decoded_path(), "/v2/a:b");
        assert_eq!(request.parameters("scope").collect::<Vec<_>>(), ["x:y", "z w"]);
        assert_eq!(request.basic_credential(), Some(("a".to_owned(), "b:c".to_owned())));
        assert!(request.keeps_alive());
    }

    #[test]
    fn connections_close_when_asked_or_when_old() {
        assert!(!parse("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n").keeps_alive());
        assert!(!parse("GET / HTTP/1.0\r\n\r\n").keeps_alive());
    }

    #[test]
    fn half_a_head_is_waited_for_and_rubbish_is_refused() {
        let mut half = BytesMut::from("GET / HTTP/1.1\r\nHost:");
        assert!(Head::take(&mut half).unwrap().is_none());
        assert!(Head::take(&mut BytesMut::from("\u{1}\u{2}\r\n\r\n")).is_err());
    }
}
