//! The admin listener: health for supervisors, metrics for Prometheus, and what `larder`'s own tools ask a running server. It shows
//! no secret, and is on loopback unless an operator puts it elsewhere.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::telemetry::Metrics;

/// Lines of text that come as work goes on.
pub type Lines = BoxStream<'static, String>;

/// The routes of the admin listener. `is_draining` turns `/readyz` to 503 while the server finishes what it has begun, and `trouble` says
/// why nothing can be stored at the moment; `verify` begins to verify all that is cached and tells about it.
pub fn router(
    metrics: Arc<Metrics>,
    refresh: Arc<dyn Fn(&Metrics) + Send + Sync>,
    is_draining: Arc<AtomicBool>,
    trouble: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    verify: Arc<dyn Fn() -> Lines + Send + Sync>,
) -> Router {
    let scrape = move || {
        let (metrics, refresh) = (Arc::clone(&metrics), Arc::clone(&refresh));
        async move {
            refresh(&metrics);
            match metrics.encode() {
                Ok(text) => ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response(),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
            }
        }
    };
    // Readiness says that pulls are answered here. It does not depend on upstreams: their outage is what a mirror is for.
    // Nor on the disk: what cannot be kept passes through.
    let ready = move || async move {
        match trouble() {
            _ if is_draining.load(Ordering::Relaxed) => (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned()),
            None => (StatusCode::OK, "ready\n".to_owned()),
            Some(cause) => (StatusCode::OK, format!("ready, but nothing can be stored: {cause}\n")),
        }
    };
    let verify = move |headers: HeaderMap| async move {
        // A web page that somebody looks at on this machine is not to make the disks work.
        if headers.contains_key(header::ORIGIN) {
            return (StatusCode::FORBIDDEN, "not from a browser\n").into_response();
        }
        let lines = verify().map(|line| Ok::<_, Infallible>(line + "\n"));
        ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
    };
    Router::new()
        .route("/verify", post(verify))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .fallback(|| async { (StatusCode::NOT_FOUND, "see /livez, /readyz and /metrics\n") })
}
