//! Leaf helpers that any layer may use. Nothing in here knows what a registry is.

mod blocking;
mod clock;
mod hashing;
mod jitter;
mod pace;
mod party;
mod remembered;
mod secret;
#[cfg(test)]
pub(crate) mod simulated;
mod single_flight;

pub use blocking::blocking;
pub use clock::{Clock, SystemClock};
pub use hashing::Hashing;
pub use jitter::jitter;
pub use pace::{Pace, TokioClock, TooLong};
pub use party::same_party;
pub use remembered::Remembered;
pub use secret::Secret;
pub use single_flight::SingleFlight;
