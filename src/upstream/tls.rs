//! How upstreams are trusted over TLS: the machine's roots, Mozilla's where the machine has none, and those of the operator. The
//! cryptography is named explicitly, because a process-wide default may be missing or somebody else's.

use std::sync::{Arc, LazyLock};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::error::BuildError;

/// Loaded once: every upstream has the same ones, and reading them takes a while.
static SYSTEM: LazyLock<RootCertStore> = LazyLock::new(system_roots);

/// TLS 1.2 and 1.3 with certificates checked against the system's roots and the PEM certificates in `ca`. `alpn` has the protocols
/// to offer, best first.
pub(super) fn config(ca: &[u8], alpn: &[&str]) -> Result<ClientConfig, BuildError> {
    let mut roots = SYSTEM.clone();
    let mut own = 0;
    for certificate in CertificateDer::pem_slice_iter(ca) {
        let bad = |error: &dyn std::fmt::Display| BuildError::BadCa(error.to_string());
        roots.add(certificate.map_err(|error| bad(&error))?).map_err(|error| bad(&error))?;
        own += 1;
    }
    if own == 0 && !ca.is_empty() {
        return Err(BuildError::BadCa("there is no certificate in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BuildError::Client(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(config)
}

fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some of the system's CA certificates cannot be read");
    }
    let mut roots = RootCertStore::empty();
    let (usable, unusable) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(usable, unusable, "read the system's CA certificates");
    if usable == 0 {
        tracing::info!("the system has no CA certificates; using those that came with this program");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_always_roots_and_no_default_provider_is_needed() {
        assert!(!SYSTEM.is_empty());
        let config = config(b"", &["h2", "http/1.1"]).unwrap();
        assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_a_mistake() {
        for text in
            ["not PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\n%%%"]
        {
            assert!(matches!(config(text.as_bytes(), &[]), Err(BuildError::BadCa(_))), "{text:?}");
        }
    }
}
