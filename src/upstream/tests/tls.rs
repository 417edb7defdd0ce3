//! TLS with a certificate authority of one's own.

use std::net::Ipv4Addr;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::server::serve_on;
use super::*;

/// A CA as PEM, and a server's TLS with a certificate of it for `host`.
fn authority(host: &str) -> (Vec<u8>, Arc<ServerConfig>) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca_params = CertificateParams::new(Vec::new()).unwrap();
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = ca_params.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::from_params(&ca_params, &ca_key);
    let certificate = CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    (ca.pem().into_bytes(), Arc::new(config))
}

fn serve_tls(tls: &Arc<ServerConfig>, handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
    serve_on(Ipv4Addr::LOCALHOST, Some(TlsAcceptor::from(Arc::clone(tls))), handler)
}

#[tokio::test]
async fn the_operators_ca_is_trusted_and_no_other() {
    let (ca, tls) = authority("127.0.0.1");
    let (other_ca, _) = authority("127.0.0.1");
    let (elsewhere_ca, elsewhere) = authority("127.0.0.9");
    let server = serve_tls(&tls, |_| Reply::new(200).body(CONTENT));
    let misnamed = serve_tls(&elsewhere, |_| Reply::new(200).body(CONTENT));
    let trusting = registry(RegistryConfig { ca, ..config(&server.url()) });
    assert_eq!(fetch(&trusting, manifest("a/b")).await.unwrap().1, CONTENT);
    assert_eq!(fetch(&trusting, blob(Method::Get)).await.unwrap().1, CONTENT);
    for (ca, server) in [(Vec::new(), &server), (other_ca, &server), (elsewhere_ca, &misnamed)] {
        for question in [manifest("a/b"), blob(Method::Get)] {
            let error = fetch_error(&registry(RegistryConfig { ca: ca.clone(), ..config(&server.url()) }), question).await;
            assert!(matches!(&error, UpstreamError::Unreachable { reason } if reason.contains("certificate")), "{error}");
        }
    }
    assert!(misnamed.seen().is_empty());
}

#[tokio::test]
async fn https_does_not_lead_to_http() {
    let (ca, tls) = authority("127.0.0.1");
    let trap = serve(|_| Reply::json(r#"{"token":"t"}"#));
    let (realm, target) = (trap.url(), trap.url());
    let challenging = serve_tls(&tls, move |_| Reply::new(401).header("www-authenticate", &format!("Bearer realm=\"{realm}\"")));
    let redirecting = serve_tls(&tls, move |_| Reply::redirect(307, &target));
    let registry = |server: &Server| registry(with_credential(RegistryConfig { ca: ca.clone(), ..config(&server.url()) }));
    let error = fetch_error(&registry(&challenging), manifest("a/b")).await;
    assert!(matches!(error, UpstreamError::Refused(Refusal::Realm { .. })), "{error}");
    let error = fetch_error(&registry(&redirecting), blob(Method::Get)).await;
    assert!(matches!(error, UpstreamError::Refused(Refusal::Redirect { .. })), "{error}");
    assert_eq!(trap.connections(), 0);
}

#[tokio::test]
async fn manifests_are_offered_http2_and_blobs_are_not() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let registry = registry(config(&url));
    for (question, offered) in [(manifest("a/b"), vec!["h2", "http/1.1"]), (blob(Method::Get), vec!["http/1.1"])] {
        let asking = tokio::spawn({
            let registry = registry.clone();
            async move { fetch(&registry, question).await.map(|_| ()) }
        });
        let (stream, _) = listener.accept().await.unwrap();
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await.unwrap();
        let alpn: Vec<_> = start.client_hello().alpn().unwrap().map(|name| String::from_utf8(name.to_vec()).unwrap()).collect();
        assert_eq!(alpn, offered);
        drop(start);
        assert!(asking.await.unwrap().is_err());
    }
}
