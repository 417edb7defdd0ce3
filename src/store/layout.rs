//! Where everything lies in the store's folder: paths from the vocabulary's types, and back. It does no I/O, and no path is ever
//! made from a text that has not been parsed.

use std::path::{Path, PathBuf};

use super::name::Pin;
use super::parts::PartName;
use crate::oci::{Algorithm, Digest, Reference, RepositoryName, Tag, UpstreamName};

const TAGS: &str = "_tags";
const MANIFESTS: &str = "_manifests";
const PINS: &str = "_pins";

/// The pin of a whole repository. The others have what they pin behind one of the prefixes: some tags look like names of manifests.
const ALL: &str = "all";
const TAG_PREFIX: &str = "tag-";
const MANIFEST_PREFIX: &str = "manifest-";

/// The paths of one store.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

/// What a name in the folder of a repository below `refs/` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefsFolder<'a> {
    /// `_tags`
    Tags,
    /// `_manifests`
    Manifests,
    /// `_pins`
    Pins,
    /// A further component of a repository's name, perhaps.
    Component(&'a str),
}

/// What a name in `ingest/` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InFlight {
    Part(PartName),
    Map(PartName),
    Temporary(u64),
}

impl Layout {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn catalog(&self) -> PathBuf {
        self.root.join("catalog.sqlite")
    }

    /// Says which content the scrubber began with last.
    pub(super) fn verified(&self) -> PathBuf {
        self.root.join("verified")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(super) fn ingest(&self) -> PathBuf {
        self.root.join("ingest")
    }

    pub(super) fn refs(&self) -> PathBuf {
        self.root.join("refs")
    }

    /// The folder of the blobs whose digest begins with the byte `first`.
    pub(super) fn blob_folder(&self, algorithm: Algorithm, first: u8) -> PathBuf {
        self.blobs().join(algorithm.name()).join(format!("{first:02x}"))
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blob_folder(digest.algorithm(), digest.as_bytes()[0]).join(digest.hex())
    }

    /// A part in flight.
    pub(super) fn part(&self, name: PartName) -> PathBuf {
        self.ingest().join(format!("{}.{}.part", name.digest.hex(), name.number))
    }

    /// The map of a part in flight.
    pub(super) fn map(&self, name: PartName) -> PathBuf {
        self.ingest().join(format!("{}.{}.map", name.digest.hex(), name.number))
    }

    /// A small file on its way to its place.
    pub(super) fn temporary(&self, number: u64) -> PathBuf {
        self.ingest().join(format!("{number}.tmp"))
    }

    /// What a name in `ingest/` stands for, if it is one of ours.
    pub(super) fn parse_in_flight(name: &str) -> Option<InFlight> {
        let digest = |text: &str| Algorithm::ALL.into_iter().find_map(|algorithm| Digest::from_hex(algorithm, text).ok());
        let part = |hex: &str, number: &str| Some(PartName { digest: digest(hex)?, number: number.parse().ok()? });
        match name.split('.').collect::<Vec<_>>()[..] {
            [hex, number, "part"] => part(hex, number).map(InFlight::Part),
            [hex, number, "map"] => part(hex, number).map(InFlight::Map),
            [number, "tmp"] => number.parse().ok().map(InFlight::Temporary),
            _ => None,
        }
    }

    fn repository(&self, upstream: &UpstreamName, repository: &RepositoryName) -> PathBuf {
        self.refs().join(upstream.as_str()).join(repository.as_str())
    }

    pub(super) fn tags(&self, upstream: &UpstreamName, repository: &RepositoryName) -> PathBuf {
        self.repository(upstream, repository).join(TAGS)
    }

    pub(super) fn tag(&self, upstream: &UpstreamName, repository: &RepositoryName, tag: &Tag) -> PathBuf {
        self.tags(upstream, repository).join(tag.as_str())
    }

    pub(super) fn manifests(&self, upstream: &UpstreamName, repository: &RepositoryName) -> PathBuf {
        self.repository(upstream, repository).join(MANIFESTS)
    }

    pub(super) fn manifest(&self, upstream: &UpstreamName, repository: &RepositoryName, digest: &Digest) -> PathBuf {
        self.manifests(upstream, repository).join(manifest_name(digest))
    }

    /// The digest of which [`Layout::manifest`] has `name` as the last component.
    pub(super) fn parse_manifest(name: &str) -> Option<Digest> {
        let (algorithm, hex) = name.split_once('-')?;
        Digest::from_hex(algorithm.parse().ok()?, hex).ok()
    }

    pub(super) fn pins(&self, upstream: &UpstreamName, repository: &RepositoryName) -> PathBuf {
        self.repository(upstream, repository).join(PINS)
    }

    pub(super) fn pin(&self, pin: &Pin) -> PathBuf {
        let name = match &pin.reference {
            None => ALL.to_owned(),
            Some(Reference::Tag(tag)) => format!("{TAG_PREFIX}{tag}"),
            Some(Reference::Digest(digest)) => format!("{MANIFEST_PREFIX}{}", manifest_name(digest)),
        };
        self.pins(&pin.upstream, &pin.repository).join(name)
    }

    /// The pin in the repository of which [`Layout::pin`] has `name` as the last component.
    pub(super) fn parse_pin(upstream: &UpstreamName, repository: &RepositoryName, name: &str) -> Option<Pin> {
        let reference = match (name, name.strip_prefix(TAG_PREFIX), name.strip_prefix(MANIFEST_PREFIX)) {
            (ALL, ..) => None,
            (_, Some(tag), _) => Some(Reference::Tag(tag.parse().ok()?)),
            (_, _, Some(manifest)) => Some(Reference::Digest(Self::parse_manifest(manifest)?)),
            _ => return None,
        };
        Some(Pin { upstream: upstream.clone(), repository: repository.clone(), reference })
    }
}

fn manifest_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm(), digest.hex())
}

