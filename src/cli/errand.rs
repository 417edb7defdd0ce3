//! What tools have done by whoever has the cache: by this process if no other has it, else by the server that does, on its admin
//! listener. A tool says what is to be done; nothing in here knows what that is.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use futures::FutureExt;
use http::{Method, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::banner::reachable;
use super::{FAILED, capacity, fail, identity, load};
use crate::config::Config;
use crate::mirror::Mirror;
use crate::server::{Tool, ToolAnswer};
use crate::store::{NameError, OpenError, OsFileSystem, PinError, RemovalError, Store, StoreConfig, StoreError};
use crate::telemetry::Metrics;
use crate::upstream::Gate;
use crate::util::SystemClock;

/// Exit code of a tool that was told no: there is no such thing, or it may not go.
const REFUSED: u8 = 1;

/// The longest answer of a server, in bytes.
const ANSWER_MAX_BYTES: usize = 256 << 20;

/// Something that can be done with a cache, wherever it is.
pub(super) trait Errand: Serialize + DeserializeOwned + Send + 'static {
    /// Where it is asked for on the admin listener.
    const PATH: &'static str;
    /// Whether it changes nothing. Such a one is asked for with GET, and has nothing to say about how.
    const IS_SAFE: bool = false;
    type Answer: Serialize + DeserializeOwned + Send;

    fn run(self, keeper: &Keeper) -> impl Future<Output = Result<Self::Answer, Undone>> + Send;
}

/// Why something is not done, in words for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Undone {
    /// There is no such thing, or it may not go.
    #[error("{0}")]
    Refused(String),
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
}

/// A cache, and what a server has besides.
#[derive(Clone)]
pub(super) struct Keeper {
    pub(super) store: Store,
    pub(super) server: Option<Served>,
}

/// What a server has besides the cache.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) mirror: Mirror,
    pub(super) metrics: Arc<Metrics>,
    /// The gate before each upstream, under its name.
    pub(super) gates: Arc<Vec<(String, Gate)>>,
}

/// A cache that this process has, or that a server has.
pub(super) enum Cache {
    Here(Keeper),
    At(SocketAddr),
}

impl Undone {
    pub(super) fn refused(reason: impl ToString) -> Self {
        Self::Refused(reason.to_string())
    }
}

impl From<NameError> for Undone {
    fn from(error: NameError) -> Self {
        Self::refused(error)
    }
}

impl From<RemovalError> for Undone {
    fn from(error: RemovalError) -> Self {
        match error {
            RemovalError::Store(error) => error.into(),
            RemovalError::NotCached(_) | RemovalError::Pinned(_) => Self::refused(error),
        }
    }
}

impl From<PinError> for Undone {
    fn from(error: PinError) -> Self {
        match error {
            PinError::Store(error) => error.into(),
            PinError::NotPinned(_) => Self::refused(error),
        }
    }
}

