//! A text that must never be seen in a log, an error or a metric. It can be used, but neither printed nor compared by accident.

use std::fmt;

use serde::Deserialize;

/// A password, a token or the like. `Debug` shows that there is one and nothing else; there is no `Display`.
#[derive(Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that must send it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_has_no_trace_of_it() {
        let text = format!("{:?} {:#?}", Secret::new("canary"), Some(Secret::new("canary")));
        assert!(!text.contains("canary"), "{text}");
    }
}
