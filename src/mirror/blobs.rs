//! Blobs: at rest, in flight, or to be fetched.

use std::sync::Arc;

use futures::FutureExt;

use super::access::Access;
use super::{Asked, CacheOutcome, Caller, ContentKey, Lookup, Mirror, MirrorError, Place};
use crate::fill::{Fill, FillError, Joined, Moment, Readable, Shelved, Source, Through};
use crate::oci::{Digest, Reference};
use crate::store::{Content, Kind};

/// How many fills that fail for reasons which are not its own a request joins before it is told so.
const FOREIGN_FILLS: usize = 8;

/// A blob that can be read.
pub struct BlobAnswer {
    pub content: Readable,
    pub lookup: Lookup,
}

/// What is known of a blob that nobody wants to read.
pub struct BlobHead {
    /// In bytes; unknown where the upstream does not tell.
    pub size: Option<u64>,
    pub lookup: Lookup,
}

impl Mirror {
    /// The blob `digest` of `place`, to be read. Returns as soon as there is something to read: at once if it is at rest or in
    /// flight, else when the upstream has answered.
    ///
    /// # Errors
    /// [`MirrorError`] if there is nothing to read.
    pub async fn blob(&self, place: &Place, digest: &Digest, caller: Caller) -> Result<BlobAnswer, MirrorError> {
        let answer = self.find_blob(place, digest, caller).await;
        self.note_wanted(place, Kind::Blob, &Reference::Digest(*digest), &answer).await;
        answer
    }

