//! Leaf helpers that any layer may use. Nothing in here knows what a registry is.

mod clock;
mod jitter;
mod secret;
mod single_flight;

pub use clock::{Clock, SystemClock};
pub use jitter::jitter;
pub use secret::Secret;
pub use single_flight::SingleFlight;
