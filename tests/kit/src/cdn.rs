//! The CDN: serves blobs to whoever has a presigned URL, and to nobody who sends credentials.
//! Signs and checks such URLs; asks for no tokens.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use crate::blob_reply::blob_reply;
use crate::digest::{Digest, hex};
use crate::http::{Reply, Request};
use crate::listener::Listener;
use crate::state::State;

/// Signs URLs by HMAC-SHA256 with a key of its own.
#[derive(Debug)]
pub(crate) struct Signer {
    key: [u8; 64],
}

impl Signer {
    pub(crate) fn random() -> Signer {
        let mut key = [0; 64];
        getrandom::fill(&mut key).expect("the operating system has random numbers");
        Signer { key }
    }

    fn sign(&self, path: &str, expires: &str) -> String {
        hex(&hmac_sha256(&self.key, format!("{path}\n{expires}").as_bytes()))
    }
}

/// HMAC (RFC 2104) with a key of one block.
fn hmac_sha256(key: &[u8; 64], message: &[u8]) -> [u8; 32] {
    let inner = Sha256::new().chain_update(key.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    let outer = Sha256::new().chain_update(key.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize();
    outer.into()
}

/// Milliseconds since 1970.
fn now() -> u128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.as_ref().map_or(0, Duration::as_millis)
}

/// A URL by which anyone can get this blob for as long as is configured.
pub(crate) fn presigned_url(state: &State, name: &str, digest: &Digest) -> String {
    let path = format!("/{name}/blobs/{digest}");
    let expires = (now() + state.config().presign_ttl.as_millis()).to_string();
    let signature = state.signer.sign(&path, &expires);
    let base = state.url(Listener::Cdn);
    format!("{base}{path}?expires={expires}&signature={signature}")
}

/// Answers a request to the CDN.
pub(crate) async fn answer(state: &State, request: &Request) -> Reply {
    if !request.is_read() {
        return Reply::error(405, "UNSUPPORTED", "this is read-only");
    }
    // As S3 and its like answer a request with two ways of authentication.
    if request.headers.get("authorization").is_some() {
        return Reply::error(400, "INVALID_ARGUMENT", "AUTH-LEAK: only one auth mechanism allowed");
    }
    let path = request.decoded_path();
    let expires = request.parameter("expires").unwrap_or_default();
    let signature = request.parameter("signature").unwrap_or_default();
    if signature != state.signer.sign(&path, &expires) {
        return Reply::error(403, "DENIED", "the signature is wrong");
    }
    if expires.parse::<u128>().map_or(true, |expires| expires <= now()) {
        return Reply::error(403, "DENIED", "the URL has expired");
    }
    let named = path.trim_start_matches('/').split_once("/blobs/");
    let Some((name, Ok(digest))) = named.map(|(name, digest)| (name, digest.parse::<Digest>())) else {
        return Reply::error(404, "BLOB_UNKNOWN", "there is no such object");
    };
    match state.backend.blob(name, &digest).await {
        Ok(Some(blob)) => blob_reply(&state.config(), request, blob, &digest),
        Ok(None) => Reply::error(404, "BLOB_UNKNOWN", "there is no such object"),
        Err(error) => Reply::error(502, "UNAVAILABLE", &error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        // Test case 2, whose short key is padded to a block.
        let mut key = [0; 64];
        key[..4].copy_from_slice(b"Jefe");
        assert_eq!(
            hex(&hmac_sha256(&key, b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
