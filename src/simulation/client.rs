//! The simulated clients: what each asks for, how it takes what it gets, and what must be true of that. A client sees what one
//! behind the server would see: a declared length, bytes, and an end that is one or is not.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::disk::Disk;
use super::journal::Journal;
use super::library::{LIBRARY, short};
use super::registry::Registry;
use crate::fill::{FillError, Readable};
use crate::mirror::{Caller, Mirror, MirrorError, Place, Want};
use crate::oci::{Digest, Manifest, Reference, Tag};

/// Whatever happens, every client has its answer or its error by then.
const PATIENCE: Duration = Duration::from_secs(2 * 60 * 60);

/// What fair weather allows on top of what the network takes: the disk is a busy one, and the next of several questions is asked
/// only when the last one is answered.
const LEEWAY: Duration = Duration::from_secs(20);

/// All clients are at one address. What that may cost is more than they ask for.
const CALLER: Caller = Caller::Client(IpAddr::V4(Ipv4Addr::LOCALHOST));

/// How often a client that resumes does so.
const RESUMPTIONS: usize = 10;

/// One client.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) number: usize,
    /// How long after the machine has started.
    pub(super) arrives: Duration,
    pub(super) place: usize,
    pub(super) errand: Errand,
    pub(super) manner: Manner,
}

/// What a client wants.
#[derive(Clone, Debug)]
pub(super) enum Errand {
    /// All of an image, as containerd gets it.
    Pull(Tag),
    Tag(Tag),
    TagHead(Tag),
    Manifest(Digest),
    ManifestHead(Digest),
    Blob(Digest),
    BlobHead(Digest),
    /// A part of a blob.
    Part(Digest, Asked),
    /// A blob, by as many parts as it takes when it breaks.
    Resume(Digest),
}

/// A range as `Range` has it, in bytes. It may lie past the end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// Both inclusive.
    From {
        first: u64,
        last: Option<u64>,
    },
    Suffix(u64),
}

/// How a client takes a body.
#[derive(Clone, Copy, Debug)]
pub(super) enum Manner {
    /// As fast as it comes.
    Eager,
    /// With a pause after each chunk.
    Slow(Duration),
    /// It leaves once it has so many bytes.
    LeavesAfter(u64),
    /// It leaves after so long, wherever it is then.
    LeavesAt(Duration),
}

/// What a client finds.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) mirror: Mirror,
    pub(super) places: Arc<Vec<Place>>,
    pub(super) registry: Registry,
    pub(super) journal: Journal,
    pub(super) disk: Arc<Disk>,
    /// Nothing goes wrong with network, disk or registry: everybody who stays is served, in time.
    pub(super) is_fair: bool,
}

/// How a request ended that did not end well.
#[derive(Debug)]
pub(super) enum Unserved {
    /// With an error.
    Refused(String),
    /// In the middle of the body.
    Broken(String),
    /// As it turned out that what an earlier run had kept of it was wrong.
    BadPart,
    /// The client left.
    Left,
    /// There are no such bytes (416).
    NoSuchPart,
}

