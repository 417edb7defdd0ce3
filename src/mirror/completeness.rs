//! Whether all of an image is here. Podman, CRI-O and Skopeo choose their mirror at the first manifest and never fall back for blobs, so
//! that half an image must not be begun while its other half cannot be had. What follows from that is decided elsewhere.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Document, ManifestAnswer, Mirror};
use crate::oci::Manifest;

/// How deep indexes may be nested in each other.
const INDEX_DEPTH: usize = 3;

/// For how long it is not looked again whether an image that was complete is so still, and of how many that is remembered: many
/// clients pull the same one at once.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
pub(super) const REMEMBERED: usize = 4096;

impl Mirror {
    /// Whether all that a client will ask for after this answer is here, or was a moment ago.
    pub(super) async fn is_whole(&self, answer: &ManifestAnswer) -> bool {
        if self.shared.whole.get(&answer.digest).is_some() {
            return true;
        }
        let Some(document) = self.cached_document(&answer.digest).await else { return false };
        let is_complete = self.is_complete(&document).await;
        if is_complete {
            self.shared.whole.insert(answer.digest, ());
        }
        is_complete
    }

    /// Whether all that a client will ask for next is here. Of an index, one image suffices: which platform the client is for is not
    /// known yet, and what is attached to images is not pulled with them.
    pub(super) async fn is_complete(&self, document: &Document) -> bool {
        self.is_complete_to(document, INDEX_DEPTH).await
    }

    fn is_complete_to<'a>(&'a self, document: &'a Document, depth: usize) -> BoxFuture<'a, bool> {
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
                    && self.is_complete_to(&child, depth - 1).await
                {
                    return true;
                }
            }
            false
        };
        check.boxed()
    }

    /// Whether all that a registry must have of it is here.
    async fn has_all_blobs(&self, content: &Manifest) -> bool {
        for blob in content.blobs.iter().filter(|blob| !blob.is_foreign) {
            if self.shared.store.get(&blob.digest).await.is_none() {
                return false;
            }
        }
        true
    }
}
