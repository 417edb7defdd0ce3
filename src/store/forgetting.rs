//! What is known by name of content goes when the content has been evicted: the tags that point to it, where it was fetched from, and what
//! it refers to. So a tag does not outlive what it promises, and names need no more room than what they are of. Nothing in here removes
//! content; and what was found to be wrong keeps its names, since the next pull heals it.

use std::sync::Weak;

use super::blobs::Blobs;
use super::catalog::forgotten::{self, Source};
use super::walk::Closed;
use crate::oci::Digest;

/// How many contents are looked at, and forgotten, at a time.
const BATCH: usize = 128;

/// Forgets all that is known of content that is gone: what an eviction left behind that was cut short, and a loss of power has brought
/// back. To be called when the catalog knows what there is. The store is held for one step at a time.
pub(super) fn forget_all_that_is_gone(blobs: &Weak<Blobs>) -> Result<(), Closed> {
    for source in Source::ALL {
        let mut last = None;
        loop {
            let store = blobs.upgrade().ok_or(Closed)?;
            let page = |connection: &_| forgotten::page(connection, source, last.as_ref(), BATCH);
            let gone = store.catalog.read("list what is gone", page).unwrap_or_default();
            let Some(digest) = gone.last() else { break };
            last = Some(*digest);
            store.forget(&gone);
        }
    }
    Ok(())
}

/// Blocks.
impl Blobs {
    /// Forgets these contents, but for those that are at rest, pinned, or about to come to rest.
    pub(super) fn forget(&self, digests: &[Digest]) {
        let (mut claims, mut free) = (Vec::new(), Vec::new());
        for digest in digests {
            if let Some(claim) = self.claims.try_claim(digest) {
                claims.push(claim);
                free.push(*digest);
            }
        }
        if !free.is_empty() {
            self.catalog.forget(&free);
        }
    }
}
