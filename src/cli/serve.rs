//! `larder serve`: builds every part from the configuration, listens, and stops in order.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::level_filters::LevelFilter;

use super::banner::{self, Facts};
use super::observers::{FillCounts, PrefetchCounts, UpstreamCounts, levels, outcomes, prefetch_outcomes};
use super::{fail, load, verify};
use crate::config::{self, Config, MaxSize, UpstreamConfig};
use crate::fill::{Fills, Lanes, Limits};
use crate::mirror::{Mirror, PrefetchObserver, Timing, Upstream, Upstreams};
use crate::server::{Listener, Registry as RegistryApi, Settings, admin_router, load_tls};
use crate::store::{OsFileSystem, Store, StoreConfig};
use crate::telemetry::{LogFormat, Metrics, init_logging};
use crate::upstream::{Registry, RegistryConfig};
use crate::util::SystemClock;

/// How long answers under way may go on after a request to stop.
const DRAIN: Duration = Duration::from_secs(300);

/// How many connections one blob may be fetched over when clients wait for several places in it.
const LANES_FOR_READERS: usize = 4;

/// How many connections all fills from one upstream may have beyond the first of each.
const EXTRA_LANES: usize = 16;

/// How many of those all fills together may have.
const EXTRA_LANES_OVERALL: usize = 64;

pub(super) fn run(file: Option<&Path>) -> ExitCode {
    let config = match load(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let format = match config.log.format {
        config::LogFormat::Text => LogFormat::Text,
        config::LogFormat::Json => LogFormat::Json,
    };
    if let Err(error) = init_logging(format, LevelFilter::from_level(config.log.level)) {
        return fail(error, 1);
    }
    let served = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime").and_then(
        |runtime| {
            let served = runtime.block_on(serve(&config));
            // Fills that are still under way are cut: the next run goes on with what they have.
            runtime.shutdown_timeout(Duration::from_secs(1));
            served
        },
    );
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(format_args!("{error:#}"), 1),
    }
}

/// Raises the soft limit on descriptors to the hard one: a shell's usual 1,024 would be less than `limits.max_connections`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, limit = ?limit.current, "the limit on open files could not be raised; that many connections and files are all there can be");
    }
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let names = config.upstreams.iter().map(|upstream| upstream.name.as_str());
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"), names, &outcomes(), &prefetch_outcomes()));
    let upstreams = upstreams(config, &metrics)?;
    let clock = Arc::new(SystemClock);
    let max_bytes = bytes_of(config.cache.max_size, &config.cache.dir)?;
    let store = {
        let store_config = StoreConfig { dir: config.cache.dir.clone(), max_bytes };
        let clock = Arc::clone(&clock);
        let open = move || Store::open(store_config, Arc::new(OsFileSystem), clock);
        tokio::task::spawn_blocking(open).await.context("opening the cache was abandoned")??
    };
    let mut announced_bytes = max_bytes;
    if let MaxSize::Share(_) = config.cache.max_size {
        let room = room(&config.cache.dir)?;
        store.limit_growth(room);
        // Too low where the catalog was lost: the metric is right as soon as the limit is known.
        announced_bytes = max_bytes.min(store.stats().bytes.saturating_add(room));
    }
    store.keep_free(bytes_of(config.cache.min_free, &config.cache.dir)?);
    if !config.cache.verify_within.is_zero() {
        store.scrub(config.cache.verify_within).context("cannot verify what is cached")?;
    }
    let lanes = Lanes {
        for_speed: config.limits.connections_per_blob.get(),
        for_readers: LANES_FOR_READERS,
        extra_per_upstream: EXTRA_LANES,
        extra_overall: EXTRA_LANES_OVERALL,
    };
    let limits = Limits { lanes, unread_bytes: config.cache.finish_unread };
    let fills = Fills::new(store.clone(), limits, Arc::new(FillCounts(Arc::clone(&metrics))));
    // A tag costs two questions at the most, and leaves a fifth of the time for serving what is cached instead.
    let patience = config.timeouts.answer.mul_f64(0.4);
    let timing = Timing { tags: config.freshness.tags, missing: config.freshness.missing, patience };
    let prefetch = config.cache.prefetch.then(|| Arc::new(PrefetchCounts(Arc::clone(&metrics))) as Arc<dyn PrefetchObserver>);
    let mirror = Mirror::new(upstreams, store, fills, clock, timing, prefetch);

    let tls = config.tls.as_ref().map(|tls| load_tls(&tls.cert, &tls.key)).transpose().context("cannot serve TLS")?;
    let api = RegistryApi::new(mirror.clone(), Arc::clone(&metrics), config.timeouts.answer);
    let settings = Settings {
        max_connections: config.limits.max_connections.get(),
        max_connections_per_client: config.limits.max_connections_per_client.get(),
        drain: DRAIN,
    };
    let is_tls = tls.is_some();
    let listener = Listener::bind(config.listen, tls, api, settings, Arc::clone(&metrics))
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let admin =
        TcpListener::bind(config.admin.listen).await.with_context(|| format!("cannot listen on {}", config.admin.listen))?;

    let admin_address = admin.local_addr().context("the admin listener has no address")?;
    if let Err(error) = mirror.store().announce(admin_address) {
        tracing::warn!(%error, "tools will not find this process by its folder");
    }
    announce(config, &listener, &admin, is_tls, announced_bytes)?;
    // Without a supervisor there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let (stop, stopping) = watch::channel(false);
    let is_draining = Arc::new(AtomicBool::new(false));
    let refresh = {
        let mirror = mirror.clone();
        Arc::new(move |metrics: &Metrics| metrics.set_levels(&levels(&mirror)))
    };
    let verify = {
        let store = mirror.store().clone();
        Arc::new(move || verify::as_lines(&store))
    };
    let trouble = {
        let store = mirror.store().clone();
        Arc::new(move || store.trouble())
    };
    let router = admin_router(Arc::clone(&metrics), refresh, Arc::clone(&is_draining), trouble, verify);
    // The admin listener answers until the very end: that is when its answers matter.
    let admin = tokio::spawn(async move { axum::serve(admin, router).await });

    let mut signals = Signals::new().context("cannot wait for signals")?;
    let serving = listener.serve(stopped(stopping));
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => {}
        name = signals.next() => {
            tracing::info!(signal = name, "stopping: answers under way are finished first");
            is_draining.store(true, Ordering::Relaxed);
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
            stop.send_replace(true);
            tokio::select! {
                () = &mut serving => {}
                name = signals.next() => tracing::warn!(signal = name, "stopping at once"),
            }
        }
    }
    admin.abort();
    tracing::info!("stopped");
    Ok(())
}

