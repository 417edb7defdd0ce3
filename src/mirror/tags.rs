//! Tags: what they point to, for how long that is taken as true, and what is served when nobody can tell any more.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::access::RETRIES;
use super::freshness::Age;
use super::manifests::{self, Want};
use super::shared::share;
use super::{
    CacheOutcome, Caller, ContentKey, Document, Lookup, ManifestAnswer, Mirror, MirrorError, MissingKey, Place, StaleReason,
    TagKey,
};
use crate::config::{Failure, TagPolicy};
use crate::oci::{Manifest, Reference, Tag};
use crate::store::{Kind, TagRecord};
use crate::upstream::{Head, Method, Phase, Question, Target, UpstreamError};

/// How deep indexes may be nested in each other.
const INDEX_DEPTH: usize = 3;

impl TagKey {
    fn new(place: &Place, tag: &Tag) -> Self {
        Self { upstream: place.upstream.name.clone(), repository: place.repository.clone(), tag: tag.clone() }
    }
}

impl Mirror {
    /// The manifest that `tag` points to (design, section 3). What is fresh, and for which failures a stale one is served and for how
    /// long, is the operator's to say ([`crate::config::TagPolicy`]).
    ///
    /// | the cached tag is | the upstream says | answer |
    /// |---|---|---|
    /// | fresh | (not asked) | the cached manifest |
    /// | stale by little | (asked meanwhile) | the cached manifest |
    /// | stale | the same digest | the cached manifest, fresh again |
    /// | stale | another digest | that digest, fetched once; the tag moves with it |
    /// | stale | 404 | that, or the cached manifest if it is to be kept |
    /// | stale | nothing for a while | the cached manifest, marked stale; the question goes on |
    /// | stale | anything else | the cached manifest, marked stale, if the image is complete |
    /// | absent | an error | that error |
    pub(super) async fn manifest_by_tag(
        &self,
        place: &Place,
        tag: &Tag,
        want: Want,
        caller: Caller,
    ) -> Result<ManifestAnswer, MirrorError> {
        let key = TagKey::new(place, tag);
        let policy = self.policy(&key);
        let record = self.last_seen(&key).await;
        let age = record.as_ref().map_or(Age::Stale, |record| self.age(&key, &policy, record.checked_at));
        if let Some(record) = record.as_ref().filter(|_| age == Age::Fresh) {
            return match self.answer(place, record, want, CacheOutcome::Hit, caller).await {
                Err(error) => self.stale(place, &key, &policy, error).boxed().await,
                answer => answer,
            };
        }
        self.manifest_by_old_tag(place, (key, record, age, policy), want, caller).boxed().await
    }

    /// The manifest of a tag that is not fresh, or was never seen.
    async fn manifest_by_old_tag(
        &self,
        place: &Place,
        (key, record, age, policy): (TagKey, Option<TagRecord>, Age, TagPolicy),
        want: Want,
        caller: Caller,
    ) -> Result<ManifestAnswer, MirrorError> {
        if self.shared.missing.contains_key(&MissingKey::Tag(key.clone())) {
            return self.stale(place, &key, &policy, MirrorError::Unknown("manifest")).await;
        }
        if age == Age::Lenient
            && let Some((document, true)) = self.stale_document(&key, &policy, StaleReason::Revalidating).await
        {
            self.ask_behind(place, &key);
            return Ok(document.answer(Lookup::of(CacheOutcome::Stale(StaleReason::Revalidating))));
        }
        let late = || MirrorError::Upstream(UpstreamError::Timeout { phase: Phase::Headers });
        // Who was not answered a moment ago is not waited for while there is something to serve.
        if record.is_some()
            && self.is_slow(&place.upstream.name)
            && let Ok(answer) = self.stale(place, &key, &policy, late()).await
        {
            self.ask_behind(place, &key);
            return Ok(answer);
        }
        let resolving = self.resolve(place, &key, caller);
        tokio::pin!(resolving);
        let resolved = match tokio::time::timeout(self.shared.timing.revalidation, &mut resolving).await {
            Ok(resolved) => resolved,
            Err(_) => {
                if record.is_some()
                    && let Ok(answer) = self.stale(place, &key, &policy, late()).await
                {
                    self.note_slow(&place.upstream.name);
                    return Ok(answer);
                }
                resolving.await
            }
        };
        let answer = match resolved {
            Ok((record, outcome)) => self.answer_as_told(place, &key, &record, want, outcome, caller).await,
            Err(error) => Err(error),
        };
        match answer {
            Err(error) => self.stale(place, &key, &policy, error).await,
            answer => answer,
        }
    }

