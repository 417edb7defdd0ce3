//! An answer, described but not yet sent, so that faults can still change every part of it.
//! Holds what a body is made from, never a body itself.

use bytes::Bytes;
use serde_json::{Value, json};

use super::Headers;
use crate::backend::BlobSlice;

/// How the end of a body is made known (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// By `Content-Length`.
    Length,
    /// By the chunked transfer coding.
    Chunked,
    /// By the end of the connection.
    Close,
}

/// What the body is made from.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one of them lives per request")]
pub(crate) enum Payload {
    Bytes(Bytes),
    Blob(BlobSlice),
}

impl Payload {
    /// The length in bytes.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::Blob(slice) => slice.length,
        }
    }
}

/// An answer to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// All fields but those that [`Framing`] adds.
    pub(crate) headers: Headers,
    pub(crate) payload: Payload,
    pub(crate) framing: Framing,
}

impl Reply {
    /// An answer with an empty body.
    pub(crate) fn empty(status: u16) -> Reply {
        Reply { status, headers: Headers::default(), payload: Payload::Bytes(Bytes::new()), framing: Framing::Length }
    }

    /// An answer of these bytes.
    pub(crate) fn bytes(status: u16, content_type: &str, body: impl Into<Bytes>) -> Reply {
        let mut reply = Reply::empty(status).header("Content-Type", content_type);
        reply.payload = Payload::Bytes(body.into());
        reply
    }

    pub(crate) fn json(status: u16, body: &Value) -> Reply {
        Reply::bytes(status, "application/json", body.to_string())
    }

    /// An error as the distribution spec has it ("Error Codes").
    pub(crate) fn error(status: u16, code: &str, message: &str) -> Reply {
        let body = json!({"errors": [{"code": code, "message": message}]});
        Reply::json(status, &body)
    }

    pub(crate) fn redirect(location: impl Into<String>) -> Reply {
        Reply::empty(307).header("Location", location)
    }

    #[must_use]
    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.add(name, value);
        self
    }
}

/// The reason phrase of a status code.
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Other",
    }
}