impl From<StoreError> for Undone {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Loads the configuration, has the errand run, and prints what comes of it.
pub(super) fn run<E: Errand>(
    file: Option<&Path>,
    errand: impl FnOnce(&Config) -> anyhow::Result<E>,
    print: impl FnOnce(E::Answer) -> ExitCode,
) -> ExitCode {
    let config = match load(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let answer = errand(&config).and_then(|errand| block_on(&config, async { Cache::open(&config).await?.run(errand).await }));
    match answer {
        Ok(answer) => print(answer),
        Err(error) if matches!(error.downcast_ref(), Some(Undone::Refused(_))) => fail(error, REFUSED),
        Err(error) => fail(format_args!("{error:#}"), FAILED),
    }
}

/// Runs a tool's work on the cache to its end, as the user whose cache it is.
pub(super) fn block_on<T>(config: &Config, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    identity::become_owner_of(&config.cache.dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(work)
}

/// The errand as the admin listener offers it.
pub(super) fn tool<E: Errand>(keeper: &Keeper) -> Tool {
    let keeper = keeper.clone();
    let answer = move |question: bytes::Bytes| {
        let keeper = keeper.clone();
        async move {
            let question: &[u8] = if E::IS_SAFE { b"null" } else { &question };
            let errand: E = match serde_json::from_slice(question) {
                Ok(errand) => errand,
                Err(error) => return ToolAnswer::Malformed(error.to_string()),
            };
            // It is done to its end, whether or not the tool waits for that.
            match tokio::spawn(async move { errand.run(&keeper).await }).await {
                Ok(Ok(answer)) => ToolAnswer::Document(to_json(&answer)),
                Ok(Err(Undone::Refused(reason))) => ToolAnswer::Refused(reason),
                Ok(Err(Undone::Failed(reason))) => ToolAnswer::Failed(reason),
                Err(abandoned) => ToolAnswer::Failed(abandoned.to_string()),
            }
        }
        .boxed()
    };
    Tool { path: E::PATH, is_safe: E::IS_SAFE, answer: Arc::new(answer) }
}

/// Prints what a tool has answered: one JSON object, or what `told` says of it.
pub(super) fn show<T: Serialize>(json: bool, answer: &T, told: impl FnOnce(&T) -> String) -> ExitCode {
    if json {
        println!("{}", to_json(answer));
    } else {
        print!("{}", told(answer));
    }
    ExitCode::SUCCESS
}

/// A value of ours as JSON.
pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts, numbers and lists are JSON")
}

// === impl Cache ===

impl Cache {
    /// Takes the cache, if nobody has it.
    ///
    /// # Errors
    /// If there is none, or it cannot be opened.
    pub(super) async fn open(config: &Config) -> anyhow::Result<Self> {
        let dir = &config.cache.dir;
        if !dir.exists() {
            bail!("there is no cache at {}", dir.display());
        }
        // That a tool looks at a cache evicts nothing: it has its limit when all is known that is there.
        let store_config = StoreConfig { dir: dir.clone(), max_bytes: u64::MAX };
        let opened =
            tokio::task::spawn_blocking(move || Store::open(store_config, Arc::new(OsFileSystem), Arc::new(SystemClock)));
        match opened.await.context("opening the cache was abandoned")? {
            Ok(store) => {
                if let Some(trouble) = store.trouble() {
                    bail!("the cache cannot be used: {trouble}");
                }
                store.settled().await;
                capacity::limit(&store, &config.cache).context("the size of the cache's file system cannot be told")?;
                Ok(Self::Here(Keeper { store, server: None }))
            }
            Err(OpenError::InUse { address, .. }) => Ok(Self::At(address.map_or(config.admin.listen, reachable))),
            Err(error) => Err(error.into()),
        }
    }

    /// # Errors
    /// [`Undone`], or whatever kept it from being done.
    pub(super) async fn run<E: Errand>(self, errand: E) -> anyhow::Result<E::Answer> {
        match self {
            Self::Here(keeper) => Ok(errand.run(&keeper).await?),
            Self::At(address) => {
                let method = if E::IS_SAFE { Method::GET } else { Method::POST };
                let question = if E::IS_SAFE { String::new() } else { to_json(&errand) };
                let answer = collect(ask(address, method, E::PATH, question).await?).await?;
                serde_json::from_slice(&answer).context("the server answers in words of another version")
            }
        }
    }
}

/// Asks the server whose admin listener is at `address`. Gives the body of its answer.
///
/// # Errors
/// [`Undone`] if that is its answer, or whatever kept it from answering.
pub(super) async fn ask(address: SocketAddr, method: Method, path: &str, question: String) -> anyhow::Result<Incoming> {
    let asked = async {
        let client = Client::builder(TokioExecutor::new()).build_http::<String>();
        let request = http::Request::builder().method(method).uri(format!("http://{address}{path}")).body(question)?;
        let response = client.request(request).await?;
        let (status, body) = (response.status(), response.into_body());
        if status == StatusCode::OK {
            return Ok(Ok(body));
        }
        let reason = String::from_utf8_lossy(&collect(body).await?).trim_end().to_owned();
        match status {
            StatusCode::CONFLICT => Ok(Err(Undone::Refused(reason))),
            StatusCode::INTERNAL_SERVER_ERROR => Ok(Err(Undone::Failed(reason))),
            _ => bail!("it answers {status}"),
        }
    };
    let answer: anyhow::Result<_> = asked.await;
    Ok(answer.with_context(|| format!("the server that has the cache, at {address}, cannot be asked"))??)
}

async fn collect(mut body: Incoming) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(frame) = next_frame(&mut body).await.transpose()? {
        bytes.extend_from_slice(&frame);
        if bytes.len() > ANSWER_MAX_BYTES {
            bail!("its answer is too long");
        }
    }
    Ok(bytes)
}

/// The next bytes of a body; none at its end.
pub(super) async fn next_frame(body: &mut Incoming) -> Option<hyper::Result<bytes::Bytes>> {
    let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}
