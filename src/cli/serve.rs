//! `larder serve`: builds every part from the configuration, listens, and stops in order.

use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::level_filters::LevelFilter;

use super::banner::{self, Facts};
use super::capacity;
use super::errand::{self, Keeper, Served};
use super::gc::Gc;
use super::observers::{FillCounts, PrefetchCounts, levels, upstream_levels, words};
use super::pin::{SetPins, Unpin};
use super::reload::Running;
use super::rm::Rm;
use super::stats::AskStats;
use super::upstreams::upstreams;
use super::{fail, heap, load, verify};
use crate::config::{self, Config};
use crate::fill::{Fills, Lanes, Limits};
use crate::mirror::{Mirror, PrefetchObserver, Timing};
use crate::server::{Certificate, Listener, Registry as RegistryApi, Settings, Tool, Workers, admin_router};
use crate::store::{OPEN_FILES_MAX, OsFileSystem, Store, StoreConfig};
use crate::telemetry::{LogFormat, Metrics, init_logging};
use crate::util::SystemClock;

/// How long answers under way may go on after a request to stop.
const DRAIN: Duration = Duration::from_secs(300);

/// How long what blocks has to end when the process does.
const GRACE: Duration = Duration::from_secs(1);

/// How many descriptors are kept for what there is without clients: files that are kept open, the catalog, the listeners, connections
/// that upstreams keep open.
const OWN_DESCRIPTORS: u64 = OPEN_FILES_MAX as u64 + 64;

/// And how many for each worker: what it waits with, the socket at which it accepts, and a connection that waits for its place.
const DESCRIPTORS_PER_WORKER: u64 = 8;

/// How many descriptors a client's connection may need: its own, the content's, and the one to the upstream.
const DESCRIPTORS_PER_CONNECTION: u64 = 3;

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
    heap::keep();
    match start(file, &config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(format_args!("{error:#}"), 1),
    }
}

fn start(file: Option<&Path>, config: &Config) -> anyhow::Result<()> {
    // For all that clients do not wait for: they have the workers. Two threads, so that who asks for the server's health does not wait
    // for what the command line has it do.
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().context("cannot start the runtime")?;
    let descriptors = raise_descriptor_limit();
    let workers = Workers::start(None, GRACE).context("cannot start the threads that serve")?;
    let served = runtime.block_on(serve(file, config, descriptors, &workers));
    // Fills that are still under way are cut: the next run goes on with what they have.
    workers.stop();
    runtime.shutdown_timeout(GRACE);
    served
}

/// Raises the soft limit on descriptors to the hard one: a shell's usual 1,024 would be less than `limits.max_connections`.
/// Gives the limit, if there is one.
fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, limit = ?limit.current, "the limit on open files could not be raised");
            limit.current
        }
    }
}

/// How many connections of clients are accepted at a time, of `wanted`: those beyond wait to be accepted, rather than that the ones
/// before them find no descriptor left for the content that they ask for.
fn connections_within(descriptors: Option<u64>, workers: usize, wanted: usize) -> usize {
    let own = OWN_DESCRIPTORS + workers as u64 * DESCRIPTORS_PER_WORKER;
    let most = descriptors.map_or(u64::MAX, |limit| limit.saturating_sub(own) / DESCRIPTORS_PER_CONNECTION).max(1);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if most < wanted {
        tracing::info!(
            wanted,
            most,
            "fewer connections than limits.max_connections are accepted at a time: the limit on open files (ulimit -n) allows no more"
        );
    }
    wanted.min(most)
}

