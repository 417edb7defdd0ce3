//! TLS on both sides: clients that come by HTTPS, and upstreams whose certificates are not what they should be.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use larder_testkit::{Digest, Fault, Hub, HubBuilder, Listener};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::{Larder, NAME, TAG, blob, hub_with, image, manifest, prepare, pull};

/// Clients speak HTTP/1.1 (containerd, Podman) or HTTP/2 (crane, regctl, oras).
#[tokio::test]
async fn clients_pull_by_https_in_http1_and_http2() {
    let image = image(1100, &[4 << 20]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let (larder, pem) = larder_with_tls(&hub).await;
    for (protocol, version) in [("h2", reqwest::Version::HTTP_2), ("http/1.1", reqwest::Version::HTTP_11)] {
        let client = client(&pem, protocol);
        let answer = client.get(url(&larder, &manifest(TAG))).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
        assert_eq!(answer.headers()["docker-content-digest"], image.manifest().digest.as_str());
        assert_eq!(answer.bytes().await.unwrap(), image.manifest().bytes);
        let bytes = client.get(url(&larder, &blob(layer))).send().await.unwrap().bytes().await.unwrap();
        assert_eq!(&Digest::sha256(&bytes), layer);
        let head = client.head(url(&larder, &blob(layer))).send().await.unwrap();
        assert_eq!(head.headers()["content-length"], "4194304");
        let part = client.get(url(&larder, &blob(layer))).header("Range", "bytes=10-19").send().await.unwrap();
        assert_eq!((part.status().as_u16(), &part.bytes().await.unwrap()[..]), (206, &bytes[10..20]));
        let refused = client.put(url(&larder, &manifest(TAG))).body("{}").send().await.unwrap();
        assert_eq!(refused.status().as_u16(), 405);
        let error: serde_json::Value = serde_json::from_slice(&refused.bytes().await.unwrap()).unwrap();
        assert_eq!(error["errors"][0]["code"], "UNSUPPORTED");
    }
    assert_eq!(hub.requests().on(Listener::Cdn).method("GET").count(), 1);
}

/// Promise P1, over HTTP/2: a stream that ends with an error is no whole answer, and the connection goes on.
#[tokio::test]
async fn a_body_that_breaks_is_not_whole_over_http2_either() {
    let image = image(1101, &[4 << 20]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let (larder, pem) = larder_with_tls(&hub).await;
    let client = client(&pem, "h2");
    let mut answers = 0;
    let answer = loop {
        hub.clear_faults();
        hub.fault(Fault::on(Listener::Cdn).once().cut_at(2 << 20));
        hub.fault(Fault::on(Listener::Cdn).skip(1).status(404));
        let answer = client.get(url(&larder, &blob(layer))).send().await.unwrap();
        answers += 1;
        // On a busy machine it may have broken before its answer began; it is then refused for a few seconds.
        if answer.status().as_u16() == 200 || answers == 5 {
            break answer;
        }
        tokio::time::sleep(Duration::from_secs(6)).await;
    };
    assert_eq!(answer.status().as_u16(), 200);
    let mut body = answer.bytes_stream();
    let mut received = 0;
    let error = loop {
        match body.next().await {
            Some(Ok(bytes)) => received += bytes.len(),
            Some(Err(error)) => break error,
            None => panic!("{received} bytes were taken for the whole"),
        }
    };
    assert!(received > 0 && received < 4 << 20, "{error:?}");
    let answer = client.get(url(&larder, "/v2/")).send().await.unwrap();
    assert_eq!(answer.bytes().await.unwrap(), "{}");
}

/// Many streams on one connection are many clients of one fill.
#[tokio::test]
async fn fifty_streams_of_one_connection_cost_one_fetch() {
    let image = image(1102, &[2 << 20]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let (larder, pem) = larder_with_tls(&hub).await;
    let client = client(&pem, "h2");
    let target = url(&larder, &blob(layer));
    let downloads = (0..50).map(|_| async { client.get(&target).send().await.unwrap().bytes().await.unwrap() });
    for bytes in futures::future::join_all(downloads).await {
        assert_eq!(&Digest::sha256(&bytes), layer);
    }
    assert_eq!(hub.requests().on(Listener::Cdn).count(), 1);
    assert!(larder.metrics().await.get("connections") <= 1.0);
}

/// Who speaks plain HTTP to a listener with TLS, or says nothing at all, harms nobody.
#[tokio::test]
async fn a_listener_with_tls_serves_nothing_in_the_clear() {
    let image = image(1103, &[1_000]);
    let hub = hub_with(&image).await;
    let (larder, pem) = larder_with_tls(&hub).await;
    let mut plain = larder.connect().await;
    plain.send(format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", manifest(TAG))).await;
    let (_, said) = plain.end().await;
    assert!(!said.starts_with(b"HTTP/"), "{said:?}");
    let _silent = larder.connect().await;
    assert!(client(&pem, "h2").get(url(&larder, "/v2/")).send().await.unwrap().status().is_success());
}

/// Issue 2, "Upstream": an authority of one's own.
#[tokio::test]
async fn an_upstream_is_trusted_by_the_authority_that_the_operator_names() {
    let image = image(1104, &[100_000]);
    let larder = Larder::of(&hub_with_tls(&image).await).await;
    // Gone with the hub, which is dropped: so that this is about how errors look.
    assert_eq!(larder.get(manifest(TAG)).await.error(), (502, "UNAVAILABLE".to_owned()));
    let hub = hub_with_tls(&image).await;
    let larder = Larder::of(&hub).await;
    pull(&larder, NAME, TAG).await;
    assert_eq!(hub.auth_leaks().count(), 0);
}

/// Security rule 18; fault matrix, 20: fails closed, and what is cached is served.
#[tokio::test]
async fn an_upstream_with_a_bad_certificate_is_not_asked_and_hits_are_served() {
    let image = image(1105, &[100_000]);
    let good = hub_with_tls(&image).await;
    let mut larder = Larder::with(&good, "freshness.tags = '0s'").await;
    pull(&larder, NAME, TAG).await;

    let of_another_authority = hub_with_tls(&image).await;
    // Its certificate is for the addresses that it listens at: 0.0.0.0.
    let everywhere = |hub: HubBuilder, listener| hub.address(listener, ([0, 0, 0, 0], 0)).tls(listener);
    let of_another_host = Listener::ALL.into_iter().fold(prepare(&image), everywhere).start().await.unwrap();
    let (expired, its_pem) = expired().await;
    let its_port = of_another_host.address(Listener::Registry).port();
    for (name, url, pem) in [
        ("authority", of_another_authority.url().to_owned(), good.ca_pem().unwrap()),
        ("host", format!("https://127.0.0.1:{its_port}"), of_another_host.ca_pem().unwrap()),
        ("expired", expired, &its_pem),
    ] {
        let file = larder.file("other-ca.pem", pem);
        larder.restart_with(&format!("upstreams.'docker.io' = {{ url = {url:?}, ca_file = {file:?} }}")).await;
        let answer = larder.get(manifest("2.0")).await;
        assert_eq!(answer.error(), (502, "UNAVAILABLE".to_owned()), "{name}");
        let message = answer.json()["errors"][0]["message"].as_str().unwrap().to_lowercase();
        assert!(message.contains("certificate"), "{name}: {message}");
        assert_eq!(larder.get(manifest(TAG)).await.cache_status(), "larder; fwd=stale; detail=stale-unreachable");
        pull(&larder, NAME, TAG).await;
    }
    assert_eq!(of_another_authority.requests().count() + of_another_host.requests().count(), 0);
}

/// A certificate and a key that do not belong together are found at the start, not at the first client.
#[tokio::test]
async fn a_certificate_without_its_key_is_refused_at_the_start() {
    let (certificate, other) = (self_signed(), self_signed());
    let larder = Larder::builder();
    let (cert, key) = (larder.file("cert.pem", &certificate.0), larder.file("key.pem", &other.1));
    let run = larder.config(&format!("tls = {{ cert = {cert:?}, key = {key:?} }}")).run("serve");
    assert!(!run.status.success() && run.said.contains("TLS"), "{run:?}");
    assert!(!run.said.contains("PRIVATE KEY"));
}

async fn hub_with_tls(image: &larder_testkit::Image) -> Hub {
    let hub = Listener::ALL.into_iter().fold(prepare(image), |hub, listener| hub.tls(listener));
    hub.start().await.unwrap()
}

/// A mirror that is served by HTTPS, and the certificate to trust.
async fn larder_with_tls(hub: &Hub) -> (Larder, String) {
    let (certificate, key) = self_signed();
    let larder = Larder::builder().upstream("docker.io", hub);
    let (cert, key) = (larder.file("cert.pem", &certificate), larder.file("key.pem", &key));
    let larder = larder.config(&format!("tls = {{ cert = {cert:?}, key = {key:?} }}")).start().await;
    (larder, certificate)
}

/// A certificate for this machine, and its key, in PEM.
fn self_signed() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn url(larder: &Larder, target: &str) -> String {
    format!("https://{}{target}", larder.address())
}

/// A client that speaks only this protocol and trusts only this certificate.
fn client(pem: &str, protocol: &str) -> reqwest::Client {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).tls_backend_preconfigured(config);
    let client = if protocol == "h2" { client } else { client.http1_only() };
    client.build().unwrap()
}

/// The URL of a server whose certificate was good until 2020, and that certificate.
async fn expired() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1));
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // That it fails is what it is for.
            let _ = acceptor.accept(stream).await;
        }
    });
    (url, certificate.pem())
}

