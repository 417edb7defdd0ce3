//! A body as it is sent: the content, falsified as the rules say.
//! Produces bytes on demand; whole bodies are never in memory.

use std::io::Write as _;
use std::mem;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::backend::Source;
use crate::fault::{Declare, Shape};
use crate::http::{Framing, Payload};
use crate::origin::OriginError;
use crate::synthetic::Synthetic;

/// Bytes that take the place of content that is not there.
const FILLER: Synthetic = Synthetic::new(0x4c41_5244_4552, u64::MAX);

/// Yields a body.
#[derive(Debug)]
pub(super) struct Body {
    source: Source,
    shape: Shape,
    /// Where in the whole content the body begins.
    origin: u64,
    /// How much was produced, before compression.
    produced: u64,
    /// How much there will be in all, before compression; `None` for ever.
    total: Option<u64>,
    /// How much the source has.
    content: u64,
    encoder: Option<GzEncoder<Vec<u8>>>,
    /// What was produced but is too much for the last call.
    spare: Bytes,
}

impl Body {
    pub(super) async fn open(payload: &Payload, shape: Shape) -> Result<Body, OriginError> {
        let (source, origin) = match payload {
            Payload::Bytes(bytes) => (Source::Bytes(bytes.clone()), 0),
            Payload::Blob(slice) => (slice.open().await?, slice.start),
        };
        let content = payload.len();
        let total = match (&shape.endless, &shape.resize) {
            (Some(_), _) => None,
            (None, Some((by, _, _))) => Some(content.saturating_add_signed(*by)),
            (None, None) => Some(content),
        };
        let encoder = shape.gzip.is_some().then(|| GzEncoder::new(Vec::new(), Compression::fast()));
        Ok(Body { source, shape, origin, produced: 0, total, content, encoder, spare: Bytes::new() })
    }

    /// The framing that can be used where this one is wanted.
    pub(super) fn framing(&self, wanted: Framing) -> Framing {
        let length_is_known = self.total.is_some() && self.encoder.is_none();
        match wanted {
            Framing::Length if !length_is_known => Framing::Chunked,
            wanted => wanted,
        }
    }

    /// What `Content-Length` is to say.
    pub(super) fn declared_length(&self) -> u64 {
        match &self.shape.resize {
            Some((_, Declare::Original, _)) => self.content,
            _ => self.total.unwrap_or(self.content),
        }
    }

    /// Whether as many bytes come as are declared.
    pub(super) fn length_is_true(&self) -> bool {
        self.total == Some(self.declared_length())
    }

    /// The rate to send at, in bytes a second, by the rules.
    pub(super) fn rate(&self) -> Option<u64> {
        self.shape.rate.as_ref().map(|(rate, cause)| {
            cause.fire();
            *rate
        })
    }

    /// The next bytes, at most `max` (more than 0); empty at the end.
    pub(super) async fn next(&mut self, max: usize) -> Result<Bytes, OriginError> {
        while self.spare.is_empty() {
            let plain = self.plain(max).await?;
            let at_end = plain.is_empty();
            match &mut self.encoder {
                None => self.spare = plain,
                Some(encoder) => {
                    let written = match at_end {
                        false => encoder.write_all(&plain),
                        true => encoder.try_finish(),
                    };
                    written.expect("writing to a Vec does not fail");
                    self.spare = mem::take(encoder.get_mut()).into();
                }
            }
            if at_end {
                self.encoder = None;
                break;
            }
        }
        let len = max.min(self.spare.len());
        Ok(self.spare.split_to(len))
    }

    async fn plain(&mut self, max: usize) -> Result<Bytes, OriginError> {
        let left = self.total.map_or(u64::MAX, |total| total - self.produced);
        let max = usize::try_from(left).map_or(max, |left| left.min(max));
        if max == 0 {
            self.resized();
            return Ok(Bytes::new());
        }
        let mut bytes = self.source.next(max).await?;
        if bytes.is_empty() && self.produced >= self.content {
            self.resized();
            bytes = FILLER.read(self.produced, max);
        }
        let bytes = self.corrupted(bytes);
        self.produced += bytes.len() as u64;
        Ok(bytes)
    }

    /// Counts that the body ends elsewhere than it should.
    fn resized(&self) {
        let resize = self.shape.resize.as_ref().map(|(_, _, cause)| cause);
        let causes = resize.into_iter().chain(&self.shape.endless);
        causes.for_each(|cause| cause.fire());
    }

    fn corrupted(&self, bytes: Bytes) -> Bytes {
        let begins = self.origin + self.produced;
        let ends = begins + bytes.len() as u64;
        let mut changed: Option<BytesMut> = None;
        for (offset, cause) in &self.shape.corrupt {
            if (begins..ends).contains(offset) {
                cause.fire();
                let copy = changed.get_or_insert_with(|| BytesMut::from(&bytes[..]));
                copy[(offset - begins) as usize] ^= 0xff;
            }
        }
        changed.map_or(bytes, BytesMut::freeze)
    }
}
