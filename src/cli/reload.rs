//! What changes while a server runs: the certificate, when its files do, and at a SIGHUP. What else was changed in the configuration is
//! said, and holds from the next start on; a configuration that is not accepted changes nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::Signal;

use super::environment;
use crate::config::{Config, TlsConfig};
use crate::server::Certificate;

/// How often it is looked whether the certificate's files have changed: who renews them cannot always send a signal.
const LOOK: Duration = Duration::from_secs(30);

/// What a running server was started with.
pub(super) struct Running {
    pub(super) file: Option<PathBuf>,
    pub(super) config: Config,
    pub(super) certificate: Option<Arc<Certificate>>,
}

impl Running {
    /// Goes on for as long as the server does. `hangups` are the signals that ask for it.
    pub(super) async fn keep_up(self, mut hangups: Signal) {
        let mut seen = self.changed_at();
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                hangup = hangups.recv() => {
                    if hangup.is_none() {
                        return;
                    }
                    self.look_at_configuration();
                    self.reload_certificate();
                    seen = self.changed_at();
                }
                _ = looks.tick() => {
                    let changed_at = self.changed_at();
                    if changed_at != seen {
                        self.reload_certificate();
                        seen = changed_at;
                    }
                }
            }
        }
    }

    fn look_at_configuration(&self) {
        match Config::load(self.file.as_deref(), environment()) {
            Err(error) => {
                tracing::error!(%error, "the configuration would not be accepted as it is now; the one that Larder was started with holds")
            }
            Ok(config) => match differing(&self.config, &config) {
                sections if sections.is_empty() => tracing::info!("the configuration is as it was"),
                sections => {
                    let sections = sections.join(", ");
                    tracing::warn!(sections, "the configuration has changed; that holds from the next start on");
                }
            },
        }
    }

    fn reload_certificate(&self) {
        let Some(certificate) = &self.certificate else { return };
        match certificate.reload() {
            Ok(true) => tracing::info!("the certificate was replaced; open connections go on with the old one"),
            Ok(false) => tracing::info!("the certificate is as it was"),
            Err(error) => tracing::error!(%error, "the certificate cannot be read again; the one before holds"),
        }
    }

    /// When the certificate's files were changed last; `None` for one that cannot be looked at.
    fn changed_at(&self) -> [Option<SystemTime>; 2] {
        let Some(TlsConfig { cert, key }) = &self.config.tls else { return [None; 2] };
        [cert, key].map(|file| file.metadata().and_then(|metadata| metadata.modified()).ok())
    }
}

/// The parts of the configuration that are not the same.
fn differing(old: &Config, new: &Config) -> Vec<&'static str> {
    let parts = [
        ("listen", old.listen != new.listen),
        ("offline", old.offline != new.offline),
        ("admin", old.admin != new.admin),
        ("cache", old.cache != new.cache),
        ("freshness and tags", old.freshness != new.freshness),
        ("tls", old.tls != new.tls),
        ("log", old.log != new.log),
        ("limits", old.limits != new.limits),
        ("timeouts", old.timeouts != new.timeouts),
        ("upstreams", old.upstreams != new.upstreams),
    ];
    parts.into_iter().filter(|(_, differs)| *differs).map(|(part, _)| part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let load = |variables: &[(&str, &str)]| {
            let home = ("HOME".to_owned(), "/home/ada".to_owned());
            let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            Config::load(None, variables.chain([home])).unwrap()
        };
        let old = load(&[]);
        assert!(differing(&old, &old).is_empty());
        let new = load(&[("LARDER_OFFLINE", "true"), ("LARDER_UPSTREAMS__GHCR_IO__REQUESTS_PER_SECOND", "7")]);
        assert_eq!(differing(&old, &new), ["offline", "upstreams"]);
    }
}