/// Fault matrix, 38: a renewed certificate is taken up without a connection being lost, and one that is none is not; a configuration that
/// is not accepted changes nothing.
#[tokio::test]
async fn a_certificate_is_replaced_under_way_and_a_bad_one_is_not_taken() {
    let image = image(1110, &[2 << 20]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let (old_certificate, key) = self_signed();
    let builder = Larder::builder().upstream("docker.io", &hub);
    let (cert_file, key_file) = (builder.file("cert.pem", &old_certificate), builder.file("key.pem", &key));
    let larder = builder.config(&format!("tls = {{ cert = {cert_file:?}, key = {key_file:?} }}")).start().await;
    let old = client(&old_certificate, "http/1.1");
    let gate = hub.fault(Fault::on(Listener::Cdn).once().hold_at(1 << 20));
    let under_way = old.get(url(&larder, &blob(layer))).send().await.unwrap();

    // What is no certificate is not taken, and said.
    std::fs::write(&cert_file, "no certificate").unwrap();
    larder.signal(rustix::process::Signal::HUP);
    larder.until_logged("the certificate cannot be read again; the one before holds").await;
    let handshake = |pem: &str| client(pem, "http/1.1").get(url(&larder, "/v2/")).send();
    assert_eq!(handshake(&old_certificate).await.unwrap().status().as_u16(), 200);

    let (new_certificate, key) = self_signed();
    std::fs::write(&cert_file, &new_certificate).unwrap();
    std::fs::write(&key_file, &key).unwrap();
    larder.signal(rustix::process::Signal::HUP);
    larder.until_logged("the certificate was replaced").await;
    assert_eq!(handshake(&new_certificate).await.unwrap().status().as_u16(), 200);
    assert!(handshake(&old_certificate).await.is_err(), "it is not offered any more");
    gate.release();
    assert_eq!(&Digest::sha256(&under_way.bytes().await.unwrap()), layer);

    larder.edit_config("limits.max_connections = 0");
    larder.signal(rustix::process::Signal::HUP);
    larder.until_logged("the configuration would not be accepted as it is now; the one that Larder was started with holds").await;
    larder.edit_config("limits.max_connections = 10");
    larder.signal(rustix::process::Signal::HUP);
    larder.until_logged("that holds from the next start on").await;
    assert_eq!(handshake(&new_certificate).await.unwrap().status().as_u16(), 200);
}
