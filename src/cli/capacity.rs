//! How much a cache may hold, as the configuration says it.

use crate::config::CacheConfig;
use crate::store::{Limits, Store};

/// Has an open store keep to what the configuration says it may hold. Gives how much that is, in bytes; too little where the catalog
/// was lost, until it is known what is at rest; nothing if it is a share of a file system that is out of reach.
pub(super) fn limit(store: &Store, cache: &CacheConfig) -> Option<u64> {
    let limits = Limits { max_size: cache.max_size, min_free: cache.min_free };
    store.limit(limits).then(|| store.stats().max_bytes)
}
