//! The answer to a request for a blob, whole or in part; the same at the registry and at the CDN.
//! Knows ranges and validators; not who may ask.

use crate::backend::{BlobSlice, StoredBlob};
use crate::config::Config;
use crate::digest::Digest;
use crate::http::{Framing, Payload, RangeRequest, Reply, Request};

/// Answers with the blob: 200, 206 or 416 (RFC 9110, sections 13.1.5 and 14).
pub(crate) fn blob_reply(config: &Config, request: &Request, blob: StoredBlob, digest: &Digest) -> Reply {
    let size = blob.size();
    let etag = format!("\"{digest}\"");
    let is_current = |condition: &str| condition == etag;
    let range = request.headers.get("range").filter(|_| config.ranges && request.headers.get("if-range").is_none_or(is_current));
    let (status, start, length) = match RangeRequest::parse(range, size) {
        RangeRequest::Whole => (200, 0, size),
        RangeRequest::Part(part) => (206, part.start, part.len()),
        RangeRequest::Unsatisfiable => {
            return Reply::error(416, "RANGE_INVALID", "the blob has no such range")
                .header("Content-Range", format!("bytes */{size}"));
        }
    };
    let mut reply = Reply::empty(status).header("Content-Type", "application/octet-stream").header("ETag", etag);
    if config.ranges {
        reply.headers.add("Accept-Ranges", "bytes");
    }
    if status == 206 {
        let last = start + length - 1;
        let value = format!("bytes {start}-{last}/{size}");
        reply.headers.add("Content-Range", value);
    }
    if config.content_digest {
        reply.headers.add("Docker-Content-Digest", digest.as_str());
    }
    if !config.content_length {
        reply.framing = Framing::Chunked;
    }
    reply.payload = Payload::Blob(BlobSlice { blob, start, length });
    reply
}
