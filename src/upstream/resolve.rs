//! From a name to its addresses: as the system says, within a deadline; and where it does not, as it said before. One look-up of a
//! name is under way at a time, however long it takes: a name server that is silent must not use up the threads that read the disk.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use moka::sync::Cache;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::timeout;

use super::connect;
use super::proven::Proven;
use crate::util::{Remembered, SingleFlight};

/// Of how many names the last addresses are kept: an upstream's own, its token server's and those of its CDN.
const NAMES: usize = 256;

/// How long a name that could not be looked up is not looked up again, if addresses of it are known.
const PAUSE: Duration = Duration::from_secs(5);

/// The resolver of one upstream. Cheap to clone; all clones share what is known.
#[derive(Clone)]
pub(super) struct Resolver(Arc<Shared>);

struct Shared {
    lookup: Box<Lookup>,
    deadline: Duration,
    lookups: SingleFlight<String, Result<Addresses, Arc<str>>>,
    known: Cache<String, Addresses>,
    failed: Remembered<String, ()>,
    proven: Proven,
}

/// In the order in which they are to be tried. There may be none.
type Addresses = Arc<[SocketAddr]>;

/// Asks the system, or in tests somebody else.
type Lookup = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// A name has no addresses. Found in the source chain of the HTTP client's error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unresolved {
    Late,
    Failed(Arc<str>),
}

impl Resolver {
    /// Asks the system, and waits for `deadline` at the most; a connection may take `connect_deadline`.
    pub(super) fn new(deadline: Duration, connect_deadline: Duration) -> Self {
        Self::with(deadline, connect_deadline, |host| {
            async move { Ok(tokio::net::lookup_host((host, 0)).await?.collect()) }.boxed()
        })
    }

    /// Asks `lookup`.
    pub(super) fn with(
        deadline: Duration,
        connect_deadline: Duration,
        lookup: impl Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Shared {
            lookup: Box::new(lookup),
            deadline,
            lookups: SingleFlight::new(),
            known: Cache::new(NAMES as u64),
            failed: Remembered::new(PAUSE, NAMES),
            proven: Proven::new(connect_deadline),
        }))
    }

    /// The addresses of `host`.
    pub(super) async fn addresses(&self, host: &str) -> Result<Addresses, Unresolved> {
        let known = self.0.known.get(host);
        if let Some(known) = known.as_ref().filter(|_| self.0.failed.get(&host.to_owned()).is_some()) {
            return Ok(Arc::clone(known));
        }
        let looked_up = self.0.lookups.run(host.to_owned(), || self.clone().look_up(host.to_owned()));
        let unresolved = match timeout(self.0.deadline, looked_up).await {
            Ok((Some(Ok(addresses)), _)) => return Ok(addresses),
            Ok((Some(Err(reason)), _)) => Unresolved::Failed(reason),
            Ok((None, _)) => Unresolved::Failed("the look-up was given up".into()),
            Err(_) => Unresolved::Late,
        };
        match known {
            Some(known) => {
                tracing::debug!(host, %unresolved, "going by the addresses that a name had before");
                self.0.failed.insert(host.to_owned(), ());
                Ok(known)
            }
            None => Err(unresolved),
        }
    }

    /// Which of the addresses take connections.
    pub(super) fn proven(&self) -> &Proven {
        &self.0.proven
    }

    /// What comes late is good for the next time.
    async fn look_up(self, host: String) -> Result<Addresses, Arc<str>> {
        let addresses: Addresses = match (self.0.lookup)(host.clone()).await {
            Ok(addresses) if addresses.is_empty() => return Err("there is no address".into()),
            Ok(addresses) => addresses.into(),
            Err(error) => return Err(error.to_string().into()),
        };
        self.0.known.insert(host, Arc::clone(&addresses));
        Ok(addresses)
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        async move {
            let found = connect::while_resolving(resolver.addresses(name.as_str())).await?;
            let addresses = resolver.proven().order(name.as_str(), found.to_vec()).await;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        }
        .boxed()
    }
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => f.write_str("its name was not looked up in time"),
            Self::Failed(reason) => write!(f, "its name could not be looked up: {reason}"),
        }
    }
}

impl std::error::Error for Unresolved {}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::{Instant, sleep};

    use super::*;

    /// What a name server does.
    #[derive(Clone, Copy)]
    enum Server {
        Answers(&'static str),
        Refuses,
        IsSlow(Duration, &'static str),
    }

    /// A resolver, what its name server does, and how often it was asked.
    struct Case {
        resolver: Resolver,
        server: Arc<Mutex<(Server, usize)>>,
    }

    impl Case {
        fn new(server: Server) -> Self {
            let server = Arc::new(Mutex::new((server, 0)));
            let seen = Arc::clone(&server);
            let resolver = Resolver::with(Duration::from_secs(3), Duration::from_secs(3), move |_| {
                let mut seen = seen.lock().unwrap();
                seen.1 += 1;
                let server = seen.0;
                async move {
                    match server {
                        Server::Answers(address) => Ok(vec![address.parse().unwrap()]),
                        Server::Refuses => Err(io::Error::other("no such name")),
                        Server::IsSlow(pause, address) => {
                            sleep(pause).await;
                            Ok(vec![address.parse().unwrap()])
                        }
                    }
                }
                .boxed()
            });
            Self { resolver, server }
        }

        fn set(&self, server: Server) {
            self.server.lock().unwrap().0 = server;
        }

        fn asked(&self) -> usize {
            self.server.lock().unwrap().1
        }

        async fn ask(&self) -> Result<String, Unresolved> {
            self.resolver.addresses("r.example.org").await.map(|addresses| addresses[0].to_string())
        }
    }

    const FIRST: &str = "192.0.2.1:0";
    const SECOND: &str = "192.0.2.2:0";

    #[tokio::test(start_paused = true)]
    async fn what_was_known_is_good_when_nobody_knows_any_more() {
        let case = Case::new(Server::Answers(FIRST));
        assert_eq!(case.ask().await.as_deref(), Ok(FIRST));
        case.set(Server::Refuses);
        assert_eq!(case.ask().await.as_deref(), Ok(FIRST));
        let asked = case.asked();
        assert_eq!((case.ask().await.as_deref(), case.asked()), (Ok(FIRST), asked), "nor is it asked for a moment");
        sleep(PAUSE).await;
        case.set(Server::Answers(SECOND));
        assert_eq!(case.ask().await.as_deref(), Ok(SECOND), "and then it is");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_never_had_an_address_has_none() {
        let case = Case::new(Server::Refuses);
        assert_eq!(case.ask().await, Err(Unresolved::Failed("no such name".into())));
        case.set(Server::Answers(FIRST));
        assert_eq!(case.ask().await.as_deref(), Ok(FIRST), "that is not remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_name_server_is_asked_once_and_what_it_says_late_is_heard() {
        let case = Case::new(Server::IsSlow(Duration::from_secs(20), SECOND));
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(case.ask().await, Err(Unresolved::Late));
        }
        assert_eq!((start.elapsed(), case.asked()), (Duration::from_secs(9), 1));
        sleep(Duration::from_secs(12)).await;
        case.set(Server::Refuses);
        assert_eq!(case.ask().await.as_deref(), Ok(SECOND));
    }

    #[tokio::test]
    async fn the_system_knows_this_machine() {
        let addresses = Resolver::new(Duration::from_secs(30), Duration::from_secs(5)).addresses("localhost").await.unwrap();
        assert!(!addresses.is_empty() && addresses.iter().all(|address| address.ip().is_loopback()));
    }
}
