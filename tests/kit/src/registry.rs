//! The registry: the read part of the distribution spec's API, as Docker Hub answers it.
//! Decides what each request gets; never sends anything, and refuses all writes.

mod access;
mod limit;
mod lists;
mod manifests;
mod route;

pub(crate) use limit::RateLimiter;

use access::Access;
use route::Route;

use crate::blob_reply::blob_reply;
use crate::cdn;
use crate::digest::Digest;
use crate::http::{Reply, Request};
use crate::origin::OriginError;
use crate::state::State;

/// Answers a request to the registry.
pub(crate) async fn answer(state: &State, request: &Request) -> Reply {
    route(state, request).await.header("Docker-Distribution-Api-Version", "registry/2.0")
}

async fn route(state: &State, request: &Request) -> Reply {
    let path = request.decoded_path();
    let Some(route) = Route::parse(&path) else {
        return Reply::error(404, "NOT_FOUND", "there is nothing here");
    };
    if !request.is_read() {
        return Reply::error(405, "UNSUPPORTED", "this registry is read-only");
    }
    let access = match access::check(state, request, route.repository()).await {
        Ok(access) => access,
        Err(refusal) => return *refusal,
    };
    if request.is_head() && !state.config().head {
        return Reply::error(405, "UNSUPPORTED", "HEAD is not answered here");
    }
    dispatch(state, request, &route, &access).await.unwrap_or_else(unavailable)
}

async fn dispatch(state: &State, request: &Request, route: &Route<'_>, access: &Access) -> Result<Reply, OriginError> {
    match *route {
        Route::Ping => Ok(Reply::bytes(200, "application/json", "{}")),
        Route::Manifest { name, reference } => manifests::answer(state, request, access, name, reference).await,
        Route::Blob { name, digest } => blob(state, request, name, digest).await,
        Route::Tags { name } => lists::tags(state, request, name).await,
        Route::Referrers { name, digest } => lists::referrers(state, request, name, digest).await,
    }
}

async fn blob(state: &State, request: &Request, name: &str, digest: &str) -> Result<Reply, OriginError> {
    let Ok(digest) = digest.parse::<Digest>() else {
        return Ok(Reply::error(400, "DIGEST_INVALID", "this is no digest"));
    };
    let config = state.config();
    Ok(match state.backend.blob(name, &digest).await? {
        None => Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
        Some(_) if config.redirect_blobs => Reply::redirect(cdn::presigned_url(state, name, &digest)),
        Some(blob) => blob_reply(&config, request, blob, &digest),
    })
}

fn unavailable(error: OriginError) -> Reply {
    Reply::error(502, "UNAVAILABLE", &error.to_string())
}
