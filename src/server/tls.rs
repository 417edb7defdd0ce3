//! TLS for the listener: a certificate and its key from PEM files, which may be replaced while connections are open.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Why the certificate or its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {error}", path = path.display())]
    File { path: PathBuf, error: pem::Error },
    #[error("{path}: there is no certificate in it", path = .0.display())]
    NoCertificate(PathBuf),
    #[error("the certificate and the key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// A certificate chain and its key, out of two files.
pub struct Certificate {
    chain_file: PathBuf,
    key_file: PathBuf,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads a certificate chain and its key.
    ///
    /// # Errors
    /// [`TlsError`] if a file cannot be read, has no such thing, or the two do not belong together.
    pub fn load(chain_file: &Path, key_file: &Path) -> Result<Arc<Self>, TlsError> {
        // The provider is named: two providers in one process make the default one panic.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let current = RwLock::new(Arc::new(read(chain_file, key_file, &provider)?));
        Ok(Arc::new(Self { chain_file: chain_file.to_owned(), key_file: key_file.to_owned(), provider, current }))
    }

    /// Reads the files again. From now on handshakes are made with what is there; connections that are open go on. Tells whether the
    /// certificate is another one.
    ///
    /// # Errors
    /// As for [`Certificate::load`]; then the certificate stays what it was.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let read = read(&self.chain_file, &self.key_file, &self.provider)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let is_another = current.cert != read.cert;
        *current = Arc::new(read);
        Ok(is_another)
    }

    /// How a server offers it: TLS 1.2 at least; clients may speak HTTP/2 or HTTP/1.1.
    ///
    /// # Errors
    /// [`TlsError::Unusable`], never in practice: the provider has all that is needed.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("chain_file", &self.chain_file).field("key_file", &self.key_file).finish()
    }
}

fn read(chain_file: &Path, key_file: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let in_file = |path: &Path| {
        let path = path.to_owned();
        move |error| TlsError::File { path, error }
    };
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(chain_file).and_then(|certificates| certificates.collect()).map_err(in_file(chain_file))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(chain_file.to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(in_file(key_file))?;
    Ok(CertifiedKey::from_der(chain, key, provider)?)
}
