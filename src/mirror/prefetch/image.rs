//! The course of a prefetch: from a manifest that a client pulled to the image that its platform's clients will ask for next, and to
//! the blobs of that image. Errors end it, and nobody but the log hears of them.

use std::sync::{Arc, OnceLock};

use futures::StreamExt;
use futures::stream;

use super::allowance::is_near;
use super::{FILLS_PER_UPSTREAM, Prefetch, PrefetchOutcome, Stopped, Turn};
use crate::fill::{FillError, Joined};
use crate::mirror::{Asked, Caller, ContentKey, ManifestAnswer, Mirror, Place};
use crate::oci::{Descriptor, Digest, Manifest};
use crate::store::Kind;
use crate::upstream::UpstreamError;

/// Of how many blobs of an image it is looked whether they are here. Clients give up on far fewer layers.
const BLOBS_OF_AN_IMAGE: usize = 256;

impl Mirror {
    /// Has what `answer` refers to fetched, if that is wanted, behind the back of the client who pulled it.
    pub(in crate::mirror) fn prefetch(&self, place: &Place, answer: &ManifestAnswer) {
        let (Some(prefetch), Some(bytes)) = (&self.shared.prefetch, &answer.bytes) else { return };
        prefetch.platforms.asked(&place.upstream.name, &answer.digest);
        let Some(turn) = prefetch.turn(ContentKey::new(place, Kind::Manifest, &answer.digest)) else { return };
        let Ok(content) = Manifest::inspect(bytes, &answer.media_type) else { return };
        // Before the answer goes out: the next request may be for what is listed.
        prefetch.platforms.learn(&place.upstream.name, &content);
        if content.manifests.is_empty() && content.blobs.is_empty() {
            return;
        }
        let (mirror, place, prefetch) = (self.clone(), place.clone(), Arc::clone(prefetch));
        tokio::spawn(async move { mirror.run_prefetch(&prefetch, &place, content, turn).await });
    }

    async fn run_prefetch(&self, prefetch: &Arc<Prefetch>, place: &Place, content: Manifest, turn: Turn) {
        let result = if content.manifests.is_empty() {
            self.fill_image(prefetch, place, content).await
        } else {
            self.fill_index(prefetch, place, &content).await
        };
        let (digest, cause) = (turn.manifest.digest, result.as_ref().err().map(tracing::field::display));
        let outcome = result.as_ref().map_or_else(Stopped::outcome, |outcome| *outcome);
        tracing::debug!(?place, manifest.digest = %digest, outcome = outcome.as_str(), cause, "prefetch ended");
        prefetch.observer.ended(&place.upstream.name, outcome);
    }

    /// Fetches the image of `index` that clients will ask for next, if that can be told.
    async fn fill_index(&self, prefetch: &Arc<Prefetch>, place: &Place, index: &Manifest) -> Result<PrefetchOutcome, Stopped> {
        let platform = prefetch.platforms.most_asked(&place.upstream.name).ok_or(Stopped::NoPlatform)?;
        let is_for_clients = |child: &&Descriptor| child.platform.as_ref() == Some(&platform);
        let child = index.manifests.iter().find(is_for_clients).ok_or(Stopped::NoPlatform)?;
        let key = ContentKey::new(place, Kind::Manifest, &child.digest);
        // A client has asked for it already, and so for all that comes with it.
        let Some(_turn) = prefetch.turn(key.clone()) else { return Ok(PrefetchOutcome::Needless) };
        let document = match self.cached_document(&child.digest).await {
            Some(document) => document,
            None => {
                self.may_ask(prefetch, place)?;
                self.not_denied(&Asked::Content(key.clone())).map_err(Stopped::Manifest)?;
                let _room = prefetch.promised.promise(child.size, || self.shared.store.stats()).ok_or(Stopped::NoRoom)?;
                let (document, _) = self.document(place, &child.digest, Caller::Larder).await.map_err(Stopped::Manifest)?;
                document
            }
        };
        let image = Manifest::inspect(&document.bytes, &document.media_type);
        self.fill_image(prefetch, place, image.map_err(|error| Stopped::Manifest(error.into()))?).await
    }

