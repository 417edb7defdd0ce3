//! How much a cache may hold: sizes of the configuration in bytes, on the file system that the cache is on.

use std::path::Path;

use anyhow::Context;

use crate::config::{CacheConfig, MaxSize};
use crate::store::Store;

/// Of a share of a file system, as of any promise of what others use as well, a twentieth is not grown into.
const MARGIN: u64 = 20;

/// Has an open store keep to what the configuration says it may hold. Gives how much that is, in bytes; too little where the catalog
/// was lost, until it is known what is at rest.
pub(super) fn limit(store: &Store, cache: &CacheConfig) -> anyhow::Result<u64> {
    store.limit(bytes_of(cache.max_size, &cache.dir)?);
    store.keep_free(bytes_of(cache.min_free, &cache.dir)?);
    // Bytes are a promise that others have to keep; a share of a file system that is in use already is none.
    if let MaxSize::Share(_) = cache.max_size {
        store.limit_growth(size_of_file_system(&cache.dir)? / MARGIN);
    }
    Ok(store.stats().max_bytes)
}

/// A size in bytes. A share is one of the file system that the folder is on, or will be.
pub(super) fn bytes_of(size: MaxSize, dir: &Path) -> anyhow::Result<u64> {
    let share = match size {
        MaxSize::Bytes(bytes) => return Ok(bytes),
        MaxSize::Share(percent) => u64::from(percent),
    };
    Ok((size_of_file_system(dir)? / 100).saturating_mul(share))
}

/// The size in bytes of the file system that the folder is on, or will be.
fn size_of_file_system(dir: &Path) -> anyhow::Result<u64> {
    let dir = std::path::absolute(dir).context("the cache's folder has no absolute path")?;
    let existing = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let system =
        rustix::fs::statvfs(existing).with_context(|| format!("cannot tell the size of the file system of {}", dir.display()))?;
    Ok(system.f_blocks.saturating_mul(system.f_frsize))
}
