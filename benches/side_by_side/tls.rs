//! TLS at both ends: the certificate that servers have, and a client that trusts it, and reads what comes as fast as it can.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// What the servers are called.
const NAME: &str = "localhost";
/// How much is read at a time, in bytes.
const PIECE: usize = 256 * 1024;

/// A certificate, its key, and how clients come to trust it.
pub(crate) struct Identity {
    certificate: String,
    key: String,
    trust: Arc<ClientConfig>,
}

/// A connection that is kept alive.
pub(crate) struct TlsClient {
    stream: StreamOwned<ClientConnection, TcpStream>,
    buffer: Vec<u8>,
}

impl Identity {
    pub(crate) fn new() -> Result<Self> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.to_owned()])?;
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let trust = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let trust = Arc::new(trust.with_root_certificates(roots).with_no_client_auth());
        Ok(Self { certificate: cert.pem(), key: signing_key.serialize_pem(), trust })
    }

    /// Puts certificate and key into a folder, as `cert.pem` and `key.pem`.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        fs::write(folder.join("cert.pem"), &self.certificate)?;
        fs::write(folder.join("key.pem"), &self.key)?;
        Ok(())
    }

    /// Connects.
    pub(crate) fn connect(&self, address: SocketAddr) -> Result<TlsClient> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let connection = ClientConnection::new(Arc::clone(&self.trust), ServerName::try_from(NAME)?)?;
        Ok(TlsClient { stream: StreamOwned::new(connection, stream), buffer: vec![0; PIECE] })
    }
}

impl TlsClient {
    /// Asks for something, reads it and forgets it. Returns its length in bytes.
    ///
    /// # Errors
    ///
    /// The status is not 200, or the body ends before its declared length.
    pub(crate) fn get(&mut self, path: &str) -> Result<u64> {
        write!(self.stream, "GET {path} HTTP/1.1\r\nHost: {NAME}\r\n\r\n")?;
        let mut head = Vec::new();
        let end = loop {
            let count = self.stream.read(&mut self.buffer)?;
            ensure!(count > 0, "the connection ended");
            head.extend_from_slice(&self.buffer[..count]);
            if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
        ensure!(text.starts_with("http/1.1 200 "), "{path} was answered\n{text}");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<u64>().ok());
        let length = length.with_context(|| format!("no length in\n{text}"))?;
        let mut left = length - (head.len() - end) as u64;
        while left > 0 {
            let most = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            let count = self.stream.read(&mut self.buffer[..most])?;
            ensure!(count > 0, "the body ended {left} bytes short");
            left -= count as u64;
        }
        Ok(length)
    }
}
