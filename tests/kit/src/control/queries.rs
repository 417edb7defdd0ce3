//! What the control listener tells of the requests.
//! Reads the records; changes nothing.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::Refusal;
use crate::http::Request;
use crate::hub::Hub;
use crate::listener::Listener;
use crate::record::{Outcome, Requests};

/// The requests that fit the query: `listener`, `method`, `path`, `query`, `header`, `status`, `outcome`.
pub(super) fn requests(hub: &Hub, request: &Request) -> Result<Value, Refusal> {
    let mut found = hub.requests();
    let pairs = request.query.split('&').filter(|pair| !pair.is_empty());
    for key in pairs.map(|pair| pair.split_once('=').map_or(pair, |(key, _)| key)) {
        let value = request.parameter(key).unwrap_or_default();
        found = match key {
            "listener" => found.on(word::<Listener>(&value)?),
            "method" => found.method(&value),
            "path" => found.path_contains(value),
            "query" => found.query_contains(value),
            "header" => found.with_header(&value),
            "status" => found.status(value.parse().map_err(|_| no_value(key))?),
            "outcome" => found.outcome(word::<Outcome>(&value)?),
            unknown => return Err(Refusal::Malformed(format!("there is no filter {unknown}"))),
        };
    }
    Ok(json!({
        "count": found.count(),
        "body_bytes": found.body_bytes(),
        "requests": found.records(),
    }))
}

/// Counts by listener, and of what tests ask for most.
pub(super) fn summary(hub: &Hub) -> Value {
    let all = hub.requests();
    let mut summary = Map::new();
    for listener in Listener::ALL {
        let here = all.clone().on(listener);
        let count = |method, part| {
            let some: Requests = here.clone().method(method).path_contains(part);
            some.count()
        };
        let counts = json!({
            "requests": here.count(),
            "manifest_gets": count("GET", "/manifests/"),
            "manifest_heads": count("HEAD", "/manifests/"),
            "blob_gets": count("GET", "/blobs/"),
            "blob_heads": count("HEAD", "/blobs/"),
            "connections": hub.traffic(listener),
        });
        summary.insert(listener.to_string(), counts);
    }
    summary.insert("auth_leaks".to_owned(), hub.auth_leaks().count().into());
    Value::Object(summary)
}

/// One of an enum's names.
fn word<T: DeserializeOwned>(value: &str) -> Result<T, Refusal> {
    Ok(serde_json::from_value(value.into())?)
}

fn no_value(key: &str) -> Refusal {
    Refusal::Malformed(format!("{key} has no such value"))
}
