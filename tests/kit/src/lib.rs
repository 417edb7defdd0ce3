//! The test kit of Larder: a registry shaped like Docker Hub, with its token server and its CDN, that records every
//! request and goes wrong when told to. It serves tests and nothing else.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use larder_testkit::{Fault, Hub, Image, Listener, Repository, Synthetic};
//!
//! let image = Image::builder().layer(Synthetic::new(1, 10 << 20)).build();
//! let hub = Hub::builder()
//!     .repository(Repository::new("library/app").tag("1.0", &image))
//!     .start()
//!     .await
//!     .unwrap();
//! let cut = hub.fault(Fault::on(Listener::Cdn).once().cut_at(1 << 20));
//! // ... pull through the mirror under test, whose upstream is hub.url() ...
//! # assert_eq!(cut.fired(), 0);
//! # let pulls = 0;
//! assert_eq!(hub.requests().on(Listener::Cdn).method("GET").count(), pulls);
//! assert_eq!(hub.auth_leaks().count(), 0);
//! # });
//! ```

mod backend;
mod blob_reply;
mod cdn;
mod config;
mod content;
mod control;
mod digest;
mod fault;
mod http;
mod hub;
mod image;
mod listener;
mod origin;
mod record;
mod registry;
mod server;
mod state;
mod synthetic;
mod tls;
mod token;

pub use config::{Auth, Config, ExpiresIn, ManifestRedirect, Network, RateLimit, TokenFields, TokenReply};
pub use content::{Blob, Manifest, Repository};
pub use control::{Control, ControlError};
pub use digest::{Algorithm, Digest, Hasher, MalformedDigest};
pub use fault::{Action, Declare, Ending, Fault, FaultHandle, FaultStatus};
pub use http::Headers;
pub use hub::{Hub, HubBuilder, StartError, TrafficCounts};
pub use image::{Image, ImageBuilder, media_type};
pub use listener::{Listener, PerListener};
pub use origin::OriginError;
pub use record::{Outcome, Record, Requests};
pub use synthetic::Synthetic;
pub use tls::TlsError;
