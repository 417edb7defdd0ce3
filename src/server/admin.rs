//! The admin listener: health for supervisors, metrics for Prometheus. It shows no secret, and is on loopback unless an operator
//! puts it elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::telemetry::Metrics;

/// The routes of the admin listener. `is_draining` turns `/readyz` to 503 while the server finishes what it has begun.
pub fn router(metrics: Arc<Metrics>, refresh: Arc<dyn Fn(&Metrics) + Send + Sync>, is_draining: Arc<AtomicBool>) -> Router {
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
    let ready = move || async move {
        if is_draining.load(Ordering::Relaxed) {
            (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
        } else {
            (StatusCode::OK, "ready\n")
        }
    };
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .fallback(|| async { (StatusCode::NOT_FOUND, "see /livez, /readyz and /metrics\n") })
}
