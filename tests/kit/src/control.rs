//! The control listener: a [`Hub`] driven over HTTP with JSON, for tests that are not written in Rust.
//! Translates; every command is one that the hub has. Its own requests are neither recorded nor spoiled.

mod queries;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::fault::Fault;
use crate::http::{Reply, Request};
use crate::hub::Hub;
use crate::listener::Listener;
use crate::server::{BoxFuture, Listening, Site, Socket, Traffic};

/// A hub with a control listener. Dropping it stops both.
pub struct Control {
    listening: Listening,
    hub: Arc<Hub>,
}

/// Why there is no control listener.
#[derive(Debug, thiserror::Error)]
#[error("the control listener cannot be bound to {address}")]
pub struct ControlError {
    address: SocketAddr,
    source: io::Error,
}

impl Control {
    /// Puts the hub under control of whoever can reach this address.
    ///
    /// # Errors
    ///
    /// The address cannot be bound.
    pub async fn start(hub: Hub, address: SocketAddr) -> Result<Control, ControlError> {
        let failed = |source| ControlError { address, source };
        let socket = Socket::bind(address).await.map_err(failed)?;
        let address = socket.address().map_err(failed)?;
        let hub = Arc::new(hub);
        let desk = Arc::new(Desk { hub: hub.clone(), traffic: Traffic::default() });
        Ok(Control { listening: Listening::start(socket, address, desk, None), hub })
    }

    /// The URLs of all listeners, `control` among them.
    pub fn urls(&self) -> Value {
        let mut urls = urls(&self.hub);
        urls["control"] = format!("http://{}", self.listening.address()).into();
        urls
    }

    /// The hub under control.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }
}

fn urls(hub: &Hub) -> Value {
    let url = |listener: Listener| (listener.to_string(), hub.url_of(listener).into());
    Value::Object(Listener::ALL.map(url).into_iter().collect())
}

/// Takes commands.
struct Desk {
    hub: Arc<Hub>,
    traffic: Traffic,
}

impl Site for Desk {
    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Reply> {
        Box::pin(async {
            let done = self.carry_out(request).await;
            done.unwrap_or_else(Refusal::into_reply)
        })
    }

    fn traffic(&self) -> &Traffic {
        &self.traffic
    }
}

/// Why a command was not carried out.
enum Refusal {
    NoSuchCommand,
    NoSuchFault,
    Malformed(String),
    Failed(io::Error),
}

impl Refusal {
    fn into_reply(self) -> Reply {
        let (status, message) = match self {
            Refusal::NoSuchCommand => (404, "there is no such command".to_owned()),
            Refusal::NoSuchFault => (404, "there is no fault of this id".to_owned()),
            Refusal::Malformed(why) => (400, why),
            Refusal::Failed(error) => (500, error.to_string()),
        };
        Reply::json(status, &json!({"error": message}))
    }
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Refusal {
        Refusal::Malformed(error.to_string())
    }
}

impl Desk {
    async fn carry_out(&self, request: &Request) -> Result<Reply, Refusal> {
        let hub = &*self.hub;
        let path = request.decoded_path();
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let answer = match (request.method.as_str(), parts.as_slice()) {
            ("GET", []) => urls(hub),
            ("GET", ["summary"]) => queries::summary(hub),
            ("GET", ["requests"]) => queries::requests(hub, request)?,
            ("GET", ["ca.pem"]) => {
                let pem = hub.ca_pem().ok_or(Refusal::NoSuchCommand)?;
                return Ok(Reply::bytes(200, "application/x-pem-file", pem.to_owned()));
            }
            ("POST", ["reset"]) => {
                hub.reset_records();
                hub.reset_rate_limit();
                json!({})
            }
            ("POST", ["revoke-tokens"]) => {
                hub.revoke_tokens();
                json!({})
            }
            ("GET", ["faults"]) => serde_json::to_value(hub.faults())?,
            ("POST", ["faults"]) => {
                let fault: Fault = serde_json::from_slice(&request.body)?;
                json!({"id": hub.fault(fault).id()})
            }
            ("DELETE", ["faults"]) => {
                hub.clear_faults();
                json!({})
            }
            ("DELETE", ["faults", id]) if hub.remove_fault(fault_id(id)?) => json!({}),
            ("POST", ["faults", id, "release"]) if hub.release_fault(fault_id(id)?) => json!({}),
            ("DELETE", ["faults", _]) | ("POST", ["faults", _, "release"]) => {
                return Err(Refusal::NoSuchFault);
            }
            ("GET", ["config"]) => self.config().await?,
            ("PATCH", ["config"]) => {
                self.configure(serde_json::from_slice(&request.body)?).await?;
                self.config().await?
            }
            _ => return Err(Refusal::NoSuchCommand),
        };
        Ok(Reply::json(200, &answer))
    }

    /// The switches, and under `listening` which listeners are open.
    async fn config(&self) -> Result<Value, Refusal> {
        let mut document = serde_json::to_value(self.hub.config())?;
        let mut listening = Map::new();
        for listener in Listener::ALL {
            let open = self.hub.is_listening_on(listener).await;
            listening.insert(listener.to_string(), open.into());
        }
        document["listening"] = listening.into();
        Ok(document)
    }

    async fn configure(&self, mut patch: Map<String, Value>) -> Result<(), Refusal> {
        let listening = patch.remove("listening").unwrap_or_else(|| json!({}));
        let listening: Vec<(Listener, bool)> =
            serde_json::from_value::<std::collections::HashMap<_, _>>(listening)?.into_iter().collect();
        self.hub.configure(|config| {
            *config = config.patched(Value::Object(patch))?;
            Ok::<_, Refusal>(())
        })?;
        for (listener, open) in listening {
            if open {
                self.hub.resume_on(listener).await.map_err(Refusal::Failed)?;
            } else {
                self.hub.stop_listening_on(listener).await;
            }
        }
        Ok(())
    }
}

fn fault_id(text: &str) -> Result<u64, Refusal> {
    text.parse().map_err(|_| Refusal::NoSuchFault)
}
