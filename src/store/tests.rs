//! The store as its callers see it, on a real file system in temporary folders, with every step that can fail made to fail.

mod budget;
mod catalog;
mod conformance;
mod crash;
mod eviction;
mod faults;
mod forgetting;
mod gate;
mod hits;
mod limits;
mod open_files;
mod parts;
mod pins;
mod policy;
mod removal;
mod scale;
mod scrub;
mod steps;
pub(crate) mod support;
