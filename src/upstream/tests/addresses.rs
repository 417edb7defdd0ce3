//! Names with several addresses, some of which lead nowhere.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use futures::FutureExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::server::serve_on;
use super::*;
use crate::upstream::resolve::Resolver;

/// An address at which connections are neither taken nor refused: its queue is full, and nobody takes anything out of it.
struct BlackHole {
    _queue: (TcpListener, Vec<TcpStream>),
}

impl BlackHole {
    async fn open(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1).unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            queued.push(stream.unwrap());
        }
        Self { _queue: (listener, queued) }
    }
}

/// A registry at `port` of a name that has these addresses.
fn registry_at(addresses: &[Ipv4Addr], port: u16) -> Registry {
    let addresses: Vec<_> = addresses.iter().map(|address| SocketAddr::new((*address).into(), 0)).collect();
    let deadline = Duration::from_secs(5);
    let resolver = Resolver::with(deadline, deadline, move |_| futures::future::ready(Ok(addresses.clone())).boxed());
    let config = config(&format!("http://registry.test:{port}"));
    Registry::by_way_of(config, Arc::new(Notes::default()), Proxies::none(), resolver).unwrap()
}

/// Fault 19: two of three addresses swallow all that is sent to them.
#[tokio::test]
async fn dead_addresses_cost_a_moment_and_the_next_connections_nothing() {
    let [first, second, live] = [41, 42, 43].map(|number| Ipv4Addr::new(127, 0, 0, number));
    let server = serve_on(live, None, |_| Reply::new(200).body(CONTENT));
    let port = server.port();
    let _holes = [BlackHole::open((first, port).into()).await, BlackHole::open((second, port).into()).await];
    let registry = registry_at(&[first, second, live], port);
    let start = Instant::now();
    fetch(&registry, manifest("a/b")).await.unwrap();
    // Two steps of a quarter of a second; by turns it would be more than three seconds.
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    // Each has a connection of its own while the others are open.
    let bodies = (0..3).map(|_| registry.ask(blob(Method::Get)));
    let start = Instant::now();
    for answer in futures::future::join_all(bodies).await {
        answer.unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_address_that_refuses_is_passed_over_and_where_all_do_that_is_said() {
    let [closed, live] = [44, 45].map(|number| Ipv4Addr::new(127, 0, 0, number));
    let server = serve_on(live, None, |_| Reply::new(200).body(CONTENT));
    fetch(&registry_at(&[closed, live], server.port()), manifest("a/b")).await.unwrap();
    let port = server.port();
    drop(server);
    while TcpStream::connect((live, port)).await.is_ok() {}
    let error = fetch_error(&registry_at(&[closed, live], port), manifest("a/b")).await;
    assert!(matches!(&error, UpstreamError::Unreachable { reason } if reason.contains("refused")), "{error}");
}
