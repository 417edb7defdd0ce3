//! What the tests stand on: the mirror as a process, a client that hides nothing, and content to pull.

mod client;
mod disk;
mod fixture;
mod larder;
mod metrics;
mod process;
mod strace;

use std::time::Duration;

pub(crate) use client::{Answer, Connection, Download, End};
pub(crate) use disk::Disk;
pub(crate) use fixture::{NAME, TAG, blob, checked, counted, fetched, hub_with, image, index, manifest, prepare, pull};
pub(crate) use larder::{Larder, Run};
pub(crate) use metrics::Metrics;

/// How long a test waits for something to come true.
const PATIENCE: Duration = Duration::from_secs(60);
