//! Tests of the test kit: what it promises to other tests, seen through a client that hides nothing.

mod auth;
mod body_faults;
mod client;
mod connection_faults;
mod content;
mod lifecycle;
mod proxy;
mod range_faults;
