//! Tags: what they point to, for how long that is taken as true, and what is served when nobody can tell any more.

use std::sync::Arc;

use futures::FutureExt;

use std::time::Duration;

use super::access::RETRIES;
use super::freshness::Age;
use super::manifests::{self, Want};
use super::shared::share;
use super::slow::Waited;
use super::{
    Asked, CacheOutcome, Caller, ContentKey, Document, Lookup, ManifestAnswer, Mirror, MirrorError, Place, StaleReason, TagKey,
};
use crate::config::{Failure, TagPolicy};
use crate::oci::{Reference, Tag};
use crate::store::{Kind, TagRecord};
use crate::upstream::{Head, Method, Phase, Question, Target, UpstreamError};

/// How often the log says of the same tag that it is served stale, at the most.
pub(super) const TOLD: Duration = Duration::from_secs(60);

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
            return match self.answer(place, &key, record, want, CacheOutcome::Hit, caller).await {
                Err(error) => self.stale(place, &key, &policy, error).boxed().await,
                answer => answer,
            };
        }
        let asking = self.manifest_by_old_tag(place, (key, record, age, policy), want, caller);
        self.note_if_left(place, Kind::Manifest, Reference::Tag(tag.clone()), asking).boxed().await
    }

    /// The manifest of a tag that is not fresh, or was never seen.
    async fn manifest_by_old_tag(
        &self,
        place: &Place,
        (key, record, age, policy): (TagKey, Option<TagRecord>, Age, TagPolicy),
        want: Want,
        caller: Caller,
    ) -> Result<ManifestAnswer, MirrorError> {
        if let Err(error) = self.not_denied(&Asked::Tag(key.clone())) {
            return self.stale(place, &key, &policy, error).await;
        }
        if age == Age::Lenient
            && let Some((document, true)) = self.stale_document(&key, &policy, StaleReason::Revalidating).await
        {
            self.ask_behind(place, &key);
            return Ok(document.answer(Lookup::of(CacheOutcome::Stale(StaleReason::Revalidating))));
        }
        let is_known = record.is_some();
        let stale_after = |phase| {
            let (mirror, place, key, policy) = (self, place, &key, &policy);
            async move {
                let late = MirrorError::Upstream(UpstreamError::Timeout { phase });
                if is_known { mirror.stale(place, key, policy, late).await.ok() } else { None }
            }
        };
        // Who was not answered a moment ago is not waited for while there is something to serve.
        if self.is_slow(&place.upstream.name)
            && let Some(answer) = stale_after(Phase::Headers).await
        {
            self.ask_behind(place, &key);
            return Ok(answer);
        }
        // How long a client's own line is says nothing of the upstream.
        match self.wait(self.turn_to_resolve(place, &key, caller), stale_after(Phase::Queue)).await {
            Waited::Ended(Ok(())) => {}
            Waited::Ended(Err(error)) => return self.stale(place, &key, &policy, error).await,
            Waited::Late(answer) => return Ok(answer),
        }
        // Who waited for a turn may have been one of several, of whom the first has asked for all.
        let told = self.shared.tags.get(&key).filter(|record| self.age(&key, &policy, record.checked_at) == Age::Fresh);
        let resolved = match told {
            Some(record) => Ok((record, CacheOutcome::RevalidatedJoined)),
            None => match self.wait(self.resolve(place, &key, caller, is_known), stale_after(Phase::Headers)).await {
                Waited::Ended(resolved) => resolved,
                Waited::Late(answer) => {
                    self.note_slow(&place.upstream.name);
                    return Ok(answer);
                }
            },
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
        self.answer(place, key, record, want, outcome, caller).await.map_err(|error| match error {
            // The upstream has the tag and not what it points to: that is a fault of the upstream, not an answer.
            MirrorError::Unknown(_) => MirrorError::Unacceptable("it has the tag, and not the manifest that it names".to_owned()),
            error => error,
        })
    }

    /// Asks what the tag points to, and fetches that manifest if it is another one, for the next client.
    fn ask_behind(&self, place: &Place, key: &TagKey) {
        self.probe(place, || {
            let (mirror, place, key) = (self.clone(), place.clone(), key.clone());
            async move {
                // How it ends is noted where it is asked.
                if let Ok((record, _)) = mirror.resolve(&place, &key, Caller::Larder, true).await
                    && mirror.saving(&place, &key).await.is_none()
                {
                    let _ = mirror.document(&place, &record.digest, Caller::Larder).await;
                }
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
        key: &TagKey,
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
                lookup: Lookup::of(match outcome {
                    CacheOutcome::Revalidated => CacheOutcome::Forwarded,
                    CacheOutcome::RevalidatedJoined => CacheOutcome::Joined,
                    outcome => outcome,
                }),
            }),
            Want::Body => {
                // With what it pointed to, the catalog has forgotten the tag.
                self.await_content(key, record);
                let (document, outcome) = self.document(place, &record.digest, caller).boxed().await?;
                Ok(document.answer(Lookup::of(outcome)))
            }
        }
    }

    /// Waits until the upstream may be asked what the tag points to. Who shares somebody else's question has no turn to wait for.
    async fn turn_to_resolve(&self, place: &Place, key: &TagKey, caller: Caller) -> Result<(), MirrorError> {
        match self.shared.resolutions.is_under_way(key) {
            true => Ok(()),
            false => self.turn(place, caller).await,
        }
    }

    /// Asks the upstream what the tag points to; all who wait share the question. `is_known` says that the tag has been there.
    async fn resolve(
        &self,
        place: &Place,
        key: &TagKey,
        caller: Caller,
        is_known: bool,
    ) -> Result<(TagRecord, CacheOutcome), MirrorError> {
        let work = || {
            let (mirror, place, key) = (self.clone(), place.clone(), key.clone());
            async move { mirror.resolve_now(&place, &key, caller).await }
        };
        let (result, joined) = share(&self.shared.resolutions, key, work).await;
        if !joined && !is_known {
            self.note_in_vain(caller, &result);
        }
        let record = result?;
        Ok((record, if joined { CacheOutcome::RevalidatedJoined } else { CacheOutcome::Revalidated }))
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
        self.forget_denial(&Asked::Tag(key.clone()));
        self.shared.tags.insert(key.clone(), record.clone());
        // Noted before the look: content that arrives in between finds the note.
        let content = self.await_content(key, record);
        if self.cached_document(&record.digest).await.is_some() {
            self.content_arrived(&content).await;
        }
    }

    /// Notes that the tag is to be in the catalog when that content has arrived.
    fn await_content(&self, key: &TagKey, record: &TagRecord) -> ContentKey {
        let content = ContentKey {
            upstream: key.upstream.clone(),
            repository: key.repository.clone(),
            kind: Kind::Manifest,
            digest: record.digest,
        };
        self.shared.awaiting_content.entry(content.clone()).and_upsert_with(|tags| {
            let mut tags = tags.map_or_else(Vec::new, |tags| tags.into_value().to_vec());
            if !tags.contains(&key.tag) {
                tags.push(key.tag.clone());
            }
            Arc::new(tags)
        });
        content
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
        if matches!(error, UpstreamError::NotFound) && !self.policy(key).keep_missing {
            self.shared.tags.invalidate(key);
            self.shared.store.catalog().remove_tag(&key.upstream, &key.repository, &key.tag).await;
        }
        let error = MirrorError::from_upstream(error, "manifest");
        self.note_denial(|| Asked::Tag(key.clone()), &error);
        error
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
        self.tell(place, key, &cause);
        Ok(document.answer(lookup))
    }

    /// Tells the log that the tag is served stale because a question about it has failed: not for each client that gets it.
    fn tell(&self, place: &Place, key: &TagKey, cause: &UpstreamError) {
        let was_told_elsewhere = match cause {
            // That an upstream is left alone was said when that began.
            UpstreamError::Offline | UpstreamError::Suspended { .. } | UpstreamError::RateLimited { .. } => true,
            // It was not asked.
            UpstreamError::Saving { .. } | UpstreamError::ShareSpent { .. } | UpstreamError::Timeout { phase: Phase::Queue } => {
                true
            }
            _ => false,
        };
        if !was_told_elsewhere && self.shared.told.entry_by_ref(key).or_insert(()).is_fresh() {
            tracing::warn!(place = ?place, tag = %key.tag, error = %cause, "serving a stale tag");
        }
    }

    /// The manifest that the tag pointed to when its content was last complete here, if it may be served for this reason; and
    /// whether all of the image is here.
    async fn stale_document(&self, key: &TagKey, policy: &TagPolicy, reason: StaleReason) -> Option<(Arc<Document>, bool)> {
        let record = self.shared.store.catalog().tag(&key.upstream, &key.repository, &key.tag).await?;
        if !self.may_be_stale(policy, record.checked_at, reason) {
            return None;
        }
        let document = self.cached_document(&record.digest).await?;
        let is_complete = self.is_complete(&document).await;
        Some((document, is_complete))
    }
}

impl Document {
    fn record(&self, checked_at: i64) -> TagRecord {
        TagRecord { digest: self.digest, media_type: self.media_type.clone(), size: self.bytes.len() as u64, checked_at }
    }
}
