//! Who may read what: decided per (upstream, repository, digest), never per digest. That content is on our disk does not mean that
//! the repository named in a request has it.

use std::time::Duration;

use futures::FutureExt;

use super::{Asked, Caller, ContentKey, Document, Mirror, MirrorError, Place};
use crate::oci::{Digest, Manifest, Reference, UpstreamName};
use crate::store::{Kind, Right};
use crate::upstream::{Answer, Head, Method, Phase, Question, Target, UpstreamError};
use crate::util::jitter;

/// How often an upstream is asked again, and the pause before the first time; it doubles.
pub(super) const RETRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// What is known of a repository's right to content, before anybody is asked.
pub(super) enum Access {
    /// It has it. The size is known where a manifest told it.
    Granted { size: Option<u64> },
    /// Only the upstream can tell.
    Unproven { size: Option<u64> },
}

impl Access {
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::Granted { size } | Self::Unproven { size } => *size,
        }
    }
}

impl ContentKey {
    pub(super) fn new(place: &Place, kind: Kind, digest: &Digest) -> Self {
        Self { upstream: place.upstream.name.clone(), repository: place.repository.clone(), kind, digest: *digest }
    }

    /// The word for it in errors.
    pub(super) fn what(&self) -> &'static str {
        match self.kind {
            Kind::Manifest => "manifest",
            Kind::Blob => "blob",
        }
    }

    pub(super) fn target(&self) -> Target {
        match self.kind {
            Kind::Manifest => Target::Manifest(Reference::Digest(self.digest)),
            Kind::Blob => Target::Blob(self.digest),
        }
    }
}

impl Mirror {
    /// What the catalog knows of the right of `place` to `digest`.
    pub(super) async fn access(&self, place: &Place, key: &ContentKey) -> Access {
        match self.remembered_access(key) {
            Some(access) => access,
            None => self.look_up_access(place, key).boxed().await,
        }
    }

    /// What is known of it without a look into the catalog.
    pub(super) fn remembered_access(&self, key: &ContentKey) -> Option<Access> {
        self.shared.readable.get(key).map(|size| Access::Granted { size })
    }

    async fn look_up_access(&self, place: &Place, key: &ContentKey) -> Access {
        let right = self.shared.store.catalog().right_to(&key.upstream, &key.repository, key.kind, &key.digest).await;
        self.access_by(place, key, right)
    }

    /// What `place` has with this right to the content, which is remembered if it may read it.
    pub(super) fn access_by(&self, place: &Place, key: &ContentKey, right: Right) -> Access {
        let (size, is_proof) = match right {
            Right::Fetched { size } => (size.and_then(told_size), true),
            Right::Referenced { size, origins, claimants } => {
                (told_size(size), self.reference_suffices(place, &origins, &claimants))
            }
            Right::None => (None, false),
        };
        if !is_proof {
            return Access::Unproven { size };
        }
        self.shared.readable.insert(key.clone(), size);
        Access::Granted { size }
    }

    /// Whether a manifest's mention of a content is proof enough, so that the upstream need not be asked (and may be out of reach).
    /// It is where the content came from the same upstream, or from one that anybody can read. Where the catalog has lost where
    /// it came from, all that lay claim to it must be such upstreams.
    fn reference_suffices(&self, place: &Place, origins: &[UpstreamName], claimants: &[UpstreamName]) -> bool {
        let is_open = |upstream: &UpstreamName| {
            *upstream == place.upstream.name
                || self.shared.upstreams.get(upstream.as_str()).is_some_and(|upstream| upstream.is_anonymous)
        };
        if origins.is_empty() { claimants.iter().all(is_open) } else { origins.iter().any(is_open) }
    }

    /// Notes that `place` has the content.
    pub(super) async fn grant(&self, key: &ContentKey) {
        if self.shared.readable.contains_key(key) {
            return;
        }
        let catalog = self.shared.store.catalog();
        match key.kind {
            Kind::Blob => catalog.link(&key.upstream, &key.repository, key.kind, &key.digest).await,
            // Its media type goes with it: only then is it noted where it outlives the catalog. While another repository's fetch is
            // under way the catalog does not know that yet; and where there is no manifest, there is nothing to be read.
            Kind::Manifest => {
                let Some(document) = self.cached_document(&key.digest).await else { return };
                let size = document.bytes.len() as u64;
                let content = Manifest::inspect(&document.bytes, &document.media_type).unwrap_or_default();
                let Document { digest, media_type, .. } = &*document;
                catalog.add_manifest(&key.upstream, &key.repository, digest, media_type, size, &content).await;
            }
        }
        self.granted(key);
    }

    /// As [`Mirror::grant`], for content that is on its way: nobody waits until the catalog has noted it.
    pub(super) fn grant_meanwhile(&self, key: &ContentKey) {
        if !self.shared.readable.contains_key(key) {
            let (mirror, key) = (self.clone(), key.clone());
            tokio::spawn(async move { mirror.grant(&key).await });
        }
    }

    /// Remembers that `place` has the content.
    pub(super) fn granted(&self, key: &ContentKey) {
        self.shared.readable.insert(key.clone(), None);
        self.forget_denial(&Asked::Content(key.clone()));
    }