    /// The manifest that the upstream has just said the tag points to.
    async fn answer_as_told(
        &self,
        place: &Place,
        key: &TagKey,
        record: &TagRecord,
        want: Want,
        outcome: CacheOutcome,
        caller: Caller,
    ) -> Result<ManifestAnswer, MirrorError> {
        if want == Want::Body
            && self.cached_document(&record.digest).await.is_none()
            && let Some(saving) = self.saving(place, key).await
        {
            return Err(MirrorError::Upstream(saving));
        }
        self.answer(place, record, want, outcome, caller).await.map_err(|error| match error {
            // The upstream has the tag and not what it points to: that is a fault of the upstream, not an answer.
            MirrorError::Unknown(_) => MirrorError::Unacceptable("it has the tag, and not the manifest that it names".to_owned()),
            error => error,
        })
    }

    /// Asks what the tag points to, and fetches that manifest if it is another one, for the next client.
    fn ask_behind(&self, place: &Place, key: &TagKey) {
        let (mirror, at, key) = (self.clone(), place.clone(), key.clone());
        self.probe(place, async move {
            // How it ends is noted where it is asked.
            if let Ok((record, _)) = mirror.resolve(&at, &key, Caller::Larder).await
                && mirror.saving(&at, &key).await.is_none()
            {
                let _ = mirror.document(&at, &record.digest, Caller::Larder).await;
            }
        });
    }

    /// The tag as it was last seen upstream.
    async fn last_seen(&self, key: &TagKey) -> Option<TagRecord> {
        if let Some(record) = self.shared.tags.get(key) {
            return Some(record);
        }
        let record = self.shared.store.catalog().tag(&key.upstream, &key.repository, &key.tag).boxed().await;
        // Whoever has asked the upstream meanwhile knows better.
        self.shared.tags.get(key).or_else(|| record.inspect(|record| self.shared.tags.insert(key.clone(), record.clone())))
    }

    /// The manifest of a record that is true. `outcome` is what it took to know that.
    async fn answer(
        &self,
        place: &Place,
        record: &TagRecord,
        want: Want,
        outcome: CacheOutcome,
        caller: Caller,
    ) -> Result<ManifestAnswer, MirrorError> {
        if let Some(document) = self.cached_document(&record.digest).await {
            return Ok(document.answer(Lookup::of(outcome)));
        }
        match want {
            // Who only asks what the tag is gets no more, and costs the upstream no more: a HEAD is not counted as a pull.
            Want::Head => Ok(ManifestAnswer {
                digest: record.digest,
                media_type: record.media_type.clone(),
                size: (record.size > 0).then_some(record.size),
                bytes: None,
                lookup: Lookup::of(if outcome == CacheOutcome::Revalidated { CacheOutcome::Forwarded } else { outcome }),
            }),
            Want::Body => {
                let (document, outcome) = self.document(place, &record.digest, caller).boxed().await?;
                Ok(document.answer(Lookup::of(outcome)))
            }
        }
    }

    /// Asks the upstream what the tag points to; all who wait share the question.
    async fn resolve(&self, place: &Place, key: &TagKey, caller: Caller) -> Result<(TagRecord, CacheOutcome), MirrorError> {
        if !self.shared.resolutions.is_under_way(key) {
            self.turn(place, caller).await?;
        }
        let work = || {
            let (mirror, place, key) = (self.clone(), place.clone(), key.clone());
            async move { mirror.resolve_now(&place, &key, caller).await }
        };
        let (result, joined) = share(&self.shared.resolutions, key, work).await;
        if !joined {
            self.note_in_vain(caller, &result);
        }
        let record = result?;
        Ok((record, CacheOutcome::Revalidated))
    }