async fn serve(file: Option<&Path>, config: &Config, descriptors: Option<u64>, workers: &Workers) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot wait for signals")?;
    let names = config.upstreams.iter().map(|upstream| upstream.name.as_str());
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"), names, &words()));
    let (upstreams, gates) = upstreams(config, &metrics)?;
    let gates = Arc::new(gates);
    let clock = Arc::new(SystemClock);
    let store = {
        // It has its limits before anybody asks it for anything.
        let store_config = StoreConfig { dir: config.cache.dir.clone(), max_bytes: u64::MAX };
        let clock = Arc::clone(&clock);
        let open = move || Store::open(store_config, Arc::new(OsFileSystem), clock);
        tokio::task::spawn_blocking(open).await.context("opening the cache was abandoned")??
    };
    let announced_bytes = capacity::limit(&store, &config.cache);
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
    let timing = Timing {
        freshness: config.freshness.clone(),
        revalidation: config.timeouts.revalidation,
        misses_per_client: config.limits.misses_per_client,
        patience: config.timeouts.patience(),
    };
    let prefetch = config.cache.prefetch.then(|| Arc::new(PrefetchCounts(Arc::clone(&metrics))) as Arc<dyn PrefetchObserver>);
    let mirror = Mirror::new(upstreams, store, fills, clock, timing, prefetch);

    let certificate = config.tls.as_ref().map(|tls| Certificate::load(&tls.cert, &tls.key)).transpose();
    let certificate = certificate.context("cannot serve TLS")?;
    let tls = certificate.as_ref().map(Certificate::server_config).transpose().context("cannot serve TLS")?;
    let api = RegistryApi::new(mirror.clone(), Arc::clone(&metrics), config.timeouts.answer);
    let settings = Settings {
        max_connections: connections_within(descriptors, workers.count(), config.limits.max_connections.get()),
        max_connections_per_client: config.limits.max_connections_per_client.get(),
        drain: DRAIN,
    };
    let is_tls = tls.is_some();
    let listener = Listener::bind(config.listen, tls, api, settings, Arc::clone(&metrics), workers)
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
        let (mirror, gates) = (mirror.clone(), Arc::clone(&gates));
        Arc::new(move |metrics: &Metrics| {
            metrics.set_levels(&levels(&mirror));
            for (upstream, gate) in gates.iter() {
                metrics.set_upstream_levels(upstream, upstream_levels(gate));
            }
        })
    };
    let trouble = {
        let store = mirror.store().clone();
        Arc::new(move || store.trouble())
    };
    let server = Served { mirror: mirror.clone(), metrics: Arc::clone(&metrics), gates };
    let router = admin_router(Arc::clone(&metrics), refresh, Arc::clone(&is_draining), trouble, tools(server));
    // The admin listener answers until the very end: that is when its answers matter.
    let admin = tokio::spawn(async move { axum::serve(admin, router).await });

    let running = Running { file: file.map(Path::to_owned), config: config.clone(), certificate };
    let keeping_up = signals.take_hangups().map(|hangups| tokio::spawn(running.keep_up(hangups)));
    let mut serving = pin!(listener.serve(stopping));
    tokio::select! {
        served = &mut serving => served.context("the listener has failed")?,
        name = signals.next() => {
            tracing::info!(signal = name, "stopping: answers under way are finished first");
            is_draining.store(true, Ordering::Relaxed);
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
            stop.send_replace(true);
            tokio::select! {
                served = &mut serving => served.context("the listener has failed")?,
                name = signals.next() => tracing::warn!(signal = name, "stopping at once"),
            }
        }
    }
    admin.abort();
    if let Some(keeping_up) = keeping_up {
        keeping_up.abort();
    }
    tracing::info!("stopped");
    Ok(())
}

/// What the command line can have this server do.
fn tools(server: Served) -> Vec<Tool> {
    let keeper = Keeper { store: server.mirror.store().clone(), server: Some(server) };
    vec![
        verify::tool(&keeper),
        errand::tool::<AskStats>(&keeper),
        errand::tool::<Rm>(&keeper),
        errand::tool::<SetPins>(&keeper),
        errand::tool::<Unpin>(&keeper),
        errand::tool::<Gc>(&keeper),
    ]
}

fn announce(
    config: &Config,
    listener: &Listener,
    admin: &TcpListener,
    is_tls: bool,
    max_bytes: Option<u64>,
) -> anyhow::Result<()> {
    let (defaults, others): (Vec<_>, Vec<_>) = config.upstreams.iter().partition(|upstream| upstream.default);
    let facts = Facts {
        listen: listener.address(),
        admin: admin.local_addr()?,
        is_tls,
        cache_dir: &config.cache.dir,
        max_size: max_bytes.map_or_else(|| config.cache.max_size.to_string(), banner::amount),
        default_upstream: defaults.first().map_or("", |upstream| upstream.name.as_str()),
        other_upstreams: others.iter().map(|upstream| upstream.name.as_str()).collect(),
    };
    let mut out = std::io::stdout().lock();
    // That nobody reads along is no reason not to serve.
    let _ = out.write_all(banner::text(&facts).as_bytes()).and_then(|()| out.flush());
    tracing::info!(listen = %facts.listen, admin = %facts.admin, cache.dir = %config.cache.dir.display(), cache.max_bytes = max_bytes, "listening");
    Ok(())
}

/// The signals that ask a server to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// That the terminal went. Without one, this signal means something else.
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let [terminate, interrupt, hangup] = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        Ok(Self { terminate: terminate?, interrupt: interrupt?, hangup: Some(hangup?) })
    }

    /// The signals that ask to look at the configuration again, where they cannot mean that the terminal went.
    fn take_hangups(&mut self) -> Option<Signal> {
        if std::io::stdin().is_terminal() { None } else { self.hangup.take() }
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = hangup(self.hangup.as_mut()) => "SIGHUP",
        }
    }
}

async fn hangup(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_connections_are_accepted_than_can_be_served() {
        for (descriptors, wanted, accepted) in [
            (None, 8192, 8192),
            (Some(1 << 20), 8192, 8192),
            (Some(1024), 8192, 272),
            (Some(1024), 100, 100),
            (Some(20), 8192, 1),
        ] {
            assert_eq!(connections_within(descriptors, 2, wanted), accepted, "{descriptors:?}");
        }
    }
}
