//! HTTP/1.1 messages as the kit reads and writes them: requests parsed, replies described.
//! Does no I/O and decides nothing.

mod headers;
mod range;
mod reply;
mod request;

pub use headers::Headers;
pub(crate) use range::{ByteRange, RangeRequest};
pub(crate) use reply::{Framing, Payload, Reply, reason};
pub(crate) use request::{BadRequest, Head, Request};
