//! The decisions of the mirror: which upstream a request means, who may read what, what is fresh, what is fetched.
//! It speaks to fills, the store and the upstreams, and knows neither HTTP nor status codes.

mod access;
mod blobs;
mod callers;
mod completeness;
mod denials;
mod error;
mod freshness;
mod listings;
mod manifests;
mod outcome;
mod prefetch;
mod retries;
mod routing;
mod shared;
mod slow;
mod tags;
mod wanted;

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::config::FreshnessConfig;
use crate::fill::Fills;
use crate::oci::{Digest, MediaType, RepositoryName, Tag, UpstreamName};
use crate::store::{Kind, LastUse, Store, TagRecord};
use crate::upstream::Head;
use crate::util::{Clock, Hashing, Remembered, SingleFlight};

use callers::Callers;
use denials::Asked;
use prefetch::Prefetch;
use retries::Retries;

pub use crate::upstream::Caller;
pub use blobs::{BlobAnswer, BlobHead};
pub use error::MirrorError;
pub use listings::{Page, ReferrersAnswer, TagsAnswer};
pub use manifests::{ManifestAnswer, Want};
pub use outcome::{CacheOutcome, Lookup, StaleReason};
pub use prefetch::{PrefetchObserver, PrefetchOutcome};
pub use routing::{Address, Place, RoutingError, Upstream, Upstreams};

/// How much memory documents may take that are hot: manifests, and listings apart from them, in bytes each.
const DOCUMENTS_IN_MEMORY: u64 = 16 << 20;

/// How many small facts (tags, links, absences) are kept in memory, of each kind.
const FACTS_IN_MEMORY: u64 = 100_000;

/// How long things may take, how often they may be asked, and how long what is known is taken as true.
#[derive(Clone, Debug)]
pub struct Timing {
    pub freshness: FreshnessConfig,
    /// How long a client waits for an upstream before a stale tag is served; the question goes on.
    pub revalidation: Duration,
    /// How many questions a second upstreams are asked on behalf of one client.
    pub misses_per_client: NonZeroU32,
    /// How long one question to an upstream may take, all told. Two of them, one after the other, must fit into the time that
    /// a client waits: what is cached is to be served instead before that is over.
    pub patience: Duration,
}

type Memory<K, V> = moka::sync::Cache<K, V, Hashing>;

/// The mirror. Cheap to clone.
#[derive(Clone)]
pub struct Mirror {
    shared: Arc<Shared>,
}

struct Shared {
    upstreams: Upstreams,
    store: Store,
    fills: Fills,
    clock: Arc<dyn Clock>,
    timing: Timing,
    /// Verified manifests that are hot.
    documents: Memory<Digest, Arc<Document>>,
    /// Tags as last seen upstream. May be ahead of the catalog, which records a tag's move only with its content.
    tags: Memory<TagKey, TagRecord>,
    /// Tags that moved to a manifest which nobody has fetched yet.
    awaiting_content: Memory<ContentKey, Arc<Vec<Tag>>>,
    /// What is known to be readable where (a memory of the catalog's links), with its size where a manifest told it.
    readable: Memory<ContentKey, Option<u64>>,
    /// What upstreams have said no to, and how.
    denials: Memory<Asked, MirrorError>,
    slow: Remembered<UpstreamName, ()>,
    /// Manifests of images that were complete a moment ago.
    whole: Remembered<Digest, ()>,
    /// Tags of which the log said a moment ago that they are served stale.
    told: Memory<TagKey, ()>,
    retries: Retries,
    callers: Callers,
    /// What was noted a moment ago as asked for in vain.
    wanted: Remembered<wanted::Key, ()>,
    wanted_pace: wanted::NotePace,
    listings: Memory<listings::Key, Arc<listings::Listing>>,
    fetches: SingleFlight<ContentKey, Result<Arc<Document>, MirrorError>>,
    resolutions: SingleFlight<TagKey, Result<TagRecord, MirrorError>>,
    confirmations: SingleFlight<ContentKey, Result<Head, MirrorError>>,
    probes: SingleFlight<UpstreamName, ()>,
    listing_fetches: SingleFlight<listings::Key, Result<Arc<listings::Listing>, MirrorError>>,
    /// There only if content is to be fetched before it is asked for.
    prefetch: Option<Arc<Prefetch>>,
}

