//! The command line: one file per command. It composes the layers and turns errors into messages and exit codes; it decides
//! nothing that a layer below could decide.

mod banner;
mod capacity;
mod check_config;
mod errand;
mod gc;
mod heap;
mod identity;
mod ls;
mod missing;
mod names;
mod observers;
mod pin;
mod reload;
mod rm;
mod serve;
mod stats;
mod upstreams;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, MaxSize};
use crate::store::Name;

/// Exit code for a configuration that is not accepted.
const BAD_CONFIG: u8 = 2;

/// Exit code of a tool that could not tell what it was asked.
const FAILED: u8 = 3;

#[derive(Parser)]
#[command(name = "larder", version, about = "A pull-through caching mirror for container registries", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve images from the cache, and fetch what is missing from its registry.
    ///
    /// Without a configuration, Docker Hub is the default, the other well-known public registries are there by name, and only
    /// this machine can ask. Every setting can also be given by environment, e.g. LARDER_CACHE__DIR=/srv/larder.
    Serve {
        /// The configuration file; see config.example.toml.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// List what is cached, by the names under which it can be pulled.
    ///
    /// Works beside a running server and on a folder that no server has; it changes nothing.
    Ls(Listing),
    /// List what was asked for, was not cached, and could not be fetched because its upstream was offline, down or limiting.
    ///
    /// What has come since is left out. Works beside a running server and on a folder that no server has; it changes nothing.
    Missing(Listing),
    /// Read all that is cached again, and remove what is damaged: it is fetched again when it is asked for.
    ///
    /// Works beside a running server, which then does it, and on a folder that no server has. Exits with 0 if all was right, with
    /// 1 if something was damaged.
    Verify {
        /// The configuration file of the server.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print one JSON object a line, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// Tell how full the cache is, what it has saved, and how its upstreams are.
    ///
    /// A running server tells its numbers since it began, the same as those of /metrics; of a folder that no server has there is
    /// what its catalog knows.
    Stats {
        /// The configuration file of the server.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print one JSON object, for scripts. Sizes are in bytes.
        #[arg(long)]
        json: bool,
    },
    /// Remove images from the cache: what is asked for again is fetched again.
    ///
    /// With an image goes all that belongs to it and to nothing else that is cached; what other images share stays. Who is reading
    /// something that goes can read it to its end. Works beside a running server, which then does it, and on a folder that no server
    /// has. Exits with 1, and removes nothing, if one of the names is not cached or is pinned.
    Rm {
        /// An upstream, a namespace, a repository, an image by its tag or digest as `larder ls` prints it, or a digest alone
        /// (sha256:…), which goes from everywhere.
        #[arg(value_name = "NAME", required = true)]
        names: Vec<Name>,
        /// Only say what would be removed.
        #[arg(long)]
        dry_run: bool,
        /// Remove what is pinned as well. The pins stay: what comes again is pinned again.
        #[arg(long)]
        force: bool,
        /// The configuration file of the server.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print one JSON object, for scripts. Sizes are in bytes.
        #[arg(long)]
        json: bool,
    },
    /// Keep images from being evicted, whatever else needs room. Without names: list the pins.
    ///
    /// A pin is a name, and holds for what the name means now and later: when a tag moves, its pin moves with it, and what comes of
    /// an image after it was pinned is pinned as well. It fetches nothing. Pins outlive restarts and the catalog. If all the cache
    /// is pinned, what else is pulled passes through and is not kept. Works beside a running server and on a folder that no server
    /// has.
    Pin {
        /// An image by its tag or digest, or a repository: then all that is pulled from it, and from those whose names continue
        /// its name, e.g. docker.io/library/alpine:3.20 or docker.io/library/alpine.
        #[arg(value_name = "NAME")]
        names: Vec<Name>,
        /// The configuration file of the server.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print one JSON object a line, for scripts: each pin and what it keeps. Sizes are in bytes.
        #[arg(long)]
        json: bool,
    },
    /// Take pins away: what no other pin keeps can be evicted from now on, when its turn comes.
    ///
    /// Exits with 1, and changes nothing, if one of the names is not pinned.
    Unpin {
        /// The names, as they were pinned.
        #[arg(value_name = "NAME", required = true)]
        names: Vec<Name>,
        /// The configuration file of the server.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print one JSON object a line, for scripts: each pin and what it kept. Sizes are in bytes.
        #[arg(long)]
        json: bool,
    },
    /// Evict what is worth least until there is room, as happens by itself when room is needed.
    ///
    /// Tells what goes, in order, and which images are incomplete without it. Works beside a running server, which then does it, and
    /// on a folder that no server has.
    Gc {
        /// How much is to be free of what the cache may hold: a size (50GB, 50GiB) or a share (20%).
        #[arg(long, value_name = "SIZE", default_value = "10%")]
        free: MaxSize,
        /// Only say what would go.
        #[arg(long)]
        dry_run: bool,
        /// The configuration file of the server.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print one JSON object, for scripts. Sizes are in bytes.
        #[arg(long)]
        json: bool,
    },
    /// Check a configuration file and say what is wrong with it, without starting anything.
    CheckConfig {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

// What a tool that lists takes. (A doc comment would replace that of the command.)
#[derive(Args)]
struct Listing {
    /// Only what belongs to these: an upstream, a namespace, a repository or an image, e.g. docker.io/library.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The configuration file of the server.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object a line, for scripts. Times are in seconds since 1970-01-01 UTC.
    #[arg(long)]
    json: bool,
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Serve { config } => serve::run(config.as_deref()),
        Command::Ls(Listing { names, config, json }) => ls::run(config.as_deref(), json, &names),
        Command::Missing(Listing { names, config, json }) => missing::run(config.as_deref(), json, &names),
        Command::Verify { config, json } => verify::run(config.as_deref(), json),
        Command::Stats { config, json } => stats::run(config.as_deref(), json),
        Command::Rm { names, dry_run, force, config, json } => rm::run(config.as_deref(), json, names, dry_run, force),
        Command::Pin { names, config, json } => pin::pin(config.as_deref(), json, names),
        Command::Unpin { names, config, json } => pin::unpin(config.as_deref(), json, names),
        Command::Gc { free, dry_run, config, json } => gc::run(config.as_deref(), json, free, dry_run),
        Command::CheckConfig { file } => check_config::run(&file),
    }
}

/// The configuration of a command. Where there is none that is accepted it has been said why, and the command is over.
fn load(file: Option<&Path>) -> Result<Config, ExitCode> {
    Config::load(file, environment())
        .map_err(|error| fail(format_args!("the configuration is not accepted\n{error}"), BAD_CONFIG))
}

/// The environment as text. What is not text cannot be meant for us.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Prints why a command failed. The last thing that a command does with an error.
fn fail(message: impl std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("larder: {message}");
    ExitCode::from(code)
}
