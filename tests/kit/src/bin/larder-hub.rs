//! `larder-hub`: the test kit's registry as a process, for end-to-end tests with real clients.
//! Reads flags, starts a hub under control, says where it is, and waits to be ended.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Parser, ValueEnum};
use larder_testkit::{Auth, Config, Control, Hub, HubBuilder, Image, Listener, RateLimit, Repository, Synthetic};
use tokio::signal::unix::{SignalKind, signal};

/// A registry shaped like Docker Hub that records every request and goes wrong when told to.
///
/// Prints one line of JSON with the URLs of its listeners once it is ready.
#[derive(Parser)]
#[command(version)]
struct Flags {
    /// Where the registry listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    registry: SocketAddr,
    /// Where the token server listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    token: SocketAddr,
    /// Where the CDN listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    cdn: SocketAddr,
    /// Where the control listener listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    control: SocketAddr,
    /// The registry that content comes from, `http://host:port`.
    #[arg(long)]
    origin: Option<String>,
    /// Content that is made up: a tag, and the sizes of its layers in bytes.
    #[arg(long, value_name = "NAME:TAG=SIZE[,SIZE]...")]
    image: Vec<SyntheticImage>,
    /// How the registry asks for credentials.
    #[arg(long, value_enum, default_value = "bearer")]
    auth: AuthFlag,
    /// A user who can log in.
    #[arg(long, value_name = "NAME:PASSWORD")]
    user: Vec<Pair<':'>>,
    /// A repository that only these users may read.
    #[arg(long, value_name = "REPOSITORY=USER[,USER]...")]
    private: Vec<Pair<'='>>,
    /// How many GETs of manifests are answered in six hours.
    #[arg(long, value_name = "COUNT")]
    rate_limit: Option<u64>,
    /// Listeners that speak TLS.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LISTENER[,LISTENER]...")]
    tls: Vec<ListenerFlag>,
    /// DNS names that the certificate is good for.
    #[arg(long, value_delimiter = ',', value_name = "NAME[,NAME]...")]
    tls_name: Vec<String>,
    /// Where to write the certificate of the authority, in PEM.
    #[arg(long, value_name = "FILE")]
    ca_out: Option<PathBuf>,
    /// Further switches, as `PATCH /config` takes them.
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = json)]
    config: serde_json::Value,
}

#[derive(Clone, Copy, ValueEnum)]
enum AuthFlag {
    None,
    Bearer,
    Basic,
}

#[derive(Clone, Copy, ValueEnum)]
enum ListenerFlag {
    Registry,
    Token,
    Cdn,
}

fn json(text: &str) -> Result<serde_json::Value, serde_json::Error> {
    serde_json::from_str(text)
}

/// Two texts with a separator between them.
#[derive(Clone)]
struct Pair<const SEPARATOR: char>(String, String);

impl<const SEPARATOR: char> FromStr for Pair<SEPARATOR> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (left, right) = text.split_once(SEPARATOR).ok_or_else(|| format!("there is no {SEPARATOR:?} in it"))?;
        Ok(Pair(left.to_owned(), right.to_owned()))
    }
}

/// An image of pseudo-random layers.
#[derive(Clone)]
struct SyntheticImage {
    name: String,
    tag: String,
    sizes: Vec<u64>,
}

impl FromStr for SyntheticImage {
    type Err = String;

    fn from_str(text: &str) -> Result<SyntheticImage, String> {
        let Pair::<'='>(reference, sizes) = text.parse()?;
        let Pair::<':'>(name, tag) = reference.parse()?;
        let size = |size: &str| size.parse().map_err(|_| format!("{size:?} is no size in bytes"));
        let sizes = sizes.split(',').map(size).collect::<Result<_, _>>()?;
        Ok(SyntheticImage { name, tag, sizes })
    }
}

impl SyntheticImage {
    /// Puts it into the hub. Each layer's bytes follow from its tag, place and size, so that no two images share any.
    fn put(&self, hub: &Hub) {
        let of_tag = self.tag.bytes().fold(0, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let of_both = self.name.bytes().fold(of_tag, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let layers = (1..).zip(&self.sizes);
        let image = layers.fold(Image::builder(), |image, (place, size)| {
            let seed = of_both.wrapping_mul(1009).wrapping_add(place);
            image.layer(Synthetic::new(seed, *size))
        });
        let image = image.build();
        hub.edit(&self.name, |repository: &mut Repository| {
            repository.set_tag(&self.tag, &image);
        });
    }
}

impl Flags {
    fn config(&self) -> Result<Config, serde_json::Error> {
        let mut config = Config {
            auth: match self.auth {
                AuthFlag::None => Auth::None,
                AuthFlag::Bearer => Auth::Bearer,
                AuthFlag::Basic => Auth::Basic,
            },
            rate_limit: self.rate_limit.map(RateLimit::of),
            ..Config::default()
        };
        for Pair(name, password) in &self.user {
            config.users.insert(name.clone(), password.clone());
        }
        for Pair(repository, users) in &self.private {
            let users: BTreeSet<_> = users.split(',').map(str::to_owned).collect();
            config.private.insert(repository.clone(), users);
        }
        config.patched(self.config.clone())
    }

    fn hub(&self, config: Config) -> HubBuilder {
        let mut hub = Hub::builder()
            .address(Listener::Registry, self.registry)
            .address(Listener::Token, self.token)
            .address(Listener::Cdn, self.cdn)
            .configure(|defaults| *defaults = config);
        if let Some(origin) = &self.origin {
            hub = hub.origin(origin);
        }
        for listener in &self.tls {
            hub = hub.tls(match listener {
                ListenerFlag::Registry => Listener::Registry,
                ListenerFlag::Token => Listener::Token,
                ListenerFlag::Cdn => Listener::Cdn,
            });
        }
        self.tls_name.iter().fold(hub, |hub, name| hub.tls_name(name))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Err(error) = run(Flags::parse()).await else {
        return ExitCode::SUCCESS;
    };
    eprintln!("larder-hub: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
    ExitCode::FAILURE
}

async fn run(flags: Flags) -> Result<(), Box<dyn Error>> {
    let hub = flags.hub(flags.config()?).start().await?;
    flags.image.iter().for_each(|image| image.put(&hub));
    if let Some(file) = &flags.ca_out {
        let pem = hub.ca_pem().ok_or("--ca-out is of no use without --tls")?;
        std::fs::write(file, pem)?;
    }
    let control = Control::start(hub, flags.control).await?;
    let mut terminated = signal(SignalKind::terminate())?;
    writeln!(std::io::stdout(), "{}", control.urls())?;
    tokio::select! {
        _ = terminated.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(())
}
