//! The upstream of all servers: the test kit's registry, in a process of its own so that its work is nobody's else.
//! It asks for tokens, as public registries do, but redirects nobody, for nginx could not follow; nor can nginx get a token, so it
//! is given one.

use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use larder_testkit::{Control, Hub};
use serde_json::{Value, json};

use crate::client::Client;
use crate::content::{Plan, REPOSITORY, manifest_path};

/// Longer than any run: the one token that nginx has must do.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Runs the upstream until standard input ends.
pub(crate) fn serve(plan: &Plan) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let control = runtime.block_on(async {
        let hub = Hub::builder()
            .configure(|config| config.token.lifetime = TOKEN_LIFETIME)
            .without_redirects()
            .repository(plan.repository())
            .start()
            .await?;
        anyhow::Ok(Control::start(hub, (Ipv4Addr::LOCALHOST, 0).into()).await?)
    })?;
    println!("{}", control.urls());
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// The network before the upstream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// As quick as the machine is.
    Fast,
    /// 30 ms pass before each answer, and all content together comes at 200 MB/s.
    Wan,
    /// The same at a quarter of the speed.
    NarrowWan,
    /// 30 ms pass before each answer, and content comes at 20 MB/s over each connection, as from many a CDN.
    LimitedConnections,
}

/// A running upstream. Dropping it ends it.
pub(crate) struct Upstream {
    child: Child,
    /// Its end is the child's.
    stdin: Option<ChildStdin>,
    registry: SocketAddr,
    token_server: SocketAddr,
    control: SocketAddr,
}

/// What the upstream was asked, since [`Upstream::forget`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    /// GETs of blobs.
    pub(crate) blobs: u64,
    /// Bytes of bodies that it sent.
    pub(crate) bytes: u64,
}

/// Content that has a digest.
#[derive(Clone)]
pub(crate) struct Descriptor {
    pub(crate) digest: String,
    /// In bytes.
    pub(crate) size: u64,
}

/// An image of one platform.
pub(crate) struct ImageContent {
    pub(crate) manifest: Descriptor,
    /// The config, then the layers.
    pub(crate) blobs: Vec<Descriptor>,
}

impl ImageContent {
    /// The manifest and all blobs, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.manifest.size + self.blobs.iter().map(|blob| blob.size).sum::<u64>()
    }

    /// The largest blob.
    pub(crate) fn largest(&self) -> Result<&Descriptor> {
        self.blobs.iter().max_by_key(|blob| blob.size).context("the image has no blob")
    }
}

impl Upstream {
    /// Starts the upstream of the quick or the full plan. That takes as long as its content takes to be hashed.
    pub(crate) fn start(quick: bool) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--as-upstream").args(quick.then_some("--quick"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("the upstream does not start")?;
        let stdin = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("the upstream has no output")?).read_line(&mut line)?;
        let urls: Value = serde_json::from_str(&line).with_context(|| format!("the upstream said {line:?}"))?;
        let address = |listener: &str| {
            let url = urls[listener].as_str().and_then(|url| url.strip_prefix("http://"));
            url.and_then(|address| address.parse().ok()).with_context(|| format!("the upstream does not tell its {listener}"))
        };
        let [registry, token_server, control] = [address("registry")?, address("token")?, address("control")?];
        Ok(Self { registry, token_server, control, child, stdin })
    }

    /// The registry's address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.registry
    }

    /// Gets a token as clients do: is refused, and asks the token server.
    pub(crate) fn log_in(&self) -> Result<String> {
        Client::open(self.registry)?.request("GET", "/v2/", "", "401")?.discard()?;
        let path = format!("/token?service=registry.docker.io&scope=repository:{REPOSITORY}:pull");
        let reply = Client::open(self.token_server)?.get(&path)?.keep()?;
        let reply: Value = serde_json::from_slice(&reply)?;
        Ok(reply["token"].as_str().context("there is no token in the reply")?.to_owned())
    }

    /// What an image consists of, by its tag.
    pub(crate) fn image(&self, tag: &str) -> Result<ImageContent> {
        let bytes = Client::open(self.registry)?.with_token(&self.log_in()?).get(&manifest_path(tag))?.keep()?;
        let manifest: Value = serde_json::from_slice(&bytes)?;
        let descriptor = |value: &Value| {
            let digest = value["digest"].as_str().map(str::to_owned);
            digest.zip(value["size"].as_u64()).map(|(digest, size)| Descriptor { digest, size })
        };
        let layers = manifest["layers"].as_array().into_iter().flatten();
        let blobs: Option<Vec<_>> = [&manifest["config"]].into_iter().chain(layers).map(descriptor).collect();
        let digest = larder_testkit::Digest::sha256(&bytes).as_str().to_owned();
        Ok(ImageContent {
            manifest: Descriptor { digest, size: bytes.len() as u64 },
            blobs: blobs.with_context(|| format!("{tag} has an odd manifest"))?,
        })
    }

    /// Puts a network before the registry.
    pub(crate) fn set_network(&self, network: Network) -> Result<()> {
        let far = |limit: &str, rate: u64| json!({"network": {"registry": {"latency_ms": 30, limit: rate}, "token": {"latency_ms": 30}}});
        let switches = match network {
            Network::Fast => json!({"network": null}),
            Network::Wan => far("total_rate", 200_000_000),
            Network::NarrowWan => far("total_rate", 50_000_000),
            Network::LimitedConnections => far("connection_rate", 20_000_000),
        };
        // What is not said stays as it was.
        self.command("PATCH", "/config", r#"{"network": null}"#)?;
        self.command("PATCH", "/config", &switches.to_string())?;
        Ok(())
    }

    /// Counts from 0 again.
    pub(crate) fn forget(&self) -> Result<()> {
        self.command("POST", "/reset", "")?;
        Ok(())
    }

    /// What it was asked.
    pub(crate) fn asked(&self) -> Result<Asked> {
        let summary: Value = serde_json::from_slice(&self.command("GET", "/summary", "")?)?;
        let registry = &summary["registry"];
        let counts = registry["blob_gets"].as_u64().zip(registry["connections"]["body_bytes"].as_u64());
        let (blobs, bytes) = counts.with_context(|| format!("an odd summary: {summary}"))?;
        Ok(Asked { blobs, bytes })
    }

    /// How many answers with this in their path it is sending at the moment, each over a connection of its own.
    pub(crate) fn sending(&self, part: &str) -> Result<u64> {
        let found = self.command("GET", &format!("/requests?outcome=in_flight&path={part}"), "")?;
        let found: Value = serde_json::from_slice(&found)?;
        found["count"].as_u64().with_context(|| format!("an odd count: {found}"))
    }

    fn command(&self, method: &str, path: &str, body: &str) -> Result<Vec<u8>> {
        Client::open(self.control)?.request(method, path, body, "200")?.keep()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if let Err(error) = self.child.wait() {
            eprintln!("the upstream may still run: {error}");
        }
    }
}
