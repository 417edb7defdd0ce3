//! The paths of the distribution spec's API ("Endpoints").
//! Splits a path; checks neither names nor digests.

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// end-1
    Ping,
    /// end-2
    Blob { name: &'a str, digest: &'a str },
    /// end-3
    Manifest { name: &'a str, reference: &'a str },
    /// end-8
    Tags { name: &'a str },
    /// end-12
    Referrers { name: &'a str, digest: &'a str },
}

impl<'a> Route<'a> {
    pub(super) fn parse(path: &'a str) -> Option<Route<'a>> {
        let rest = path.strip_prefix("/v2")?;
        if rest.is_empty() || rest == "/" {
            return Some(Route::Ping);
        }
        let rest = rest.strip_prefix('/')?;
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return (!name.is_empty()).then_some(Route::Tags { name });
        }
        let (front, last) = rest.rsplit_once('/')?;
        let (name, kind) = front.rsplit_once('/')?;
        if name.is_empty() || last.is_empty() {
            return None;
        }
        match kind {
            "manifests" => Some(Route::Manifest { name, reference: last }),
            "blobs" => Some(Route::Blob { name, digest: last }),
            "referrers" => Some(Route::Referrers { name, digest: last }),
            _ => None,
        }
    }

    /// The repository it is about.
    pub(super) fn repository(&self) -> Option<&'a str> {
        match *self {
            Route::Ping => None,
            Route::Blob { name, .. } | Route::Manifest { name, .. } | Route::Tags { name } | Route::Referrers { name, .. } => {
                Some(name)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_at_their_last_parts() {
        let manifest = |name, reference| Some(Route::Manifest { name, reference });
        for (path, expected) in [
            ("/v2", Some(Route::Ping)),
            ("/v2/", Some(Route::Ping)),
            ("/v2/a/b/manifests/1.0", manifest("a/b", "1.0")),
            ("/v2/manifests/manifests/x", manifest("manifests", "x")),
            ("/v2/a/tags/list", Some(Route::Tags { name: "a" })),
            ("/v2/manifests/x", None),
            ("/v2/a/uploads/x", None),
            ("/v1/_ping", None),
            ("/v2x", None),
        ] {
            assert_eq!(Route::parse(path), expected, "{path}");
        }
    }
}
