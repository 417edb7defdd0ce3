//! The upstreams of a configuration, each with the means to ask it: its registries, and the gate before them. Nobody is asked anything
//! yet.

use std::sync::Arc;

use anyhow::Context;
use url::Url;

use super::observers::UpstreamCounts;
use crate::config::{Config, UpstreamConfig};
use crate::mirror::{Upstream, Upstreams};
use crate::telemetry::Metrics;
use crate::upstream::{Gate, GateConfig, Observer, Origin, Rate, Registry, RegistryConfig};

/// The list of upstreams, and the gate of each under its name.
pub(super) fn upstreams(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<(Upstreams, Vec<(String, Gate)>)> {
    let mut list = Vec::new();
    let mut gates = Vec::new();
    let mut default = None;
    for upstream_config in &config.upstreams {
        let gate = gate(upstream_config, config, metrics)
            .with_context(|| format!("the upstream {} cannot be used", upstream_config.name))?;
        gates.push((upstream_config.name.to_string(), gate.clone()));
        let upstream = Arc::new(upstream(upstream_config, gate));
        if upstream_config.default {
            default = Some(Arc::clone(&upstream));
        }
        list.push(upstream);
    }
    let default = default.context("no upstream is the default one")?;
    Ok((Upstreams::new(list, default), gates))
}

fn upstream(upstream: &UpstreamConfig, gate: Gate) -> Upstream {
    Upstream {
        name: upstream.name.clone(),
        aliases: upstream.aliases.clone(),
        hosts: upstream.hosts.clone(),
        is_anonymous: upstream.credential.is_none(),
        // The one registry where a name of one word is short for something.
        official_namespace: (upstream.name.as_str() == "docker.io").then_some("library"),
        origin: Arc::new(gate),
    }
}

/// The gate before all endpoints of an upstream.
fn gate(upstream: &UpstreamConfig, config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Gate> {
    let rate = Arc::new(Rate::new(upstream.requests_per_second));
    let registry = RegistryConfig {
        name: upstream.name.clone(),
        url: upstream.url.clone(),
        credential: upstream.credential.as_ref().map(|credential| (credential.username.clone(), credential.password.clone())),
        realm: upstream.realm.clone(),
        trusted_redirects: upstream.trusted_redirects.clone(),
        ca: upstream.ca.clone().unwrap_or_default(),
        rate: Arc::clone(&rate),
        resolve_timeout: config.timeouts.resolve,
        connect_timeout: config.timeouts.connect,
        headers_timeout: config.timeouts.headers,
        stall_timeout: config.timeouts.stall,
        user_agent: concat!("larder/", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let observer: Arc<dyn Observer> = Arc::new(UpstreamCounts(Arc::clone(metrics)));
    let endpoint = |registry: RegistryConfig| -> anyhow::Result<(String, Arc<dyn Origin>)> {
        let host = host_of(&registry.url);
        Ok((host, Arc::new(Registry::new(registry, Arc::clone(&observer))?)))
    };
    let others = upstream.endpoints.iter().map(|url| endpoint(registry.at(url.clone())).with_context(|| host_of(url)));
    let others = others.collect::<anyhow::Result<_>>()?;
    let gate = GateConfig {
        upstream: upstream.name.clone(),
        offline: config.offline || upstream.offline,
        reserve: upstream.rate_limit_reserve,
        concurrent_requests: upstream.concurrent_requests,
        rate,
        queue_timeout: config.timeouts.queue(),
        // Whoever asks gives up then: that a longer time has passed in silence would never be seen.
        headers_timeout: config.timeouts.headers.min(config.timeouts.patience()),
    };
    Ok(Gate::new(gate, endpoint(registry)?, others, observer))
}

/// The host of an endpoint for people, with its port where that is not the scheme's own.
fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
