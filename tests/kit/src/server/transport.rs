//! A connection's bytes, plain or through TLS, and the ways to end it.
//! Carries bytes only.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::fault::Ending;

/// For how long an ended connection is read on, so that late bytes of the client do not turn the FIN into an RST.
const LINGER: Duration = Duration::from_secs(1);

/// An accepted connection.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Ends the connection as a server does that has nothing more to say.
    pub(crate) async fn close(mut self) -> io::Result<()> {
        self.shutdown().await?;
        drain(self.tcp()).await;
        Ok(())
    }

    /// Ends the connection in the midst of things.
    pub(crate) async fn cut(mut self, ending: Ending) -> io::Result<()> {
        self.flush().await?;
        let tcp = self.tcp();
        match ending {
            Ending::Fin => {
                tcp.shutdown().await?;
                drain(tcp).await;
            }
            Ending::Rst => tcp.set_zero_linger()?,
        }
        Ok(())
    }

    fn tcp(&mut self) -> &mut TcpStream {
        match self {
            Transport::Plain(tcp) => tcp,
            Transport::Tls(tls) => tls.get_mut().0,
        }
    }
}

async fn drain(tcp: &mut TcpStream) {
    let mut scratch = [0; 4096];
    let until_end = async { while matches!(tcp.read(&mut scratch).await, Ok(1..)) {} };
    // Either way the connection is dropped next.
    let _ = tokio::time::timeout(LINGER, until_end).await;
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Transport::Tls(tls) => Pin::new(tls).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Transport::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Transport::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Transport::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}