fn announce(config: &Config, listener: &Listener, admin: &TcpListener, is_tls: bool, max_bytes: u64) -> anyhow::Result<()> {
    let (defaults, others): (Vec<_>, Vec<_>) = config.upstreams.iter().partition(|upstream| upstream.default);
    let facts = Facts {
        listen: listener.address()?,
        admin: admin.local_addr()?,
        is_tls,
        cache_dir: &config.cache.dir,
        max_bytes,
        default_upstream: defaults.first().map_or("", |upstream| upstream.name.as_str()),
        other_upstreams: others.iter().map(|upstream| upstream.name.as_str()).collect(),
    };
    let mut out = std::io::stdout().lock();
    // That nobody reads along is no reason not to serve.
    let _ = out.write_all(banner::text(&facts).as_bytes()).and_then(|()| out.flush());
    tracing::info!(listen = %facts.listen, admin = %facts.admin, cache.dir = %config.cache.dir.display(), cache.max_bytes = max_bytes, "listening");
    Ok(())
}

/// The list of upstreams, each with the means to ask it. Nobody is asked anything yet.
fn upstreams(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Upstreams> {
    let mut list = Vec::new();
    let mut default = None;
    for upstream_config in &config.upstreams {
        let upstream = Arc::new(upstream(upstream_config, config, metrics)?);
        if upstream_config.default {
            default = Some(Arc::clone(&upstream));
        }
        list.push(upstream);
    }
    let default = default.context("no upstream is the default one")?;
    Ok(Upstreams::new(list, default))
}

fn upstream(upstream: &UpstreamConfig, config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Upstream> {
    let registry = RegistryConfig {
        name: upstream.name.clone(),
        url: upstream.url.clone(),
        credential: upstream.credential.as_ref().map(|credential| (credential.username.clone(), credential.password.clone())),
        realm: upstream.realm.clone(),
        trusted_redirects: upstream.trusted_redirects.clone(),
        ca: upstream.ca.clone().unwrap_or_default(),
        requests_per_second: upstream.requests_per_second,
        connect_timeout: config.timeouts.connect,
        headers_timeout: config.timeouts.headers,
        stall_timeout: config.timeouts.stall,
        user_agent: concat!("larder/", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let registry = Registry::new(registry, Arc::new(UpstreamCounts(Arc::clone(metrics))))
        .with_context(|| format!("the upstream {} cannot be used", upstream.name))?;
    Ok(Upstream {
        name: upstream.name.clone(),
        aliases: upstream.aliases.clone(),
        hosts: upstream.hosts.clone(),
        is_anonymous: upstream.credential.is_none(),
        // The one registry where a name of one word is short for something.
        official_namespace: (upstream.name.as_str() == "docker.io").then_some("library"),
        origin: Arc::new(registry),
    })
}

/// How many bytes more the file system of `dir` can take, with a twentieth of it left to others. A share of a file system that is in
/// use already is no promise that others would have to keep.
fn room(dir: &Path) -> anyhow::Result<u64> {
    let system = rustix::fs::statvfs(dir).with_context(|| format!("cannot tell the free space of {}", dir.display()))?;
    Ok(system.f_bavail.saturating_sub(system.f_blocks / 20).saturating_mul(system.f_frsize))
}

/// A size in bytes. A share is one of the file system that the folder is on, or will be.
fn bytes_of(size: MaxSize, dir: &Path) -> anyhow::Result<u64> {
    let share = match size {
        MaxSize::Bytes(bytes) => return Ok(bytes),
        MaxSize::Share(percent) => u64::from(percent),
    };
    let dir = std::path::absolute(dir).context("the cache's folder has no absolute path")?;
    let existing = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let system =
        rustix::fs::statvfs(existing).with_context(|| format!("cannot tell the size of the file system of {}", dir.display()))?;
    Ok((system.f_blocks.saturating_mul(system.f_frsize) / 100).saturating_mul(share))
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // The sender is gone only when the process is about to be.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// The signals that ask a server to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
