//! Starting, stopping, TLS.

use larder_testkit::{Fault, Hub, Image, Listener, Repository};
use tokio::net::TcpStream;

use crate::client::{Connection, End, NAME, get, get_tls, manifest_url, plain_hub};

#[tokio::test]
async fn a_stopped_hub_refuses_connections_and_comes_back_at_the_same_port() {
    let (hub, ..) = plain_hub(1).await;
    let address = hub.address(Listener::Registry);
    let mut kept = Connection::open(&address.to_string()).await;
    assert_eq!(kept.ask("GET", "/v2/", &[]).await.status, 200);

    hub.stop_listening().await;
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!(hub.traffic(Listener::Registry).open, 0);

    hub.resume().await.unwrap();
    assert_eq!(hub.address(Listener::Registry), address);
    assert_eq!(get(&manifest_url(&hub, "1")).await.status, 200);
}

#[tokio::test]
async fn one_listener_can_be_stopped_alone() {
    let (hub, ..) = plain_hub(1).await;
    hub.stop_listening_on(Listener::Cdn).await;
    assert!(TcpStream::connect(hub.address(Listener::Cdn)).await.is_err());
    assert_eq!(get(&manifest_url(&hub, "1")).await.status, 200);
    hub.resume_on(Listener::Cdn).await.unwrap();
    assert!(TcpStream::connect(hub.address(Listener::Cdn)).await.is_ok());
}

#[tokio::test]
async fn a_dropped_hub_is_gone() {
    let (hub, ..) = plain_hub(1).await;
    let address = hub.address(Listener::Registry);
    drop(hub);
    // The listener goes with its task, which the runtime ends when it comes to it.
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn tls_is_good_for_addresses_and_names_under_the_kits_own_authority() {
    let image = Image::builder().layer("content").build();
    let hub = Hub::builder()
        .repository(Repository::new(NAME).tag("1", &image))
        .tls(Listener::Registry)
        .tls_name("registry-1.docker.io")
        .start()
        .await
        .unwrap();
    assert!(hub.url_of(Listener::Token).starts_with("http://"));
    let url = format!("{}/v2/", hub.url());
    let ca = hub.ca_pem().unwrap();
    for name in ["127.0.0.1", "localhost", "registry-1.docker.io"] {
        assert_eq!(get_tls(&url, name, ca).await.unwrap().status, 401, "{name}");
    }
    assert!(get_tls(&url, "ghcr.io", ca).await.is_err());

    hub.configure(|config| config.auth = larder_testkit::Auth::None);
    hub.fault(Fault::on(Listener::Registry).cut_at(1));
    let cut = get_tls(&url, "localhost", ca).await.unwrap();
    assert_eq!((cut.end, cut.body.len()), (End::Fin, 1));
}

#[tokio::test]
async fn an_address_in_use_is_an_error() {
    let (hub, ..) = plain_hub(1).await;
    let taken = hub.address(Listener::Registry);
    let second = Hub::builder().address(Listener::Token, taken).start().await;
    assert!(matches!(second.err(), Some(larder_testkit::StartError::Bind { listener: Listener::Token, .. })));
}
