//! The command line: one file per command. It composes the layers and turns errors into messages and exit codes; it decides
//! nothing that a layer below could decide.

mod banner;
mod check_config;
mod ls;
mod observers;
mod serve;
mod upstreams;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;

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
    Ls {
        /// Only what belongs to these: an upstream, a namespace, a repository or an image, e.g. docker.io/library.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// The configuration file of the server.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print one JSON object a line, for scripts. Times are in seconds since 1970-01-01 UTC.
        #[arg(long)]
        json: bool,
    },
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
    /// Check a configuration file and say what is wrong with it, without starting anything.
    CheckConfig {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Serve { config } => serve::run(config.as_deref()),
        Command::Ls { names, config, json } => ls::run(config.as_deref(), json, &names),
        Command::Verify { config, json } => verify::run(config.as_deref(), json),
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