/// A manifest, verified.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) digest: Digest,
    pub(crate) media_type: MediaType,
    pub(crate) bytes: Bytes,
    pub(crate) last_use: LastUse,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TagKey {
    upstream: UpstreamName,
    repository: RepositoryName,
    tag: Tag,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ContentKey {
    upstream: UpstreamName,
    repository: RepositoryName,
    kind: Kind,
    digest: Digest,
}

impl Mirror {
    /// With `prefetch`, which is told what comes of it, the content of manifests that clients pull is fetched before it is asked for.
    pub fn new(
        upstreams: Upstreams,
        store: Store,
        fills: Fills,
        clock: Arc<dyn Clock>,
        timing: Timing,
        prefetch: Option<Arc<dyn PrefetchObserver>>,
    ) -> Self {
        let missing = timing.freshness.missing;
        let shared = Shared {
            upstreams,
            store,
            fills,
            clock,
            slow: Remembered::new(slow::REMEMBERED, slow::UPSTREAMS),
            retries: Retries::default(),
            callers: Callers::new(timing.misses_per_client, timing.patience),
            wanted: Remembered::new(wanted::PAUSE, wanted::REMEMBERED),
            wanted_pace: wanted::note_pace(),
            timing,
            documents: moka::sync::Cache::builder()
                .max_capacity(DOCUMENTS_IN_MEMORY)
                .weigher(|_, document: &Arc<Document>| weight(document.bytes.len()))
                .build_with_hasher(Hashing::default()),
            tags: memory(),
            awaiting_content: memory_for(Duration::from_secs(3600)),
            readable: memory(),
            denials: memory_for(missing),
            whole: Remembered::new(completeness::PAUSE, completeness::REMEMBERED),
            told: memory_for(tags::TOLD),
            listings: moka::sync::Cache::builder()
                .max_capacity(DOCUMENTS_IN_MEMORY)
                .weigher(|_, listing: &Arc<listings::Listing>| weight(listing.body.len()))
                .build_with_hasher(Hashing::default()),
            fetches: SingleFlight::new(),
            resolutions: SingleFlight::new(),
            confirmations: SingleFlight::new(),
            probes: SingleFlight::new(),
            listing_fetches: SingleFlight::new(),
            prefetch: prefetch.map(Prefetch::new).map(Arc::new),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Which repository of which upstream `address` means.
    ///
    /// # Errors
    /// [`RoutingError`] if it means none, or two.
    pub fn route(&self, address: &Address<'_>) -> Result<Place, RoutingError> {
        self.shared.upstreams.route(address)
    }

    pub fn upstreams(&self) -> &Upstreams {
        &self.shared.upstreams
    }

    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    pub fn fills(&self) -> &Fills {
        &self.shared.fills
    }

    /// Waits until the upstream of `place` may be asked on behalf of `caller`. What will not be asked has no turn to wait for.
    async fn turn(&self, place: &Place, caller: Caller) -> Result<(), MirrorError> {
        match place.upstream.origin.refusal() {
            Some(_) => Ok(()),
            None => self.shared.callers.turn(caller).await,
        }
    }

    /// Forgets what is in memory of tags, manifests, rights and lists, because something was removed from the store: what is still
    /// there is read from it again.
    pub fn forget(&self) {
        let Shared { documents, tags, awaiting_content, readable, listings, .. } = &*self.shared;
        tags.invalidate_all();
        documents.invalidate_all();
        awaiting_content.invalidate_all();
        readable.invalidate_all();
        listings.invalidate_all();
    }
}

/// A memory of facts.
fn memory<K: Eq + Hash + Send + Sync + 'static, V: Clone + Send + Sync + 'static>() -> Memory<K, V> {
    moka::sync::Cache::builder().max_capacity(FACTS_IN_MEMORY).build_with_hasher(Hashing::default())
}

/// A memory of facts that hold for a while.
fn memory_for<K: Eq + Hash + Send + Sync + 'static, V: Clone + Send + Sync + 'static>(lifetime: Duration) -> Memory<K, V> {
    let builder = moka::sync::Cache::builder().max_capacity(FACTS_IN_MEMORY).time_to_live(lifetime);
    builder.build_with_hasher(Hashing::default())
}

/// What an entry of `len` bytes weighs in a cache that is bounded by bytes, with its key and its bookkeeping.
fn weight(len: usize) -> u32 {
    u32::try_from(len + 256).unwrap_or(u32::MAX)
}
