//! The admin listener: health for supervisors, metrics for Prometheus, and what `larder`'s own tools ask a running server. It shows
//! no secret, and is on loopback unless an operator puts it elsewhere.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::telemetry::Metrics;
use crate::util::blocking;

/// Lines of text that come as work goes on.
pub type Lines = BoxStream<'static, String>;

/// Something that a tool can ask for.
pub struct Tool {
    /// Where, e.g. `/verify`.
    pub path: &'static str,
    /// Whether it changes nothing: it is asked for with GET, else with POST.
    pub is_safe: bool,
    /// Given the body of the request.
    pub answer: Arc<dyn Fn(Bytes) -> BoxFuture<'static, ToolAnswer> + Send + Sync>,
}

/// What a tool is answered.
pub enum ToolAnswer {
    /// JSON, a document a line.
    Lines(Lines),
    /// JSON.
    Document(String),
    /// It is not done, and this is why.
    Refused(String),
    /// It cannot be done, and this is why.
    Failed(String),
    /// The question is none.
    Malformed(String),
}

/// The routes of the admin listener. `is_draining` turns `/readyz` to 503 while the server finishes what it has begun, and `trouble` says
/// why nothing can be stored at the moment.
pub fn router(
    metrics: Arc<Metrics>,
    refresh: Arc<dyn Fn(&Metrics) + Send + Sync>,
    is_draining: Arc<AtomicBool>,
    trouble: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    tools: Vec<Tool>,
) -> Router {
    let scrape = move || {
        let (metrics, refresh) = (Arc::clone(&metrics), Arc::clone(&refresh));
        async move {
            let text = blocking(move || {
                refresh(&metrics);
                metrics.encode()
            });
            match text.await {
                Ok(Ok(text)) => ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response(),
                Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
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
    let router = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .fallback(|| async { (StatusCode::NOT_FOUND, "see /livez, /readyz, /metrics and /stats\n") });
    tools.into_iter().fold(router, |router, Tool { path, is_safe, answer }| {
        let route = move |headers: HeaderMap, question: Bytes| async move {
            // A web page that somebody looks at on this machine is not to make the disks work, or to remove anything.
            if !is_safe && headers.contains_key(header::ORIGIN) {
                return (StatusCode::FORBIDDEN, "not from a browser\n").into_response();
            }
            answer(question).await.into_response()
        };
        router.route(path, if is_safe { get(route) } else { post(route) })
    })
}

impl IntoResponse for ToolAnswer {
    fn into_response(self) -> Response {
        let text = |status: StatusCode, text: String| (status, text + "\n").into_response();
        match self {
            Self::Lines(lines) => {
                let lines = lines.map(|line| Ok::<_, Infallible>(line + "\n"));
                ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
            }
            Self::Document(json) => ([(header::CONTENT_TYPE, "application/json")], json + "\n").into_response(),
            Self::Refused(reason) => text(StatusCode::CONFLICT, reason),
            Self::Failed(reason) => text(StatusCode::INTERNAL_SERVER_ERROR, reason),
            Self::Malformed(reason) => text(StatusCode::BAD_REQUEST, reason),
        }
    }
}
