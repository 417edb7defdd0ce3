//! Names as operators give them to tools.

use super::errand::Undone;
use crate::oci::RepositoryName;
use crate::store::Name;

/// The name that is meant. Docker Hub has no image outside a namespace: there one word is short for an official image.
pub(super) fn in_full(name: Name) -> Name {
    match name {
        Name::Image { upstream, repository, reference } if upstream.as_str() == "docker.io" => {
            let official = (repository.components().count() == 1).then(|| format!("library/{repository}").parse());
            let repository: RepositoryName = official.and_then(Result::ok).unwrap_or(repository);
            Name::Image { upstream, repository, reference }
        }
        name => name,
    }
}

/// Names as they come to whoever has the cache.
pub(super) fn parse(names: &[String]) -> Result<Vec<Name>, Undone> {
    names.iter().map(|name| Ok(name.parse()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn official_images_have_a_short_name() {
        for (text, full) in [
            ("docker.io/alpine:3", "docker.io/library/alpine:3"),
            ("docker.io/org/app:3", "docker.io/org/app:3"),
            ("docker.io/library", "docker.io/library"),
            ("quay.io/app:1", "quay.io/app:1"),
        ] {
            assert_eq!(in_full(text.parse().unwrap()).to_string(), full);
        }
    }
}
