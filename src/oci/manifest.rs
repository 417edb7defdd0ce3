//! A look into manifests: which content they refer to, and whether they are what they claim to be.
//! The bytes themselves are never changed or written anew (P9); a document of a kind we do not know is passed on as it is.

use serde::Deserialize;

use super::digest::{Digest, DigestError};
use super::media_type::MediaType;
use super::platform::{Platform, RawPlatform};

/// The largest manifest that is accepted, in bytes: 4 MiB, the limit that the specification asks registries to support and
/// that the common clients stop at.
pub const MANIFEST_MAX_BYTES: usize = 4 << 20;

/// How the media types begin of layers that registries may be without: Docker's, and those that the image spec has deprecated
/// (layer.md, "Non-Distributable Layers").
const FOREIGN_TYPES: [&str; 2] =
    ["application/vnd.docker.image.rootfs.foreign.", "application/vnd.oci.image.layer.nondistributable."];

/// What a manifest's bytes say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Manifests that this one (an index) lists.
    pub manifests: Vec<Descriptor>,
    /// Configuration and layers, in the order of the document.
    pub blobs: Vec<Descriptor>,
    /// The manifest that this one is a referrer of.
    pub subject: Option<Descriptor>,
}

/// A reference to content, with its size in bytes (image-spec, descriptor.md). What else the document says is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub digest: Digest,
    pub size: u64,
    /// Listed for the platform `unknown/unknown`: what buildx attaches to an image, which is not an image itself.
    pub is_attachment: bool,
    /// To be had elsewhere (`urls`) or not to be distributed at all: the registry may well be without it.
    pub is_foreign: bool,
    /// What the image is for, where an index says so.
    pub platform: Option<Platform>,
}

/// Why bytes are not accepted as a manifest of the media type they came with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest says it is {body}, the upstream sent it as {header}")]
    MediaTypeDiffers { header: MediaType, body: String },
    /// CVE-2021-41190: a document that is an index to one reader and an image to another.
    #[error("the manifest is ambiguous: it has both manifests and layers")]
    Ambiguous,
    #[error("the document of type {0} is not a manifest: {1}")]
    Malformed(MediaType, String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    media_type: Option<String>,
    manifests: Option<Vec<RawDescriptor>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    /// OCI artifact manifests, withdrawn before image-spec 1.1 but still about.
    blobs: Option<Vec<RawDescriptor>>,
    subject: Option<RawDescriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    digest: String,
    #[serde(default)]
    size: u64,
    media_type: Option<String>,
    urls: Option<Vec<String>>,
    platform: Option<RawPlatform>,
}

impl RawDescriptor {
    fn parse(self) -> Result<Descriptor, (String, DigestError)> {
        let digest = self.digest.parse().map_err(|error| (self.digest, error))?;
        let is_elsewhere = self.urls.is_some_and(|urls| !urls.is_empty());
        let is_foreign_type = |media_type: String| FOREIGN_TYPES.iter().any(|foreign| media_type.starts_with(foreign));
        let platform = self.platform.unwrap_or_default();
        Ok(Descriptor {
            digest,
            size: self.size,
            is_attachment: platform.is_of_attachment(),
            is_foreign: is_elsewhere || self.media_type.is_some_and(is_foreign_type),
            platform: platform.platform(),
        })
    }
}

