//! Larder: a pull-through caching mirror for container registries.
//!
//! The crate is a house of layers; each may use only those below it (see `ARCHITECTURE.md`):
//!
//! ```text
//! cli        one file per command, composes everything
//! server     HTTP façade: OCI routes, ranges, TLS, admin            speaks to mirror only
//! mirror     the decisions: route, freshness, who may read what     speaks to fill, store, upstream
//! fill       one content in flight: pieces, verification, readers
//! store      content at rest: blobs, refs, catalog, budget
//! upstream   one registry at the other end: tokens, redirects, limits
//! oci        the vocabulary; no I/O
//! ```
//!
//! `config`, `telemetry` and `util` are used by all of them and know none.

pub mod cli;
pub mod config;
pub mod fill;
pub mod mirror;
pub mod oci;
pub mod server;
#[cfg(test)]
mod simulation;
pub mod store;
pub mod telemetry;
pub mod upstream;
pub mod util;
