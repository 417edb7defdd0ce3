//! The levels: numbers that somebody else keeps, and that are read off when metrics are scraped. Nothing is counted here.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// What is read off when metrics are scraped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Levels {
    pub fills_in_flight: u64,
    pub cache_bytes: u64,
    pub cache_reserved_bytes: u64,
    pub cache_pinned_bytes: u64,
    pub cache_capacity_bytes: u64,
    pub cache_blobs: u64,
    pub evictions: u64,
    pub evicted_bytes: u64,
    pub disk_errors: u64,
    pub verified_bytes: u64,
    pub damaged: u64,
    /// Nothing can be stored at the moment.
    pub is_degraded: bool,
}

pub(super) struct LevelGauges {
    fills_in_flight: Gauge<u64, AtomicU64>,
    cache_bytes: Gauge<u64, AtomicU64>,
    cache_reserved_bytes: Gauge<u64, AtomicU64>,
    cache_pinned_bytes: Gauge<u64, AtomicU64>,
    cache_capacity_bytes: Gauge<u64, AtomicU64>,
    cache_blobs: Gauge<u64, AtomicU64>,
    evictions: Counter,
    evicted_bytes: Counter,
    disk_errors: Counter,
    verified_bytes: Counter,
    damaged: Counter,
    degraded: Gauge<u64, AtomicU64>,
    resident_bytes: Gauge<u64, AtomicU64>,
    open_descriptors: Gauge<u64, AtomicU64>,
}

impl LevelGauges {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let this = Self {
            fills_in_flight: Gauge::default(),
            cache_bytes: Gauge::default(),
            cache_reserved_bytes: Gauge::default(),
            cache_pinned_bytes: Gauge::default(),
            cache_capacity_bytes: Gauge::default(),
            cache_blobs: Gauge::default(),
            evictions: Counter::default(),
            evicted_bytes: Counter::default(),
            disk_errors: Counter::default(),
            verified_bytes: Counter::default(),
            damaged: Counter::default(),
            degraded: Gauge::default(),
            resident_bytes: Gauge::default(),
            open_descriptors: Gauge::default(),
        };
        registry.register("fills_in_flight", "Contents that are being fetched", this.fills_in_flight.clone());
        registry.register_with_unit("cache_used", "Bytes of content at rest", Unit::Bytes, this.cache_bytes.clone());
        registry.register_with_unit(
            "cache_reserved",
            "Bytes reserved for content in flight",
            Unit::Bytes,
            this.cache_reserved_bytes.clone(),
        );
        registry.register_with_unit(
            "cache_pinned",
            "Bytes of content at rest that pins keep from eviction",
            Unit::Bytes,
            this.cache_pinned_bytes.clone(),
        );
        registry.register_with_unit(
            "cache_capacity",
            "Bytes that the cache may take; 0 as long as they are a share of a file system that has not been seen",
            Unit::Bytes,
            this.cache_capacity_bytes.clone(),
        );
        registry.register("cache_blobs", "Contents at rest", this.cache_blobs.clone());
        registry.register("evictions", "Contents evicted to make room", this.evictions.clone());
        registry.register_with_unit("evicted", "Bytes evicted to make room", Unit::Bytes, this.evicted_bytes.clone());
        registry.register("disk_errors", "Operations on the cache's disk that failed", this.disk_errors.clone());
        registry.register_with_unit(
            "cache_verified",
            "Bytes at rest that were read again and found right",
            Unit::Bytes,
            this.verified_bytes.clone(),
        );
        registry.register("cache_degraded", "1 while content passes through because it cannot be stored", this.degraded.clone());
        registry.register("cache_damaged", "Contents at rest that were not what their names say", this.damaged.clone());
        registry.register_with_unit(
            "process_resident",
            "Resident memory of the process",
            Unit::Bytes,
            this.resident_bytes.clone(),
        );
        registry.register("process_open_descriptors", "Open file descriptors of the process", this.open_descriptors.clone());
        this
    }

    pub(super) fn set(&self, levels: &Levels) {
        self.fills_in_flight.set(levels.fills_in_flight);
        self.cache_bytes.set(levels.cache_bytes);
        self.cache_reserved_bytes.set(levels.cache_reserved_bytes);
        self.cache_pinned_bytes.set(levels.cache_pinned_bytes);
        self.cache_capacity_bytes.set(levels.cache_capacity_bytes);
        self.cache_blobs.set(levels.cache_blobs);
        raise(&self.evictions, levels.evictions);
        raise(&self.evicted_bytes, levels.evicted_bytes);
        raise(&self.disk_errors, levels.disk_errors);
        raise(&self.verified_bytes, levels.verified_bytes);
        raise(&self.damaged, levels.damaged);
        self.degraded.set(levels.is_degraded.into());
        self.resident_bytes.set(resident_bytes().unwrap_or(0));
        self.open_descriptors.set(std::fs::read_dir("/proc/self/fd").map_or(0, |descriptors| descriptors.count() as u64));
    }
}

/// Brings a counter up to a total that somebody else counts.
fn raise(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

/// The resident set, from `/proc/self/statm`, whose second field counts pages.
fn resident_bytes() -> Option<u64> {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