    async fn resolve_now(&self, place: &Place, key: &TagKey, caller: Caller) -> Result<TagRecord, MirrorError> {
        // Where something can be served instead, it is not worth much waiting.
        let retries = if self.last_seen(key).await.is_some() { 1 } else { RETRIES };
        // Taken before the question: what the upstream says is no younger than that.
        let checked_at = self.shared.clock.unix_millis();
        let reference = Reference::Tag(key.tag.clone());
        let target = Target::Manifest(reference.clone());
        let question = Question { repository: place.repository.clone(), target, method: Method::Head, caller };
        let head = match self.ask_again(place, question, retries).await {
            Ok(answer) => answer.head,
            // It does not know HEAD, and so tells as little as a HEAD without a digest.
            Err(UpstreamError::Status { status: 400 | 405 | 501, .. }) => Head::default(),
            Err(error) => return Err(self.tag_failed(key, error).await),
        };
        let record = match head {
            Head { digest: Some(digest), content_type: Some(media_type), content_length, .. } => {
                TagRecord { digest, media_type, size: content_length.unwrap_or(0), checked_at }
            }
            // Which manifest it is can only be told from its bytes, which counts as a pull.
            _ => {
                if let Some(saving) = self.saving(place, key).await {
                    return Err(MirrorError::Upstream(saving));
                }
                match self.get_document(place, reference, caller).await {
                    Ok(document) => document.record(checked_at),
                    Err(manifests::Failure::Upstream(error)) => return Err(self.tag_failed(key, error).await),
                    Err(manifests::Failure::Mirror(error)) => return Err(error),
                }
            }
        };
        self.seen(key, &record).await;
        // The upstream has said in so many words that the repository has this manifest.
        if self.cached_document(&record.digest).await.is_some() {
            self.grant(&ContentKey::new(place, Kind::Manifest, &record.digest)).await;
        }
        Ok(record)
    }

    /// Notes what the upstream said of a tag. The catalog learns of a move only when the content is here: until then the old
    /// content is what can be served if the upstream fails.
    async fn seen(&self, key: &TagKey, record: &TagRecord) {
        self.shared.missing.invalidate(&MissingKey::Tag(key.clone()));
        self.shared.tags.insert(key.clone(), record.clone());
        let content = ContentKey {
            upstream: key.upstream.clone(),
            repository: key.repository.clone(),
            kind: Kind::Manifest,
            digest: record.digest,
        };
        // Noted before the look: content that arrives in between finds the note.
        self.shared.awaiting_content.entry(content.clone()).and_upsert_with(|tags| {
            let mut tags = tags.map_or_else(Vec::new, |tags| tags.into_value().to_vec());
            if !tags.contains(&key.tag) {
                tags.push(key.tag.clone());
            }
            Arc::new(tags)
        });
        if self.cached_document(&record.digest).await.is_some() {
            self.content_arrived(&content).await;
        }
    }

    /// The manifest has arrived that some tags have moved to: now they move in the catalog as well.
    pub(super) async fn content_arrived(&self, content: &ContentKey) {
        let Some(tags) = self.shared.awaiting_content.remove(content) else { return };
        for tag in tags.iter() {
            let key = TagKey { upstream: content.upstream.clone(), repository: content.repository.clone(), tag: tag.clone() };
            // It may have moved on since.
            if let Some(record) = self.shared.tags.get(&key).filter(|record| record.digest == content.digest) {
                self.shared.store.catalog().set_tag(&key.upstream, &key.repository, &key.tag, record).await;
            }
        }
    }

