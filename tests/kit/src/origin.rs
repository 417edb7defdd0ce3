//! A client of the origin registry that content comes from in proxy mode: a plain one, without auth, over http.
//! Reads only, and keeps nothing; that its bytes are right is its own affair.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, RANGE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::content::Manifest;
use crate::digest::{Algorithm, Digest};

/// Why the origin gave no answer that could be used.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The URL is not `http://host[:port]`.
    #[error("the origin's URL is not of the form http://host:port: {0}")]
    Url(String),
    /// It could not be reached.
    #[error("the origin cannot be reached")]
    Unreachable(#[from] hyper_util::client::legacy::Error),
    /// Its answer ended early.
    #[error("the origin's answer ended early")]
    Broken(#[from] hyper::Error),
    /// Its answer made no sense.
    #[error("the origin answered with {0}")]
    Unexpected(StatusCode),
}

/// The origin registry.
#[derive(Clone)]
pub(crate) struct Origin {
    base: Arc<str>,
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Origin").field(&self.base).finish()
    }
}

/// A blob that the origin has.
#[derive(Clone, Debug)]
pub(crate) struct OriginBlob {
    origin: Origin,
    path: String,
    pub(crate) size: u64,
}

/// The body of an answer of the origin.
#[derive(Debug)]
pub(crate) struct OriginBody {
    incoming: Incoming,
    rest: Bytes,
}

impl Origin {
    pub(crate) fn new(url: &str) -> Result<Origin, OriginError> {
        let malformed = || OriginError::Url(url.to_owned());
        let base = url.trim_end_matches('/');
        let authority = base.strip_prefix("http://").ok_or_else(malformed)?;
        if authority.is_empty() || authority.contains(['/', '?', '#', '@']) {
            return Err(malformed());
        }
        Ok(Origin { base: base.into(), client: Client::builder(TokioExecutor::new()).build_http() })
    }

    async fn ask(&self, method: Method, path: &str, headers: HeaderMap) -> Result<Response<Incoming>, OriginError> {
        let uri = format!("{}{path}", self.base);
        let mut request = Request::builder().method(method).uri(&uri).body(Empty::new()).map_err(|_| OriginError::Url(uri))?;
        *request.headers_mut() = headers;
        Ok(self.client.request(request).await?)
    }

    pub(crate) async fn manifest(&self, name: &str, reference: &str, accept: &[&str]) -> Result<Option<Manifest>, OriginError> {
        let path = format!("/v2/{name}/manifests/{reference}");
        let mut headers = HeaderMap::new();
        for value in accept.iter().filter_map(|value| value.parse().ok()) {
            headers.append(ACCEPT, value);
        }
        let Some(response) = found(self.ask(Method::GET, &path, headers).await?)? else {
            return Ok(None);
        };
        let media_type =
            response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/json").to_owned();
        let bytes = response.into_body().collect().await?.to_bytes();
        let algorithm = reference.parse::<Digest>().map_or(Algorithm::Sha256, |digest| digest.algorithm());
        Ok(Some(Manifest::new(algorithm, media_type, bytes)))
    }

    pub(crate) async fn blob(&self, name: &str, digest: &Digest) -> Result<Option<OriginBlob>, OriginError> {
        let path = format!("/v2/{name}/blobs/{digest}");
        let response = self.ask(Method::HEAD, &path, HeaderMap::new()).await?;
        let Some(response) = found(response)? else {
            return Ok(None);
        };
        let size = response
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .ok_or(OriginError::Unexpected(response.status()))?;
        Ok(Some(OriginBlob { origin: self.clone(), path, size }))
    }

    pub(crate) async fn tags(&self, name: &str) -> Result<Option<Vec<String>>, OriginError> {
        let path = format!("/v2/{name}/tags/list");
        let document = self.json(&path).await?;
        Ok(document.map(|document| {
            let listed = document["tags"].as_array().into_iter().flatten();
            let mut tags: Vec<String> = listed.filter_map(Value::as_str).map(str::to_owned).collect();
            tags.sort();
            tags
        }))
    }

    pub(crate) async fn referrers(&self, name: &str, subject: &Digest) -> Result<Option<Vec<Value>>, OriginError> {
        let path = format!("/v2/{name}/referrers/{subject}");
        let document = self.json(&path).await?;
        Ok(document.map(|document| document["manifests"].as_array().cloned().unwrap_or_default()))
    }

    async fn json(&self, path: &str) -> Result<Option<Value>, OriginError> {
        let response = self.ask(Method::GET, path, HeaderMap::new()).await?;
        let Some(response) = found(response)? else {
            return Ok(None);
        };
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        let document = serde_json::from_slice(&bytes);
        document.map(Some).map_err(|_| OriginError::Unexpected(status))
    }
}

impl OriginBlob {
    /// Begins to read `length` bytes from `start`.
    pub(crate) async fn open(&self, start: u64, length: u64) -> Result<OriginBody, OriginError> {
        let mut headers = HeaderMap::new();
        let whole = start == 0 && length == self.size;
        if !whole {
            let last = start + length - 1;
            let range = format!("bytes={start}-{last}").parse();
            headers.insert(RANGE, range.expect("digits and dashes are a header value"));
        }
        let response = self.origin.ask(Method::GET, &self.path, headers).await?;
        let wanted = if whole { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT };
        if response.status() != wanted {
            return Err(OriginError::Unexpected(response.status()));
        }
        Ok(OriginBody { incoming: response.into_body(), rest: Bytes::new() })
    }
}

impl OriginBody {
    /// The next bytes, at most `max`; empty at the end.
    pub(crate) async fn next(&mut self, max: usize) -> Result<Bytes, OriginError> {
        while self.rest.is_empty() {
            match self.incoming.frame().await {
                None => return Ok(Bytes::new()),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.rest = data;
                    }
                }
            }
        }
        let len = max.min(self.rest.len());
        Ok(self.rest.split_to(len))
    }
}

/// An answer of success, `None` for a 404 (or the 400 with which a registry refuses a malformed name).
fn found(response: Response<Incoming>) -> Result<Option<Response<Incoming>>, OriginError> {
    match response.status() {
        status if status.is_success() => Ok(Some(response)),
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Ok(None),
        status => Err(OriginError::Unexpected(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_urls_without_a_path_are_origins() {
        assert!(Origin::new("http://127.0.0.1:5000/").is_ok());
        for url in ["https://a", "http://", "http://a/b", "a:5000"] {
            assert!(matches!(Origin::new(url), Err(OriginError::Url(_))), "{url}");
        }
    }
}
