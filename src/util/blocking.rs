//! Work that blocks, on threads that may. The one place that knows how, so that a simulation can have it done in its own order.

use tokio::task::JoinHandle;

/// Has `work` done where it may block, whether or not anybody waits for it. Needs a runtime.
///
/// The handle gives an error if the work panicked, or the runtime ended before it began.
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    #[cfg(test)]
    if let Some(pause) = super::simulated::pause() {
        return tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            work()
        });
    }
    tokio::task::spawn_blocking(work)
}