    async fn tag_failed(&self, key: &TagKey, error: UpstreamError) -> MirrorError {
        if matches!(error, UpstreamError::NotFound) {
            self.shared.missing.insert(MissingKey::Tag(key.clone()), ());
            if self.policy(key).keep_missing {
                return MirrorError::Unknown("manifest");
            }
            self.shared.tags.invalidate(key);
            self.shared.store.catalog().remove_tag(&key.upstream, &key.repository, &key.tag).await;
        }
        MirrorError::from_upstream(error, "manifest")
    }

    /// Why what `key` has moved to is not to be fetched: that would be one of the last pulls, and what it was before can be served.
    async fn saving(&self, place: &Place, key: &TagKey) -> Option<UpstreamError> {
        let saving = place.upstream.origin.saving()?;
        let catalog = self.shared.store.catalog();
        let has_something = catalog.tag(&key.upstream, &key.repository, &key.tag).await.is_some();
        (has_something && !self.policy(key).refuse_stale.contains(Failure::RateLimited)).then_some(saving)
    }

    /// What can be served although the upstream failed with `error`: the manifest that the tag pointed to when its content was last
    /// complete here. Nothing, if the policy is against it.
    async fn stale(
        &self,
        place: &Place,
        key: &TagKey,
        policy: &TagPolicy,
        error: MirrorError,
    ) -> Result<ManifestAnswer, MirrorError> {
        let Some(cause) = error.stale_cause() else { return Err(error) };
        let lookup = Lookup::stale(&cause);
        let CacheOutcome::Stale(reason) = lookup.outcome else { return Err(error) };
        let Some((document, is_complete)) = self.stale_document(key, policy, reason).await else { return Err(error) };
        if !is_complete {
            return Err(if reason == StaleReason::Missing { error } else { MirrorError::Incomplete(cause) });
        }
        // That an upstream is left alone was said when that began.
        if !matches!(cause, UpstreamError::Offline | UpstreamError::Suspended { .. }) {
            tracing::warn!(place = ?place, tag = %key.tag, error = %cause, "serving a stale tag");
        }
        Ok(document.answer(lookup))
    }

    /// The manifest that the tag pointed to when its content was last complete here, if it may be served for this reason; and
    /// whether all of the image is here.
    async fn stale_document(&self, key: &TagKey, policy: &TagPolicy, reason: StaleReason) -> Option<(Arc<Document>, bool)> {
        let record = self.shared.store.catalog().tag(&key.upstream, &key.repository, &key.tag).await?;
        if !self.may_be_stale(policy, record.checked_at, reason) {
            return None;
        }
        let document = self.cached_document(&record.digest).await?;
        let is_complete = self.is_complete(&document, INDEX_DEPTH).await;
        Some((document, is_complete))
    }

    /// Whether all that a client will ask for next is here. Podman, CRI-O and Skopeo choose their mirror at the first manifest and
    /// never fall back for blobs, so half an image must not be begun while its other half cannot be had. Of an index, one
    /// image suffices: which platform the client is for is not known yet, and what is attached to images is not pulled with them.
    fn is_complete<'a>(&'a self, document: &'a Document, depth: usize) -> BoxFuture<'a, bool> {
        let check = async move {
            let Ok(content) = Manifest::inspect(&document.bytes, &document.media_type) else { return false };
            if !self.has_all_blobs(&content).await {
                return false;
            }
            if content.manifests.is_empty() {
                return true;
            }
            for child in content.manifests.iter().filter(|child| depth > 0 && !child.is_attachment) {
                if let Some(child) = self.cached_document(&child.digest).await
                    && self.is_complete(&child, depth - 1).await
                {
                    return true;
                }
            }
            false
        };
        check.boxed()
    }

    async fn has_all_blobs(&self, content: &Manifest) -> bool {
        for blob in &content.blobs {
            if self.shared.store.get(&blob.digest).await.is_none() {
                return false;
            }
        }
        true
    }
}

impl Document {
    fn record(&self, checked_at: i64) -> TagRecord {
        TagRecord { digest: self.digest, media_type: self.media_type.clone(), size: self.bytes.len() as u64, checked_at }
    }
}