impl From<MirrorError> for Unserved {
    fn from(error: MirrorError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl Client {
    /// Does what the client came for.
    pub(super) async fn run(self, site: Site) {
        sleep(self.arrives).await;
        let Self { number, errand, manner, .. } = &self;
        site.journal.note(format_args!("client {number}: {errand:?} at {}, {manner:?}", self.place));
        let begun = Instant::now();
        let life = match manner {
            Manner::LeavesAt(after) => *after,
            _ => PATIENCE,
        };
        let ended = timeout(life, self.do_errand(&site)).await;
        let took = begun.elapsed();
        match ended {
            Err(_) if life < PATIENCE => site.journal.note(format_args!("client {number}: leaves")),
            Err(_) => site.journal.violation(format_args!("client {number} waits for ever: {errand:?}")),
            Ok(ended) => {
                site.journal.note(format_args!("client {number}: {ended:?}"));
                self.judge(&site, &ended, took);
            }
        }
    }

    /// Gives how many bytes it takes at the most.
    async fn do_errand(&self, site: &Site) -> Result<u64, Unserved> {
        let place = &site.places[self.place];
        let visit = Visit { site, place, manner: self.manner };
        let digest = match &self.errand {
            Errand::Pull(tag) => {
                let digest = visit.pull(&Reference::Tag(tag.clone())).await?;
                return Ok(LIBRARY.bytes_pulled_with(&digest));
            }
            Errand::Tag(tag) => visit.manifest(&Reference::Tag(tag.clone()), Want::Body).await?,
            Errand::TagHead(tag) => visit.manifest(&Reference::Tag(tag.clone()), Want::Head).await?,
            Errand::Manifest(digest) => visit.manifest(&Reference::Digest(*digest), Want::Body).await?,
            Errand::ManifestHead(digest) => visit.manifest(&Reference::Digest(*digest), Want::Head).await?,
            Errand::Blob(digest) => visit.blob(digest).await.map(|()| *digest)?,
            Errand::BlobHead(digest) => visit.blob_head(digest).await.map(|()| *digest)?,
            Errand::Part(digest, asked) => visit.part(digest, *asked).await.map(|()| *digest)?,
            Errand::Resume(digest) => visit.resume(digest).await.map(|()| *digest)?,
        };
        Ok(LIBRARY.bytes(&digest).map_or(0, Bytes::len) as u64)
    }

    /// In fair weather, everybody is served who stays and may have what he asks for; and in time, whoever else is about (P5).
    fn judge(&self, site: &Site, ended: &Result<u64, Unserved>, took: Duration) {
        let Self { number, errand, .. } = self;
        if let Err(Unserved::Refused(error) | Unserved::Broken(error)) = ended
            && error.contains("abandoned")
        {
            site.journal.violation(format_args!("a task of ours ended without a word: {error}"));
        }
        let digest = match errand {
            Errand::Pull(_) | Errand::Tag(_) | Errand::TagHead(_) => None,
            Errand::Manifest(digest) | Errand::ManifestHead(digest) | Errand::Blob(digest) => Some(digest),
            Errand::BlobHead(digest) | Errand::Part(digest, _) | Errand::Resume(digest) => Some(digest),
        };
        let holds = digest.is_none_or(|digest| site.registry.holds(&site.places[self.place].repository, digest));
        if !holds && ended.is_ok() {
            site.journal.violation(format_args!("P7: client {number} got what its repository has not: {errand:?}"));
        }
        if !site.is_fair || !holds || !matches!(self.manner, Manner::Eager) {
            return;
        }
        if let Err(unserved @ (Unserved::Refused(_) | Unserved::Broken(_) | Unserved::BadPart)) = ended {
            site.journal.violation(format_args!("P5: client {number} is not served: {errand:?}: {unserved:?}"));
        }
        // One after the other: is it there, what is it, and where; then the bytes, some of which another one is fetching already.
        if let Ok(bytes) = ended {
            let most = site.registry.time_for(*bytes) * 2 + site.registry.time_for(0) * 8 + LEEWAY;
            if took > most {
                site.journal.violation(format_args!("P5: client {number} took {took:?} where {most:?} is much: {errand:?}"));
            }
        }
    }
}

/// One client at one place.
pub(super) struct Visit<'a> {
    pub(super) site: &'a Site,
    pub(super) place: &'a Place,
    pub(super) manner: Manner,
}

impl Visit<'_> {
    fn violation(&self, what: impl Display) {
        self.site.journal.violation(what);
    }

    /// A manifest and all that it names. Gives the manifest's digest.
    pub(super) async fn pull(&self, reference: &Reference) -> Result<Digest, Unserved> {
        let pulled = self.manifest(reference, Want::Body).await?;
        let mut blobs = Vec::new();
        if let Some(image) = LIBRARY.image(&pulled) {
            blobs.extend(&image.blobs);
            for child in Manifest::inspect(&image.manifest, &image.media_type).unwrap().manifests {
                self.manifest(&Reference::Digest(child.digest), Want::Body).await?;
                blobs.extend(LIBRARY.image(&child.digest).into_iter().flat_map(|child| &child.blobs));
            }
        }
        let results = join_all(blobs.into_iter().map(|digest| self.blob(digest))).await;
        results.into_iter().collect::<Result<(), _>>()?;
        Ok(pulled)
    }

    /// P1 for manifests: what comes is what it is said to be, and was a manifest of the world at some time.
    pub(super) async fn manifest(&self, reference: &Reference, want: Want) -> Result<Digest, Unserved> {
        let answer = self.site.mirror.manifest(self.place, reference, want, CALLER).await?;
        let digest = answer.digest;
        if matches!(reference, Reference::Digest(asked) if *asked != digest) {
            self.violation(format_args!("P1: asked for {reference}, got {digest}"));
        }
        match (LIBRARY.image(&digest), &answer.bytes) {
            (None, _) => self.violation(format_args!("P1: {digest} is no manifest")),
            (Some(image), Some(bytes)) if *bytes != image.manifest => {
                self.violation(format_args!("P1: wrong bytes for manifest {digest}"));
            }
            (Some(_), None) if want == Want::Body => self.violation(format_args!("P1: no bytes for manifest {digest}")),
            _ => {}
        }
        Ok(digest)
    }

    async fn blob_head(&self, digest: &Digest) -> Result<(), Unserved> {
        let head = self.site.mirror.blob_head(self.place, digest, CALLER).await?;
        let size = LIBRARY.blob(digest).len() as u64;
        if head.size.is_some_and(|told| told != size) && !self.site.registry.is_tainted(digest) {
            self.violation(format_args!("P1: blob {} has {size} bytes, not {:?}", short(digest), head.size));
        }
        Ok(())
    }

