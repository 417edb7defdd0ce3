//! Manifests: by digest, from the cache or by one fetch, and verified before the first byte is sent.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt};

use super::access::Access;
use super::shared::share;
use super::{Asked, CacheOutcome, Caller, ContentKey, Document, Lookup, Mirror, MirrorError, Place};
use crate::fill::FillError;
use crate::oci::{Digest, MANIFEST_MAX_BYTES, Manifest, MediaType, Reference};
use crate::store::{Kind, LastUse, StoreError};
use crate::upstream::{Answer, Body, Head, Method, Question, Target, UpstreamError};
use crate::util::blocking;

/// Whether the bytes are wanted (GET) or what is known of them (HEAD).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Head,
    Body,
}

/// A manifest, or what is known of one.
#[derive(Debug)]
pub struct ManifestAnswer {
    pub digest: Digest,
    pub media_type: MediaType,
    /// In bytes; unknown only where nobody wants the bytes and the upstream does not tell.
    pub size: Option<u64>,
    /// Always there when it was asked for.
    pub bytes: Option<Bytes>,
    pub lookup: Lookup,
}

impl Mirror {
    /// The manifest `reference` of `place`.
    ///
    /// # Errors
    /// [`MirrorError`] if there is none, or it cannot be had.
    pub async fn manifest(
        &self,
        place: &Place,
        reference: &Reference,
        want: Want,
        caller: Caller,
    ) -> Result<ManifestAnswer, MirrorError> {
        let mut answer = match reference {
            Reference::Digest(digest) => self.manifest_by_digest(place, digest, want, caller).await,
            Reference::Tag(tag) => self.manifest_by_tag(place, tag, want, caller).await,
        };
        // Half an image is not to be begun while its other half cannot be had. What is stale was looked at.
        if let Ok(found) = &answer
            && !matches!(found.lookup.outcome, CacheOutcome::Stale(_))
            && let Some(cause) = place.upstream.origin.content_refusal()
            && !self.is_whole(found).boxed().await
        {
            answer = Err(MirrorError::Incomplete(cause));
        }
        self.note_wanted(place, Kind::Manifest, reference, &answer).await;
        let answer = answer?;
        if want == Want::Body {
            self.prefetch(place, &answer);
        }
        Ok(answer)
    }

    async fn manifest_by_digest(
        &self,
        place: &Place,
        digest: &Digest,
        want: Want,
        caller: Caller,
    ) -> Result<ManifestAnswer, MirrorError> {
        let key = ContentKey::new(place, Kind::Manifest, digest);
        let access = self.access(place, &key).await;
        if let Some(document) = self.cached_document(digest).await {
            let outcome = match access {
                Access::Granted { .. } => CacheOutcome::Hit,
                Access::Unproven { .. } => {
                    self.prove(place, &key, caller).boxed().await?;
                    CacheOutcome::Revalidated
                }
            };
            return Ok(document.answer(Lookup::of(outcome)));
        }
        let asking = self.manifest_from_upstream(place, &key, want, caller);
        self.note_if_left(place, Kind::Manifest, Reference::Digest(*digest), asking).boxed().await
    }

    /// The manifest that is not cached.
    async fn manifest_from_upstream(
        &self,
        place: &Place,
        key: &ContentKey,
        want: Want,
        caller: Caller,
    ) -> Result<ManifestAnswer, MirrorError> {
        let digest = &key.digest;
        self.not_denied(&Asked::Content(key.clone()))?;
        match want {
            Want::Body => {
                let (document, outcome) = self.fetch_document(place, digest, caller).await?;
                Ok(document.answer(Lookup::of(outcome)))
            }
            Want::Head => {
                let head = self.confirm(place, key, caller).await?;
                let media_type = head.content_type.ok_or_else(|| MirrorError::Unacceptable("no Content-Type".to_owned()))?;
                if head.digest.is_some_and(|told| told != *digest) {
                    return Err(MirrorError::Unacceptable(format!("asked for {digest}, told of another digest")));
                }
                let lookup = Lookup::of(CacheOutcome::Forwarded);
                Ok(ManifestAnswer { digest: *digest, media_type, size: head.content_length, bytes: None, lookup })
            }
        }
    }

