//! The log: lines for people or JSON for machines, on standard error, so that standard output is free for what a command prints.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Starts the log at `level` for Larder; libraries speak up only from warnings on.
///
/// # Errors
/// If there is a log already.
pub fn init(format: LogFormat, level: LevelFilter) -> Result<(), TryInitError> {
    let libraries = if level > LevelFilter::WARN { LevelFilter::WARN } else { level };
    let filter = EnvFilter::new(format!("{libraries},larder={level}"));
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Text => fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()
}
