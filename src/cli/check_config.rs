//! `larder check-config FILE`.

use std::path::Path;
use std::process::ExitCode;

use super::{BAD_CONFIG, environment, fail};
use crate::config::Config;

pub(super) fn run(file: &Path) -> ExitCode {
    match Config::load(Some(file), environment()) {
        Ok(config) => {
            let default = config.upstreams.iter().find(|upstream| upstream.default);
            let default = default.map_or_else(String::new, |upstream| format!(", {} by default", upstream.name));
            println!("{}: good; {} upstreams{default}", file.display(), config.upstreams.len());
            ExitCode::SUCCESS
        }
        Err(error) => fail(format_args!("the configuration is not accepted\n{error}"), BAD_CONFIG),
    }
}
