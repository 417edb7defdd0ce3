//! The three listeners of the kit, and a small map with an entry for each.
//! Names only: what a listener does is in [`registry`](crate::registry), [`token`](crate::token) and [`cdn`](crate::cdn).

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of the kit's listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Listener {
    /// The distribution API under `/v2/`.
    Registry,
    /// Issues tokens, at `/token`.
    Token,
    /// Serves blobs by presigned URLs.
    Cdn,
}

impl Listener {
    /// All of them.
    pub const ALL: [Listener; 3] = [Listener::Registry, Listener::Token, Listener::Cdn];
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Listener::Registry => "registry",
            Listener::Token => "token",
            Listener::Cdn => "cdn",
        })
    }
}

/// One `T` for each listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerListener<T> {
    /// That of the registry.
    pub registry: T,
    /// That of the token server.
    pub token: T,
    /// That of the CDN.
    pub cdn: T,
}

impl<T> PerListener<T> {
    /// Makes each entry from its listener.
    pub fn from_fn(mut make: impl FnMut(Listener) -> T) -> PerListener<T> {
        PerListener { registry: make(Listener::Registry), token: make(Listener::Token), cdn: make(Listener::Cdn) }
    }

    /// The entry of `listener`.
    pub fn get(&self, listener: Listener) -> &T {
        match listener {
            Listener::Registry => &self.registry,
            Listener::Token => &self.token,
            Listener::Cdn => &self.cdn,
        }
    }

    /// The entry of `listener`, to change.
    pub fn get_mut(&mut self, listener: Listener) -> &mut T {
        match listener {
            Listener::Registry => &mut self.registry,
            Listener::Token => &mut self.token,
            Listener::Cdn => &mut self.cdn,
        }
    }
}