    /// The manifest from memory or disk. What the disk holds is verified each time: it is small, and everything hangs on it.
    pub(super) async fn cached_document(&self, digest: &Digest) -> Option<Arc<Document>> {
        match self.shared.documents.get(digest) {
            Some(document) => {
                self.shared.store.note_use(digest, &document.last_use);
                Some(document)
            }
            None => self.stored_document(digest).boxed().await,
        }
    }

    async fn stored_document(&self, digest: &Digest) -> Option<Arc<Document>> {
        let content = self.shared.store.get(digest).await.filter(|content| content.size <= MANIFEST_MAX_BYTES as u64)?;
        let media_type = self.shared.store.catalog().media_type(digest).await?;
        let digest = *digest;
        let document = blocking(move || {
            let mut bytes = vec![0; usize::try_from(content.size).ok()?];
            let mut read = 0;
            while read < bytes.len() {
                match content.file.read_at(&mut bytes[read..], read as u64) {
                    Ok(0) | Err(_) => return None,
                    Ok(count) => read += count,
                }
            }
            let is_right = Digest::of(digest.algorithm(), &bytes) == digest;
            is_right.then(|| Document { digest, media_type, bytes: bytes.into(), last_use: LastUse::default() })
        });
        match document.await {
            Ok(Some(document)) => {
                let document = Arc::new(document);
                self.shared.documents.insert(digest, Arc::clone(&document));
                Some(document)
            }
            Ok(None) | Err(_) => {
                // What was read may have been replaced by now: the store looks itself, and drops and counts what is wrong.
                let verdict = self.shared.store.verify(&digest).await;
                tracing::error!(manifest.digest = %digest, ?verdict, "a cached manifest is not what it was; it is fetched again");
                None
            }
        }
    }

    /// The manifest from the cache, else fetched by digest, once for all who want it. Only for a caller who knows that `place` has it.
    pub(super) async fn document(
        &self,
        place: &Place,
        digest: &Digest,
        caller: Caller,
    ) -> Result<(Arc<Document>, CacheOutcome), MirrorError> {
        match self.cached_document(digest).await {
            Some(document) => Ok((document, CacheOutcome::Hit)),
            None => self.fetch_document(place, digest, caller).boxed().await,
        }
    }

    async fn fetch_document(
        &self,
        place: &Place,
        digest: &Digest,
        caller: Caller,
    ) -> Result<(Arc<Document>, CacheOutcome), MirrorError> {
        let key = ContentKey::new(place, Kind::Manifest, digest);
        if !self.shared.fetches.is_under_way(&key) {
            self.turn(place, caller).await?;
            // Who waited may have been one of several, of whom the first has fetched it for all.
            if self.shared.readable.contains_key(&key)
                && let Some(document) = self.cached_document(digest).await
            {
                return Ok((document, CacheOutcome::Joined));
            }
        }
        let work = || {
            let (mirror, place, key) = (self.clone(), place.clone(), key.clone());
            async move {
                let reference = Reference::Digest(key.digest);
                mirror.get_document(&place, reference, caller).await.map_err(|error| match error {
                    Failure::Upstream(error) => mirror.note_absence(&key, error),
                    Failure::Mirror(error) => error,
                })
            }
        };
        let (result, joined) = share(&self.shared.fetches, &key, work).await;
        if !joined {
            self.note_in_vain(caller, &result);
        }
        let document = result?;
        Ok((document, if joined { CacheOutcome::Joined } else { CacheOutcome::Miss }))
    }

