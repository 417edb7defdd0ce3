//! The mirror as its clients see it: the real binary in front of an upstream that counts requests and goes wrong when told to.

#![expect(clippy::unwrap_used, reason = "a test that unwraps fails, as it should")]

mod access;
mod addressing;
mod api;
mod auth;
mod bodies;
mod breaker;
mod disk;
mod fairness;
mod footprint;
mod freshness;
mod head;
mod hits;
mod hostile_clients;
mod hostile_upstreams;
mod lanes;
mod lifecycle;
mod limits;
mod memory;
mod offline;
mod outage;
mod prefetch;
mod ranges;
mod resumption;
mod secrets;
mod sharing;
mod support;
mod tags;
mod tls;
mod tools;
mod truth;
mod turns;
