//! The vocabulary of the OCI distribution and image specifications, as types that exist only if they are well formed.
//! Nothing in here does I/O, and nothing in here knows that Larder is a cache.

mod digest;
mod error;
mod manifest;
mod media_type;
mod name;
mod platform;
mod reference;

pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use error::ErrorCode;
pub use manifest::{Descriptor, MANIFEST_MAX_BYTES, Manifest, ManifestError};
pub use media_type::{MANIFEST_ACCEPT, MediaType, MediaTypeError};
pub use name::{NameError, RepositoryName, UpstreamName};
pub use platform::Platform;
pub use reference::{Reference, ReferenceError, Tag};