impl<'a> RefsFolder<'a> {
    /// No component of a repository's name begins with `_`.
    pub(super) fn of(name: &'a str) -> Self {
        match name {
            TAGS => Self::Tags,
            MANIFESTS => Self::Manifests,
            PINS => Self::Pins,
            component => Self::Component(component),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_as_documented() {
        let layout = Layout::new("/srv".into());
        let digest = Digest::sha256(b"");
        let hex = digest.hex();
        let (upstream, repository) = ("localhost:5000".parse().unwrap(), "a/b".parse().unwrap());
        assert_eq!(layout.blob(&digest), PathBuf::from(format!("/srv/blobs/sha256/e3/{hex}")));
        assert_eq!(
            layout.tag(&upstream, &repository, &"v1".parse().unwrap()),
            PathBuf::from("/srv/refs/localhost:5000/a/b/_tags/v1")
        );
        let manifest = layout.manifest(&upstream, &repository, &digest);
        assert_eq!(manifest, PathBuf::from(format!("/srv/refs/localhost:5000/a/b/_manifests/sha256-{hex}")));
        assert_eq!(Layout::parse_manifest(manifest.file_name().unwrap().to_str().unwrap()), Some(digest));
    }

    #[test]
    fn pins_are_read_as_they_are_named() {
        let layout = Layout::new("/srv".into());
        let (upstream, repository) = ("docker.io".parse().unwrap(), "a/b".parse().unwrap());
        let looks_like_a_manifest = format!("sha256-{}", Digest::sha256(b"x").hex());
        let references =
            ["all", "tag-all", &looks_like_a_manifest, &Digest::sha256(b"x").to_string()].map(|text| text.parse().unwrap());
        let names: Vec<_> = references.into_iter().map(Some).chain([None]).collect();
        for reference in &names {
            let (upstream, repository) = (UpstreamName::clone(&upstream), RepositoryName::clone(&repository));
            let pin = Pin { upstream, repository, reference: reference.clone() };
            let path = layout.pin(&pin);
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(Layout::parse_pin(&pin.upstream, &pin.repository, name), Some(pin));
        }
        assert_eq!(
            layout.pin(&Pin { upstream, repository, reference: None }),
            PathBuf::from("/srv/refs/docker.io/a/b/_pins/all")
        );
    }

    #[test]
    fn only_our_own_names_are_in_flight() {
        let layout = Layout::new("/srv".into());
        let parse = |path: &std::path::Path| Layout::parse_in_flight(path.file_name().unwrap().to_str().unwrap());
        for algorithm in Algorithm::ALL {
            let name = PartName { digest: Digest::of(algorithm, b"x"), number: 7 };
            assert_eq!(parse(&layout.part(name)), Some(InFlight::Part(name)));
            assert_eq!(parse(&layout.map(name)), Some(InFlight::Map(name)));
        }
        assert_eq!(parse(&layout.temporary(12)), Some(InFlight::Temporary(12)));
        for name in ["", "x.tmp", "thesis.part", "abc.1.part", "..", ".tmp", "1.2.tmp"] {
            assert_eq!(Layout::parse_in_flight(name), None, "{name}");
        }
    }
}
