//! `larder check-config FILE`.

use std::path::Path;
use std::process::ExitCode;

use super::load;

pub(super) fn run(file: &Path) -> ExitCode {
    match load(Some(file)) {
        Ok(config) => {
            let default = config.upstreams.iter().find(|upstream| upstream.default);
            let default = default.map_or_else(String::new, |upstream| format!(", {} by default", upstream.name));
            println!("{}: good; {} upstreams{default}", file.display(), config.upstreams.len());
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}
