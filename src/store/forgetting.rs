//! What is known by name of content goes when the content has been evicted: the tags that point to it, where it was fetched from, and what
//! it refers to. So a tag does not outlive what it promises, and names need no more room than what they are of. Nothing in here removes
//! content; and what was found to be wrong keeps its names, since the next pull heals it.

use std::path::PathBuf;
use std::sync::Weak;

use super::blobs::Blobs;
use super::catalog::forgotten::{self, Names, Source};
use super::catalog::names::Place;
use super::exclusive::Claim;
use super::walk::Closed;
use crate::oci::Digest;

/// How many contents are forgotten at a time.
const BATCH: usize = 128;

/// Forgets all that is known of content that is gone: what an eviction left behind that was cut short, and a loss of power has brought
/// back. To be called when the catalog knows what there is. The store is held for one step at a time, which is a short one.
pub(super) fn forget_all_that_is_gone(blobs: &Weak<Blobs>) -> Result<(), Closed> {
    for source in Source::ALL {
        for first in 0..=u8::MAX {
            let store = blobs.upgrade().ok_or(Closed)?;
            let known = |connection: &_| forgotten::beginning_with(connection, source, first);
            let gone = store.catalog.read("list what is gone", known).unwrap_or_default();
            gone.chunks(BATCH).for_each(|digests| store.forget(digests));
        }
    }
    Ok(())
}

/// All of these block.
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
        if free.is_empty() {
            return;
        }
        let names = self.catalog.read("list names", |connection| forgotten::names(connection, &free)).unwrap_or_default();
        // Held until the rows have gone as well.
        let mut claims = Vec::new();
        let names: Vec<_> = names.into_iter().map(|names| self.forget_refs(names, &mut claims)).collect();
        self.catalog.write("forget what is gone", move |connection| {
            names.iter().try_for_each(|names| {
                forgotten::forget_names(connection, names)?;
                forgotten::forget_content(connection, &names.digest).map(drop)
            })
        });
    }

    /// Removes the refs, which go first: one that is left without its row would bring it back. Gives those names whose refs are gone;
    /// of the others somebody is changing one, and the next walk sees to it.
    fn forget_refs(&self, mut names: Names, claims: &mut Vec<Claim<PathBuf>>) -> Names {
        let refs = &self.catalog.refs;
        let mut claim = |path| self.catalog.claims.try_claim(&path).map(|claim| claims.push(claim)).is_some();
        names.tags.retain(|(Place { upstream, repository }, tag)| {
            claim(refs.layout.tag(upstream, repository, tag)) && refs.forget_tag(upstream, repository, tag, &names.digest)
        });
        names.places.retain(|Place { upstream, repository }| {
            claim(refs.layout.manifest(upstream, repository, &names.digest))
                && refs.forget_manifest(upstream, repository, &names.digest)
        });
        names
    }
}
