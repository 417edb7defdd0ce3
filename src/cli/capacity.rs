//! How much a cache may hold: sizes of the configuration in bytes, on the file system that the cache is on.

use std::path::Path;

use anyhow::Context;

use crate::config::{CacheConfig, MaxSize};
use crate::store::Store;

/// Has an open store keep to what the configuration says it may hold. Gives how much that is, in bytes; too little where the catalog
/// was lost, until it is known what is at rest.
pub(super) fn limit(store: &Store, cache: &CacheConfig) -> anyhow::Result<u64> {
    let max_bytes = bytes_of(cache.max_size, &cache.dir)?;
    store.limit(max_bytes);
    if let MaxSize::Bytes(_) = cache.max_size {
        return Ok(max_bytes);
    }
    let room = room(&cache.dir)?;
    store.limit_growth(room);
    Ok(max_bytes.min(store.stats().bytes.saturating_add(room)))
}

/// How many bytes more the file system of `dir` can take, with a twentieth of it left to others. A share of a file system that is in
/// use already is no promise that others would have to keep.
fn room(dir: &Path) -> anyhow::Result<u64> {
    let system = rustix::fs::statvfs(dir).with_context(|| format!("cannot tell the free space of {}", dir.display()))?;
    Ok(system.f_bavail.saturating_sub(system.f_blocks / 20).saturating_mul(system.f_frsize))
}

/// A size in bytes. A share is one of the file system that the folder is on, or will be.
pub(super) fn bytes_of(size: MaxSize, dir: &Path) -> anyhow::Result<u64> {
    let share = match size {
        MaxSize::Bytes(bytes) => return Ok(bytes),
        MaxSize::Share(percent) => u64::from(percent),
    };
    let dir = std::path::absolute(dir).context("the cache's folder has no absolute path")?;
    let existing = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let system =
        rustix::fs::statvfs(existing).with_context(|| format!("cannot tell the size of the file system of {}", dir.display()))?;
    Ok((system.f_blocks.saturating_mul(system.f_frsize) / 100).saturating_mul(share))
}