impl Manifest {
    /// Reads `bytes`, which came with `Content-Type: media_type`.
    ///
    /// The four media types of images and indexes must parse; any other document (schema 1, a vendor's own) is opaque: it refers to
    /// nothing as far as we know.
    ///
    /// # Errors
    /// [`ManifestError`] if the document contradicts its media type or itself.
    pub fn inspect(bytes: &[u8], media_type: &MediaType) -> Result<Self, ManifestError> {
        let known = media_type.is_image_or_index();
        let document: Document = match serde_json::from_slice(bytes) {
            Ok(document) => document,
            Err(error) if known => return Err(ManifestError::Malformed(media_type.clone(), error.to_string())),
            Err(_) => return Ok(Self::default()),
        };
        if let Some(body) = document.media_type.filter(|body| body != media_type.as_str()) {
            return Err(ManifestError::MediaTypeDiffers { header: media_type.clone(), body });
        }
        if document.manifests.is_some() && (document.layers.is_some() || document.config.is_some()) {
            return Err(ManifestError::Ambiguous);
        }
        let parse = |raw: RawDescriptor| {
            let malformed = |(digest, error)| ManifestError::Malformed(media_type.clone(), format!("{digest:?}: {error}"));
            raw.parse().map_err(malformed)
        };
        let parse_all = |raw: Option<Vec<RawDescriptor>>| raw.into_iter().flatten().map(parse).collect::<Result<Vec<_>, _>>();
        let inspect = || {
            let mut blobs: Vec<Descriptor> = document.config.map(parse).transpose()?.into_iter().collect();
            blobs.extend(parse_all(document.layers)?);
            blobs.extend(parse_all(document.blobs)?);
            Ok(Self { manifests: parse_all(document.manifests)?, blobs, subject: document.subject.map(parse).transpose()? })
        };
        match inspect() {
            Err(_) if !known => Ok(Self::default()),
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media_type(text: &str) -> MediaType {
        text.parse().unwrap()
    }

    fn descriptor(content: &[u8]) -> String {
        format!(
            r#"{{"mediaType":"x/y","digest":"{}","size":{},"urls":["http://evil/"]}}"#,
            Digest::sha256(content),
            content.len()
        )
    }

    #[test]
    fn an_image_refers_to_its_config_and_layers() {
        let text = format!(
            r#" {{ "schemaVersion":2, "layers":[{},{}], "config":{}, "subject":{} }}"#,
            descriptor(b"one"),
            descriptor(b"three"),
            descriptor(b"{}"),
            descriptor(b"subject")
        );
        let manifest = Manifest::inspect(text.as_bytes(), &media_type(MediaType::OCI_MANIFEST)).unwrap();
        let sizes: Vec<_> = manifest.blobs.iter().map(|blob| blob.size).collect();
        assert_eq!(sizes, [2, 3, 5]);
        assert_eq!(manifest.subject.unwrap().digest, Digest::sha256(b"subject"));
        assert!(manifest.manifests.is_empty());
    }

    #[test]
    fn an_index_refers_to_manifests() {
        let text = format!(r#"{{"mediaType":"{}","manifests":[{}]}}"#, MediaType::OCI_INDEX, descriptor(b"m"));
        let manifest = Manifest::inspect(text.as_bytes(), &media_type(MediaType::OCI_INDEX)).unwrap();
        let [child] = manifest.manifests.try_into().unwrap();
        assert_eq!((child.digest, child.size, child.is_attachment, child.platform), (Digest::sha256(b"m"), 1, false, None));
    }

    #[test]
    fn an_index_says_what_its_manifests_are_for() {
        let child = |platform: &str| format!(r#"{{"digest":"{}","platform":{platform}}}"#, Digest::sha256(b"m"));
        let image = child(r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#);
        let attestation = child(r#"{"os":"unknown","architecture":"unknown"}"#);
        let text = format!(r#"{{"manifests":[{image},{attestation},{}]}}"#, child("null"));
        let children = Manifest::inspect(text.as_bytes(), &media_type(MediaType::OCI_INDEX)).unwrap().manifests;
        let platforms: Vec<_> = children.iter().map(|child| child.platform.as_ref().map(ToString::to_string)).collect();
        assert_eq!(platforms, [Some("linux/arm64".to_owned()), None, None]);
        assert_eq!(children.iter().map(|child| child.is_attachment).collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn what_a_registry_may_be_without_is_foreign() {
        for (fields, is_foreign) in [
            (r#""mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip""#, false),
            (r#""mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","urls":null"#, false),
            (r#""mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","urls":[]"#, false),
            (r#""mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","urls":["https://elsewhere.example/"]"#, true),
            (r#""mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip""#, true),
            (r#""mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd""#, true),
        ] {
            let text = format!(r#"{{"layers":[{{"digest":"{}","size":1,{fields}}}]}}"#, Digest::sha256(b"l"));
            let manifest = Manifest::inspect(text.as_bytes(), &media_type(MediaType::DOCKER_MANIFEST)).unwrap();
            assert_eq!(manifest.blobs[0].is_foreign, is_foreign, "{fields}");
        }
    }

    #[test]
    fn a_document_that_contradicts_itself_is_refused() {
        let both = br#"{"manifests":[],"layers":[]}"#;
        assert_eq!(Manifest::inspect(both, &media_type(MediaType::OCI_INDEX)), Err(ManifestError::Ambiguous));
        let text = format!(r#"{{"mediaType":"{}"}}"#, MediaType::OCI_INDEX);
        let error = Manifest::inspect(text.as_bytes(), &media_type(MediaType::OCI_MANIFEST)).unwrap_err();
        assert!(matches!(error, ManifestError::MediaTypeDiffers { .. }), "{error}");
        for garbage in [&b"<html>"[..], b"", b"{\"layers\":[{\"digest\":\"sha256:../x\"}]}", b"\xff\xfe"] {
            let error = Manifest::inspect(garbage, &media_type(MediaType::OCI_MANIFEST)).unwrap_err();
            assert!(matches!(error, ManifestError::Malformed(..)), "{error}");
        }
    }

    #[test]
    fn a_kind_we_do_not_know_is_opaque() {
        for text in ["application/vnd.docker.distribution.manifest.v1+prettyjws", "application/vnd.vendor.thing"] {
            for body in [&b"{\"schemaVersion\":1,\"name\":\"x\"}"[..], b"not json", b"{\"layers\":[{\"digest\":\"odd\"}]}"] {
                assert_eq!(Manifest::inspect(body, &media_type(text)), Ok(Manifest::default()));
            }
        }
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_stack_overflow() {
        let deep = [b"{\"config\":".as_slice(), &b"[".repeat(1_000_000)].concat();
        assert!(Manifest::inspect(&deep, &media_type(MediaType::OCI_MANIFEST)).is_err());
    }
}