    /// Fetches what is not here of the blobs of `image`, if there is room for all of them.
    async fn fill_image(&self, prefetch: &Prefetch, place: &Place, image: Manifest) -> Result<PrefetchOutcome, Stopped> {
        let mut missing = Vec::new();
        for blob in image.blobs.into_iter().take(BLOBS_OF_AN_IMAGE) {
            // Without a size it cannot be told whether there is room.
            if !blob.is_foreign && blob.size > 0 && !self.is_here(&blob.digest).await {
                missing.push(blob);
            }
        }
        if missing.is_empty() {
            return Ok(PrefetchOutcome::Needless);
        }
        self.may_ask(prefetch, place)?;
        let size = missing.iter().map(|blob| blob.size).fold(0, u64::saturating_add);
        prefetch.promised.promise(size, || self.shared.store.stats()).ok_or(Stopped::NoRoom)?;
        // What has begun is seen to its end; only nothing more is begun.
        let stopped = OnceLock::new();
        let fill = async |blob: Descriptor| {
            if stopped.get().is_none()
                && let Err(error) = self.fill_ahead(prefetch, place, &blob).await
            {
                // Of several reasons, one is enough.
                let _ = stopped.set(error);
            }
        };
        stream::iter(missing).for_each_concurrent(FILLS_PER_UPSTREAM, fill).await;
        stopped.into_inner().map_or(Ok(PrefetchOutcome::Filled), Err)
    }

    /// Fetches one blob, as a client's request for it would, but for what that may cost others.
    async fn fill_ahead(&self, prefetch: &Prefetch, place: &Place, blob: &Descriptor) -> Result<(), Stopped> {
        let _place = prefetch.place(&place.upstream.name).await;
        // It was a while ago that it was missing.
        if self.is_here(&blob.digest).await {
            return Ok(());
        }
        self.may_ask(prefetch, place)?;
        let key = ContentKey::new(place, Kind::Blob, &blob.digest);
        self.not_denied(&Asked::Content(key.clone())).map_err(Stopped::Manifest)?;
        let room = prefetch.promised.promise(blob.size, || self.shared.store.stats()).ok_or(Stopped::NoRoom)?;
        let filled = match self.shared.fills.fill(blob.digest, &place.source(Caller::Larder), Some(blob.size), None) {
            Joined::InFlight(_) => return Ok(()),
            Joined::Broken(error) => Err(error),
            Joined::Began(fill) => match fill.opened().await {
                Ok(_) => {
                    // From here on its room is reserved.
                    drop(room);
                    if fill.is_vouched_for() {
                        self.grant(&key).await;
                    }
                    // As long as we wait for it, it is not left unfinished for want of readers.
                    fill.verified().await
                }
                Err(error) => Err(error),
            },
        };
        filled.map_err(|error| {
            match &error {
                FillError::Upstream(error @ UpstreamError::NotFound) => drop(self.note_absence(&key, error.clone())),
                // That is between the upstream and this repository, or between us and our own.
                FillError::Upstream(UpstreamError::Denied { .. })
                | FillError::BadPart
                | FillError::Stopped
                | FillError::Abandoned => {}
                error => prefetch.failures.insert(key.upstream.clone(), error.clone()),
            }
            Stopped::Blob(error)
        })
    }

    /// Whether there is a reason not to ask the upstream for what nobody waits for.
    fn may_ask(&self, prefetch: &Prefetch, place: &Place) -> Result<(), Stopped> {
        let upstream = &place.upstream.name;
        if let Some(cause) = place.upstream.origin.refusal() {
            return Err(Stopped::Trouble(cause));
        }
        if self.is_slow(upstream) {
            return Err(Stopped::Slow);
        }
        if let Some(error) = prefetch.failures.get(upstream) {
            return Err(Stopped::FailedBefore(error));
        }
        let origin = &place.upstream.origin;
        if let (Some(limit), Some(unreserved)) = (origin.rate_limit(), origin.unreserved())
            && is_near(&limit, unreserved)
        {
            return Err(Stopped::LimitNear);
        }
        if !self.shared.fills.has_places_to_spare(upstream) {
            return Err(Stopped::Busy);
        }
        Ok(())
    }

    /// Whether a blob is at rest, or on its way.
    async fn is_here(&self, digest: &Digest) -> bool {
        self.shared.fills.get(digest).is_some() || self.shared.store.get(digest).await.is_some()
    }
}
