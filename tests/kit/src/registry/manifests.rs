//! Manifests by tag or digest: limits, redirects, and what differs between registries.
//! Sends documents byte for byte; access was checked before.

use super::access::Access;
use crate::backend::Backend;
use crate::config::{Config, ManifestRedirect};
use crate::content::Manifest;
use crate::http::{Framing, Reply, Request};
use crate::image::media_type;
use crate::listener::Listener;
use crate::origin::OriginError;
use crate::state::State;

/// The query parameter that counts the redirects of a manifest.
const HOP: &str = "hop";

pub(super) async fn answer(
    state: &State,
    request: &Request,
    access: &Access,
    name: &str,
    reference: &str,
) -> Result<Reply, OriginError> {
    let config = state.config();
    if let Some(location) = config.redirect_manifests.and_then(|to| next_hop(state, request, to)) {
        return Ok(Reply::redirect(location));
    }
    let standing = config.rate_limit.map(|limit| {
        let counts = !request.is_head();
        state.limiter.check(limit, &access.identity, counts)
    });
    let refusal = standing.and_then(|standing| standing.refusal());
    let mut reply = match refusal {
        Some(refusal) => refusal,
        None => look_up(&state.backend, &config, request, name, reference).await?,
    };
    if let Some(standing) = standing {
        standing.tell(&access.identity, &mut reply);
    }
    Ok(reply)
}

/// The next location, until all hops were made.
fn next_hop(state: &State, request: &Request, to: ManifestRedirect) -> Option<String> {
    let made = request.parameter(HOP).and_then(|hop| hop.parse().ok());
    let made: u32 = made.unwrap_or(0);
    let base = match to.absolute {
        true => state.url(Listener::Registry),
        false => String::new(),
    };
    let path = &request.path;
    (made < to.hops).then(|| format!("{base}{path}?{HOP}={}", made + 1))
}

async fn look_up(
    backend: &Backend,
    config: &Config,
    request: &Request,
    name: &str,
    reference: &str,
) -> Result<Reply, OriginError> {
    let accept: Vec<&str> = request.headers.get_all("accept").collect();
    let Some(manifest) = backend.manifest(name, reference, &accept).await? else {
        return Ok(Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"));
    };
    if config.accept_sensitive && is_hidden_by(&accept, &manifest) {
        let message = "OCI index found, but Accept header does not support OCI indexes";
        return Ok(Reply::error(404, "MANIFEST_UNKNOWN", message));
    }
    let mut reply = Reply::bytes(200, &manifest.media_type, manifest.bytes).header("ETag", format!("\"{}\"", manifest.digest));
    if config.content_digest {
        let digest = manifest.digest.as_str();
        reply.headers.add("Docker-Content-Digest", digest);
    }
    if !config.content_length {
        reply.framing = Framing::Chunked;
    }
    Ok(reply)
}

/// Whether this is an OCI index that no `Accept` names by its type; `*/*` does not count.
fn is_hidden_by(accept: &[&str], manifest: &Manifest) -> bool {
    let named = accept
        .iter()
        .flat_map(|value| value.split(','))
        .any(|range| range.split(';').next().map(str::trim) == Some(media_type::OCI_INDEX));
    manifest.media_type == media_type::OCI_INDEX && !named
}
