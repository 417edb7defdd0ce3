//! Tests of the test kit: what it promises to other tests, seen through a client that hides nothing.

#![expect(clippy::unwrap_used, reason = "a test that unwraps fails, as it should")]

mod auth;
mod body_faults;
mod client;
mod connection_faults;
mod content;
mod control;
mod lifecycle;
mod proxy;
mod range_faults;
