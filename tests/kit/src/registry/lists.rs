//! Lists of tags and of referrers (distribution spec, "Content Discovery").
//! Pages and filters what the backend has; it keeps no lists.

use serde_json::{Value, json};

use crate::digest::Digest;
use crate::http::{Reply, Request};
use crate::image::media_type;
use crate::origin::OriginError;
use crate::state::State;

/// Tags in lexical order; `n` and `last` make pages.
pub(super) async fn tags(state: &State, request: &Request, name: &str) -> Result<Reply, OriginError> {
    let Some(mut tags) = state.backend.tags(name).await? else {
        return Ok(Reply::error(404, "NAME_UNKNOWN", "repository name not known to registry"));
    };
    if let Some(last) = request.parameter("last") {
        tags.retain(|tag| *tag > last);
    }
    let page = request.parameter("n").and_then(|n| n.parse::<usize>().ok());
    let mut link = None;
    if let Some(size) = page.filter(|size| *size < tags.len()) {
        tags.truncate(size);
        link = tags.last().map(|last| {
            let last = percent_encoding::utf8_percent_encode(last, percent_encoding::NON_ALPHANUMERIC);
            format!("</v2/{name}/tags/list?last={last}&n={size}>; rel=\"next\"")
        });
    }
    let mut reply = Reply::json(200, &json!({"name": name, "tags": tags}));
    if let Some(link) = link {
        reply.headers.add("Link", link);
    }
    Ok(reply)
}

/// An index of what refers to a manifest; `artifactType` filters.
pub(super) async fn referrers(state: &State, request: &Request, name: &str, digest: &str) -> Result<Reply, OriginError> {
    if !state.config().referrers {
        return Ok(Reply::bytes(404, "text/plain", "404 page not found\n"));
    }
    let Ok(digest) = digest.parse::<Digest>() else {
        return Ok(Reply::error(400, "DIGEST_INVALID", "this is no digest"));
    };
    let Some(mut manifests) = state.backend.referrers(name, &digest).await? else {
        return Ok(Reply::error(404, "NAME_UNKNOWN", "there is no referrers API here"));
    };
    let filter = request.parameter("artifactType");
    if let Some(wanted) = &filter {
        manifests.retain(|descriptor: &Value| descriptor["artifactType"] == wanted.as_str());
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": manifests,
    });
    let mut reply = Reply::bytes(200, media_type::OCI_INDEX, index.to_string());
    if filter.is_some() {
        reply.headers.add("OCI-Filters-Applied", "artifactType");
    }
    Ok(reply)
}