    /// Has the upstream prove that `place` has the content, if it has not done so by the time that it may be asked.
    pub(super) async fn prove(&self, place: &Place, key: &ContentKey, caller: Caller) -> Result<(), MirrorError> {
        self.turn_to_confirm(place, key, caller).await?;
        // Who waited may have been one of several, of whom the first has asked for all.
        if self.shared.readable.contains_key(key) {
            return Ok(());
        }
        self.confirm_now(place, key, caller).await.map(drop)
    }

    /// Has the upstream confirm that `place` has the content, by a HEAD that all who wait share.
    pub(super) async fn confirm(&self, place: &Place, key: &ContentKey, caller: Caller) -> Result<Head, MirrorError> {
        self.turn_to_confirm(place, key, caller).await?;
        self.confirm_now(place, key, caller).await
    }

    async fn turn_to_confirm(&self, place: &Place, key: &ContentKey, caller: Caller) -> Result<(), MirrorError> {
        self.not_denied(&Asked::Content(key.clone()))?;
        match self.shared.confirmations.is_under_way(key) {
            true => Ok(()),
            false => self.turn(place, caller).await,
        }
    }

    async fn confirm_now(&self, place: &Place, key: &ContentKey, caller: Caller) -> Result<Head, MirrorError> {
        let (result, joined) = self
            .shared
            .confirmations
            .run(key.clone(), || {
                let (mirror, place, key) = (self.clone(), place.clone(), key.clone());
                async move {
                    let head =
                        mirror.head(&place, key.target(), caller).await.map_err(|error| mirror.note_absence(&key, error))?;
                    mirror.grant(&key).await;
                    Ok(head)
                }
            })
            .await;
        let result = result.unwrap_or_else(|| Err(MirrorError::abandoned()));
        if !joined {
            self.note_in_vain(caller, &result);
        }
        result
    }

    /// Asks the upstream, and a few times more if it fails in a way that passes quickly. What took long is not asked again: the
    /// client's deadline has not become later.
    pub(super) async fn ask(&self, place: &Place, question: Question) -> Result<Answer, UpstreamError> {
        self.ask_again(place, question, RETRIES).await
    }

    /// [`Mirror::ask`], with so many further tries.
    pub(super) async fn ask_again(&self, place: &Place, question: Question, retries: u32) -> Result<Answer, UpstreamError> {
        let (upstream, tries) = (&place.upstream.name, &self.shared.retries);
        tries.note_question(upstream);
        let mut failure = None;
        let asking = async {
            let mut pause = PAUSE;
            for _ in 0..retries {
                match place.upstream.origin.ask(question.clone()).await {
                    // Who comes while it is left alone is told so at once; who has seen it fail waits for the end of a moment.
                    Err(error) if (is_passing(&error) || failure.is_some() && error.is_flapping()) && tries.take(upstream) => {
                        tokio::time::sleep(jitter(pause).max(error.retry_after().unwrap_or_default())).await;
                        pause *= 2;
                        if !matches!(error, UpstreamError::Suspended { .. }) {
                            failure = Some(error);
                        }
                    }
                    result => return result,
                }
            }
            place.upstream.origin.ask(question).await
        };
        let result = match (tokio::time::timeout(self.shared.timing.patience, asking).await, failure) {
            // How it has failed says more than that it is left alone for it, or that there was no time to ask again.
            (Ok(Err(UpstreamError::Suspended { .. })) | Err(_), Some(failure)) => Err(failure),
            (Ok(result), _) => result,
            (Err(_), None) => Err(late()),
        };
        if matches!(result, Ok(_) | Err(UpstreamError::NotFound)) {
            self.note_answer(&place.upstream.name);
        }
        result
    }

    /// Bounds what an upstream may take to answer, so that there is time left to serve what is cached instead.
    pub(super) async fn in_time<T>(&self, work: impl Future<Output = Result<T, UpstreamError>>) -> Result<T, UpstreamError> {
        tokio::time::timeout(self.shared.timing.patience, work).await.unwrap_or_else(|_| Err(late()))
    }

    /// Asks the upstream for the headers alone. Where it does not know HEAD, a GET is begun and not read.
    pub(super) async fn head(&self, place: &Place, target: Target, caller: Caller) -> Result<Head, UpstreamError> {
        let question = |method| Question { repository: place.repository.clone(), target: target.clone(), method, caller };
        match self.ask(place, question(Method::Head)).await {
            Ok(answer) => Ok(answer.head),
            Err(UpstreamError::Status { status: 400 | 405 | 501, .. }) => Ok(self.ask(place, question(Method::Get)).await?.head),
            Err(error) => Err(error),
        }
    }

    /// Turns an upstream's error into ours, and remembers it for a while if it is a no.
    pub(super) fn note_absence(&self, key: &ContentKey, error: UpstreamError) -> MirrorError {
        if matches!(error, UpstreamError::NotFound) {
            self.shared.readable.invalidate(key);
        }
        let error = MirrorError::from_upstream(error, key.what());
        self.note_denial(|| Asked::Content(key.clone()), &error);
        error
    }
}

/// Whether the same question is likely to be answered in a moment.
fn is_passing(error: &UpstreamError) -> bool {
    error.is_transient() && !matches!(error, UpstreamError::Timeout { .. })
}

/// No answer came in the time that there is.
fn late() -> UpstreamError {
    UpstreamError::Timeout { phase: Phase::Headers }
}

/// A size that a manifest gives: none is not told as zero.
fn told_size(size: u64) -> Option<u64> {
    (size > 0).then_some(size)
}
