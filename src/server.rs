//! The HTTP façade: the registry API for clients, health and metrics for operators.
//! It turns requests into questions to the mirror and its answers into responses; it decides nothing about content.

mod access_log;
mod admin;
mod body;
mod connection;
mod error;
mod listener;
mod range;
mod registry;
mod respond;
mod route;
mod seats;
mod serving;
mod tls;
mod workers;

pub use admin::{Lines, Tool, ToolAnswer, router as admin_router};
pub use listener::{Listener, Settings};
pub use registry::Registry;
pub use tls::{Certificate, TlsError};
pub use workers::Workers;