    /// Fetches a manifest from the upstream, verifies it and keeps it.
    pub(super) async fn get_document(
        &self,
        place: &Place,
        reference: Reference,
        caller: Caller,
    ) -> Result<Arc<Document>, Failure> {
        let target = Target::Manifest(reference.clone());
        let question = Question { repository: place.repository.clone(), target, method: Method::Get, caller };
        let Answer { head, body } = self.ask(place, question).await?;
        let bytes = self.collect(body, &head, MANIFEST_MAX_BYTES).await?;
        let media_type = head.content_type.ok_or_else(|| MirrorError::Unacceptable("no Content-Type".to_owned()))?;
        let expected = match (reference, head.digest) {
            (Reference::Digest(digest), _) | (Reference::Tag(_), Some(digest)) => digest,
            // No digest vouches for the bytes, so that only their type tells a manifest from the page of a captive portal.
            (Reference::Tag(_), None) if !media_type.is_image_or_index() => {
                return Err(MirrorError::Unacceptable(format!("{media_type} in place of a manifest")).into());
            }
            (Reference::Tag(_), None) => Digest::sha256(&bytes),
        };
        let actual = Digest::of(expected.algorithm(), &bytes);
        if actual != expected {
            self.shared.fills.reject(&place.source(caller), &FillError::WrongDigest { actual });
            return Err(MirrorError::Unacceptable(format!("its bytes hash to {actual}, not to {expected}")).into());
        }
        let content = Manifest::inspect(&bytes, &media_type).map_err(MirrorError::from)?;
        if let Some(known) = self.shared.store.catalog().media_type(&actual).await.filter(|known| *known != media_type) {
            let reason = format!("{actual} was {known} before and is {media_type} now");
            return Err(MirrorError::Unacceptable(reason).into());
        }
        let document = Arc::new(Document { digest: actual, media_type, bytes, last_use: LastUse::default() });
        self.keep(place, &document, &content).await;
        Ok(document)
    }

    /// Keeps a verified manifest, and all that follows from having it. Where the disk has no room it is kept in memory.
    async fn keep(&self, place: &Place, document: &Arc<Document>, content: &Manifest) {
        let key = ContentKey::new(place, Kind::Manifest, &document.digest);
        self.shared.documents.insert(document.digest, Arc::clone(document));
        if let Err(error) = self.write(document).await {
            tracing::warn!(manifest.digest = %document.digest, %error, "a manifest could not be kept on the disk");
            self.shared.readable.insert(key, None);
            return;
        }
        let size = document.bytes.len() as u64;
        let catalog = self.shared.store.catalog();
        catalog.add_manifest(&key.upstream, &key.repository, &document.digest, &document.media_type, size, content).await;
        self.granted(&key);
        self.content_arrived(&key).await;
    }

    /// Reads a body that must not be larger than `most` bytes, in the time that an upstream has.
    pub(super) async fn collect(&self, mut body: Body, head: &Head, most: usize) -> Result<Bytes, Failure> {
        let too_large = || Failure::Mirror(MirrorError::Unacceptable(format!("larger than {most} bytes")));
        if head.content_length.is_some_and(|length| length > most as u64) {
            return Err(too_large());
        }
        let collected = self.in_time(async {
            let mut bytes = BytesMut::new();
            while let Some(chunk) = body.next().await {
                let chunk = chunk?;
                if bytes.len() + chunk.len() > most {
                    return Ok(None);
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(Some(bytes.freeze()))
        });
        collected.await?.ok_or_else(too_large)
    }

    async fn write(&self, document: &Document) -> Result<(), StoreError> {
        let size = document.bytes.len() as u64;
        let ingest = self.shared.store.begin(document.digest, Some(size)).await?;
        let (file, bytes) = (ingest.file(), document.bytes.clone());
        let written = blocking(move || file.write_all_at(&bytes, 0)).await;
        let written = written.map_err(std::io::Error::other).and_then(|written| written);
        written.map_err(|error| self.shared.store.write_failed(error))?;
        ingest.commit(size).await?;
        Ok(())
    }
}

impl Document {
    pub(super) fn answer(&self, lookup: Lookup) -> ManifestAnswer {
        ManifestAnswer {
            digest: self.digest,
            media_type: self.media_type.clone(),
            size: Some(self.bytes.len() as u64),
            bytes: Some(self.bytes.clone()),
            lookup,
        }
    }
}

/// Why a fetch gave nothing: what the upstream said, whose meaning depends on what was asked, or what we make of its answer.
#[derive(Debug)]
pub(super) enum Failure {
    Upstream(UpstreamError),
    Mirror(MirrorError),
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(error)
    }
}

impl From<MirrorError> for Failure {
    fn from(error: MirrorError) -> Self {
        Self::Mirror(error)
    }
}
