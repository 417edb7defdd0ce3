//! The deadline of a connection, from when its address is known to when it can be used: TCP, a proxy's tunnel and TLS. The time that
//! the name takes is not counted; that has a deadline of its own.

use std::fmt;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

tokio::task_local! {
    /// Since when the connection is being made; `None` while a name is being resolved for it.
    static CONNECTING: watch::Sender<Option<Instant>>;
}

/// Gives every connection that a client makes this deadline.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectDeadline(pub(super) Duration);

/// A connector with a deadline.
#[derive(Clone, Debug)]
pub(super) struct Timed<S> {
    connector: S,
    deadline: Duration,
}

/// A connection was not there in time. Found in the source chain of the HTTP client's error.
#[derive(Debug)]
pub(super) struct ConnectTimedOut;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Stops the clock of the connection that is being made, if one is, while `resolving` runs.
pub(super) async fn while_resolving<T>(resolving: impl Future<Output = T>) -> T {
    let tell = |since| {
        // Outside of a connection there is no clock to stop.
        let _ = CONNECTING.try_with(|connecting| connecting.send_replace(since));
    };
    tell(None);
    let resolved = resolving.await;
    tell(Some(Instant::now()));
    resolved
}

impl<S> Layer<S> for ConnectDeadline {
    type Service = Timed<S>;

    fn layer(&self, connector: S) -> Timed<S> {
        Timed { connector, deadline: self.0 }
    }
}

impl<S, T> Service<T> for Timed<S>
where
    S: Service<T, Error = BoxError>,
    S::Response: 'static,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, target: T) -> Self::Future {
        let (connecting, since) = watch::channel(Some(Instant::now()));
        let connecting = CONNECTING.scope(connecting, self.connector.call(target));
        let deadline = self.deadline;
        async move {
            tokio::select! {
                biased;
                connected = connecting => connected,
                () = too_late(since, deadline) => Err(ConnectTimedOut.into()),
            }
        }
        .boxed()
    }
}

/// Waits until it has been `deadline` since the clock was started the last time.
async fn too_late(mut since: watch::Receiver<Option<Instant>>, deadline: Duration) {
    loop {
        let at = *since.borrow_and_update();
        let mut late = pin!(async {
            match at {
                Some(at) => sleep_until(at + deadline).await,
                None => std::future::pending().await,
            }
        });
        tokio::select! {
            biased;
            changed = since.changed() => if changed.is_err() {
                // Nobody stops the clock any more.
                return late.await;
            },
            () = &mut late => return,
        }
    }
}

impl fmt::Display for ConnectTimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there was no connection in time")
    }
}

impl std::error::Error for ConnectTimedOut {}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// Makes a connection that takes so many seconds before, for and after its name; says after how many it has failed, if it has.
    async fn connect(before: u64, resolving: u64, after: u64) -> Result<(), u64> {
        struct Connector;
        impl Service<[u64; 3]> for Connector {
            type Response = ();
            type Error = BoxError;
            type Future = BoxFuture<'static, Result<(), BoxError>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, seconds: [u64; 3]) -> Self::Future {
                async move {
                    let [before, resolving, after] = seconds.map(Duration::from_secs);
                    sleep(before).await;
                    while_resolving(sleep(resolving)).await;
                    sleep(after).await;
                    Ok(())
                }
                .boxed()
            }
        }
        let start = Instant::now();
        let connected = ConnectDeadline(Duration::from_secs(5)).layer(Connector).call([before, resolving, after]).await;
        connected.map_err(|error| {
            assert!(error.is::<ConnectTimedOut>());
            start.elapsed().as_secs()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_stands_still_while_a_name_is_resolved() {
        assert_eq!(connect(0, 0, 4).await, Ok(()));
        assert_eq!(connect(0, 60, 4).await, Ok(()));
        assert_eq!(connect(0, 0, 6).await, Err(5));
        assert_eq!(connect(0, 60, 6).await, Err(65));
        assert_eq!(connect(6, 0, 0).await, Err(5));
    }
}