    async fn find_blob(&self, place: &Place, digest: &Digest, caller: Caller) -> Result<BlobAnswer, MirrorError> {
        let key = ContentKey::new(place, Kind::Blob, digest);
        let source = place.source(caller);
        if let Some(fill) = self.shared.fills.join(digest, &source) {
            let joining = self.join_blob(&key, fill);
            let answer = self.note_if_left(place, Kind::Blob, Reference::Digest(*digest), joining).boxed().await?;
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
        let moment = self.shared.fills.moment();
        let (at_rest, access) = self.blob_at_rest(place, &key, caller).await?;
        match at_rest {
            Some((content, lookup)) => {
                let shelved = Shelved { content, digest: *digest, fills: self.shared.fills.clone(), source };
                Ok(BlobAnswer { content: Readable::AtRest(shelved), lookup })
            }
            None => {
                let asking = self.fetch_blob(place, &key, access, caller, moment);
                self.note_if_left(place, Kind::Blob, Reference::Digest(*digest), asking).boxed().await
            }
        }
    }

    /// What is known of the blob `digest` of `place`. Never fetches its body.
    ///
    /// # Errors
    /// [`MirrorError`] if there is no such blob, or nobody can tell.
    pub async fn blob_head(&self, place: &Place, digest: &Digest, caller: Caller) -> Result<BlobHead, MirrorError> {
        let head = self.find_blob_head(place, digest, caller).await;
        self.note_wanted(place, Kind::Blob, &Reference::Digest(*digest), &head).await;
        head
    }

    async fn find_blob_head(&self, place: &Place, digest: &Digest, caller: Caller) -> Result<BlobHead, MirrorError> {
        let key = ContentKey::new(place, Kind::Blob, digest);
        let (at_rest, access) = self.blob_at_rest(place, &key, caller).await?;
        if let Some((content, lookup)) = at_rest {
            return Ok(BlobHead { size: Some(content.size), lookup });
        }
        let source = place.source(caller);
        // A fill of the same repository says what a HEAD upstream would say.
        if let Some(fill) = self.shared.fills.get_from(digest, &source)
            && let Ok(size) = fill.opened().await
        {
            return Ok(BlobHead { size, lookup: Lookup::of(CacheOutcome::Joined) });
        }
        // A client that looks first is not to be promised what it would be refused.
        if let Some(error) = self.shared.fills.refusal(digest, &source) {
            return Err(MirrorError::Broken(error));
        }
        let head = self.confirm(place, &key, caller).await?;
        Ok(BlobHead { size: head.content_length.or(access.size()), lookup: Lookup::of(CacheOutcome::Forwarded) })
    }

    /// The blob as it lies on the disk, once `place` is known to have it; and what was known of that before.
    async fn blob_at_rest(
        &self,
        place: &Place,
        key: &ContentKey,
        caller: Caller,
    ) -> Result<(Option<(Content, Lookup)>, Access), MirrorError> {
        let store = &self.shared.store;
        let (access, content) = match self.remembered_access(key) {
            Some(access) => (access, store.get(&key.digest).await),
            None => {
                let (right, content) = store.get_for(&key.upstream, &key.repository, key.kind, &key.digest).boxed().await;
                (self.access_by(place, key, right), content)
            }
        };
        let Some(content) = content else {
            return Ok((None, access));
        };
        let outcome = match access {
            Access::Granted { .. } => CacheOutcome::Hit,
            Access::Unproven { .. } => {
                self.prove(place, key, caller).boxed().await?;
                CacheOutcome::Revalidated
            }
        };
        Ok((Some((content, Lookup::of(outcome))), access))
    }

    /// What `fill` brings, which fetches the blob for the same place already: nothing need be looked up for that, so that a crowd does not
    /// wait for the disk. `None` if it brings nothing to whoever has not looked.
    async fn join_blob(&self, key: &ContentKey, fill: Arc<Fill>) -> Result<Option<BlobAnswer>, MirrorError> {
        match fill.opened().await {
            Ok(_) if fill.is_vouched_for() => {
                self.grant_meanwhile(key);
                Ok(Some(BlobAnswer { content: Readable::InFlight(fill), lookup: Lookup::of(CacheOutcome::Joined) }))
            }
            Ok(_) | Err(FillError::Unread) => Ok(None),
            Err(error) if error.is_local() || is_anothers_refusal(&error) => Ok(None),
            Err(error) => Err(self.fill_error(key, error)),
        }
    }

    async fn fetch_blob(
        &self,
        place: &Place,
        key: &ContentKey,
        access: Access,
        caller: Caller,
        missed: Moment,
    ) -> Result<BlobAnswer, MirrorError> {
        self.not_denied(&Asked::Content(key.clone()))?;
        if self.shared.fills.get(&key.digest).is_none() {
            self.turn(place, caller).await?;
        }
        let source = place.source(caller);
        for _ in 0..FOREIGN_FILLS {
            let (fill, outcome) = match self.shared.fills.fill(key.digest, &source, access.size(), Some(missed)) {
                Joined::Began(fill) => (fill, CacheOutcome::Miss),
                Joined::InFlight(fill) => (fill, CacheOutcome::Joined),
                // Our disk's fault, not the content's: a client that resumes is served without the disk.
                Joined::Broken(error) if error.is_local() => return self.pass_through(&source, key, access.size(), &error).await,
                Joined::Broken(error) => return Err(MirrorError::Broken(error)),
            };
            let of_this_place = fill.source().is(&source);
            // The fill's own answer proves that the repository it reads from has the content, and no other.
            if !of_this_place && matches!(access, Access::Unproven { .. }) {
                self.prove(place, key, caller).await?;
            }
            match fill.opened().await {
                Ok(_) => {
                    if of_this_place && !fill.is_vouched_for() && matches!(access, Access::Unproven { .. }) {
                        self.prove(place, key, caller).await?;
                    }
                    self.grant_meanwhile(key);
                    return Ok(BlobAnswer { content: Readable::InFlight(fill), lookup: Lookup::of(outcome) });
                }
                Err(error) if error.is_local() => return self.pass_through(&source, key, access.size(), &error).await,
                // It ended in the moment in which we came.
                Err(FillError::Unread) => fill.landed().await,
                // Who began it has had its share, or too long a line: that is no answer to another client.
                Err(error) if outcome == CacheOutcome::Joined && is_anothers_refusal(&error) => fill.landed().await,
                // Another repository's failure says nothing about ours.
                Err(_) if !of_this_place => {}
                Err(error) => {
                    let error = Err(self.fill_error(key, error));
                    if outcome == CacheOutcome::Miss {
                        self.note_in_vain(caller, &error);
                    }
                    return error;
                }
            }
        }
        Err(MirrorError::Cache("the fills that it joined have failed".to_owned()))
    }

    /// The blob straight from the upstream, because the cache cannot keep it.
    async fn pass_through(
        &self,
        source: &Source,
        key: &ContentKey,
        size: Option<u64>,
        cause: &FillError,
    ) -> Result<BlobAnswer, MirrorError> {
        tracing::warn!(blob.digest = %key.digest, upstream = %key.upstream, %cause, "passing a blob through without keeping it");
        let through = Through::open(source.clone(), key.digest, size).await.map_err(|error| self.fill_error(key, error))?;
        let lookup = Lookup::of(CacheOutcome::PassedThrough);
        Ok(BlobAnswer { content: Readable::Through(Arc::new(through)), lookup })
    }

    fn fill_error(&self, key: &ContentKey, error: FillError) -> MirrorError {
        match error {
            FillError::Upstream(error) => self.note_absence(key, error),
            error => MirrorError::from_fill(error),
        }
    }
}

/// Whether a fill has failed for the sake of who began it alone.
fn is_anothers_refusal(error: &FillError) -> bool {
    matches!(error, FillError::Upstream(error) if error.is_for_one_caller())
}

impl Place {
    /// It as a place to fetch content from, on behalf of `caller`.
    pub(super) fn source(&self, caller: Caller) -> Source {
        Source {
            upstream: self.upstream.name.clone(),
            repository: self.repository.clone(),
            origin: Arc::clone(&self.upstream.origin),
            caller,
        }
    }
}