    /// As `server/respond.rs` answers a GET without `Range`.
    async fn blob(&self, digest: &Digest) -> Result<(), Unserved> {
        let content = self.site.mirror.blob(self.place, digest, CALLER).await?.content;
        self.whole(digest, &content).await
    }

    /// As `server/respond.rs` answers a GET with a single range.
    async fn part(&self, digest: &Digest, asked: Asked) -> Result<(), Unserved> {
        let content = self.site.mirror.blob(self.place, digest, CALLER).await?.content;
        let Some(size) = content.size().await.map_err(broken)? else { return self.whole(digest, &content).await };
        let range = asked.within(size).ok_or(Unserved::NoSuchPart)?;
        self.take(digest, &content, range.clone(), Some(range.end - range.start)).await.1
    }

    /// What a client does that was cut and knows better: it asks for the rest. It verifies the whole itself, in the end.
    async fn resume(&self, digest: &Digest) -> Result<(), Unserved> {
        let mut position = 0;
        let mut last = Ok(());
        for _ in 0..=RESUMPTIONS {
            let step = async {
                let content = self.site.mirror.blob(self.place, digest, CALLER).await?.content;
                let Some(size) = content.size().await.map_err(broken)? else {
                    return Ok((0, self.whole(digest, &content).await));
                };
                let length = size.saturating_sub(position);
                Ok::<_, Unserved>(self.take(digest, &content, position..size.max(position), Some(length)).await)
            };
            last = match step.await {
                Ok((_, Ok(()))) => return Ok(()),
                Ok((count, Err(unserved))) => {
                    position += count;
                    Err(unserved)
                }
                Err(unserved) => Err(unserved),
            };
            sleep(Duration::from_secs(6)).await;
        }
        last
    }

    async fn whole(&self, digest: &Digest, content: &Readable) -> Result<(), Unserved> {
        let declared = content.known_size().await.map_err(broken)?;
        self.take(digest, content, 0..u64::MAX, declared).await.1
    }

    /// Reads a body of `declared` bytes, or to its end, and compares it with what it should be: `range` of the content, where all of
    /// it ends at [`u64::MAX`]. Gives the number of bytes that came.
    ///
    /// P1: a body that is complete to the client has the right bytes. Only a part of what is still in flight may have wrong ones,
    /// if wrong ones were sent: nobody can take that for the whole.
    async fn take(
        &self,
        digest: &Digest,
        content: &Readable,
        range: Range<u64>,
        declared: Option<u64>,
    ) -> (u64, Result<(), Unserved>) {
        let is_whole = range.end == u64::MAX;
        let right = LIBRARY.blob(digest);
        let right = &right[usize_of(range.start).min(right.len())..usize_of(range.end).min(right.len())];
        let mut stream = if is_whole { content.read_all() } else { content.read(range) };
        let mut count = 0;
        let mut is_right = true;
        let ended = loop {
            if declared == Some(count) {
                break Ok(());
            }
            let mut bytes = match stream.next().await {
                Some(Ok(bytes)) => bytes,
                Some(Err(error)) => break Err(broken(error)),
                None if declared.is_some() => break Err(Unserved::Broken(format!("ended after {count} of {declared:?} bytes"))),
                None => break Ok(()),
            };
            // No more than was declared is sent.
            bytes.truncate(usize_of(declared.map_or(u64::MAX, |declared| declared - count)));
            let next = count + bytes.len() as u64;
            is_right &= right.get(usize_of(count)..usize_of(next)) == Some(&bytes[..]);
            count = next;
            match self.manner {
                Manner::LeavesAfter(most) if count >= most => break Err(Unserved::Left),
                Manner::Slow(pause) => sleep(pause).await,
                _ => {}
            }
        };
        let is_complete = ended.is_ok();
        is_right &= !is_complete || count == right.len() as u64;
        // What cannot be read from the disk comes from the registry again.
        let is_fetched = !matches!(content, Readable::AtRest(_)) || self.site.disk.failures() > 0;
        let may_be_wrong = self.site.registry.is_tainted(digest) && is_fetched;
        if !is_right && (is_complete && is_whole || !may_be_wrong) {
            let kind = match content {
                Readable::AtRest(_) => "at rest",
                Readable::InFlight(_) => "in flight",
                Readable::Through(_) => "passing through",
            };
            let complete = if is_complete { "complete" } else { "incomplete" };
            self.violation(format_args!("P1: a {complete} answer for {kind} blob {} has wrong bytes", short(digest)));
        }
        (count, ended)
    }
}

impl Asked {
    /// The positions that are meant, of a content of `size` bytes; `None` if there are none of them (RFC 9110 section 14.1.2).
    fn within(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From { first, last } => first..last.map_or(size, |last| size.min(last + 1)),
            Self::Suffix(length) => size.saturating_sub(length)..size,
        };
        (range.start < range.end).then_some(range)
    }
}

fn broken(error: FillError) -> Unserved {
    match error {
        FillError::BadPart => Unserved::BadPart,
        error => Unserved::Broken(error.to_string()),
    }
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).expect("64-bit positions")
}
