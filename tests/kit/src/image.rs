//! Builds images, indexes and artifacts: documents of the OCI image spec (or of Docker's schema 2) and their blobs.
//! Only makes content; a [`Repository`](crate::Repository) holds it.

use serde_json::{Map, Value, json};

use crate::content::{Blob, Manifest};
use crate::digest::Algorithm;

/// Media types of the OCI image spec and of Docker's image manifest v2.
pub mod media_type {
    #![allow(missing_docs)]
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
}

/// Whose document types are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Flavour {
    #[default]
    Oci,
    Docker,
}

/// A manifest or index, with the manifests and blobs that it needs.
#[derive(Clone, Debug)]
pub struct Image {
    manifest: Manifest,
    children: Vec<Image>,
    blobs: Vec<Blob>,
    platform: Option<Value>,
}

impl Image {
    /// An image manifest for one platform, or an artifact.
    pub fn builder() -> ImageBuilder {
        ImageBuilder::default()
    }

    /// An OCI image index of these images.
    pub fn index<'a>(images: impl IntoIterator<Item = &'a Image>) -> Image {
        Image::list(media_type::OCI_INDEX, images)
    }

    /// A Docker manifest list of these images.
    pub fn docker_list<'a>(images: impl IntoIterator<Item = &'a Image>) -> Image {
        Image::list(media_type::DOCKER_LIST, images)
    }

    fn list<'a>(media_type: &str, images: impl IntoIterator<Item = &'a Image>) -> Image {
        let children: Vec<Image> = images.into_iter().cloned().collect();
        let manifests: Vec<Value> = children
            .iter()
            .map(|child| {
                let mut descriptor = child.manifest.descriptor();
                if let Some(platform) = &child.platform {
                    descriptor["platform"] = platform.clone();
                }
                descriptor
            })
            .collect();
        let document = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "manifests": manifests,
        });
        Image {
            manifest: Manifest::new(Algorithm::Sha256, media_type, document.to_string()),
            children,
            blobs: Vec::new(),
            platform: None,
        }
    }

    /// The manifest or index itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The images of an index; of an image, none.
    pub fn children(&self) -> &[Image] {
        &self.children
    }

    /// The config, then the layers; of an index, none.
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// The layers in their order; of an index, none.
    pub fn layers(&self) -> &[Blob] {
        self.blobs.get(1..).unwrap_or_default()
    }

    /// Every manifest, this one last: children before what names them.
    pub fn manifests(&self) -> Vec<&Manifest> {
        let mut all: Vec<&Manifest> = self.children.iter().flat_map(Image::manifests).collect();
        all.push(&self.manifest);
        all
    }
}

/// Makes an [`Image`].
#[derive(Clone, Debug, Default)]
pub struct ImageBuilder {
    layers: Vec<Blob>,
    flavour: Flavour,
    algorithm: Algorithm,
    platform: Option<(String, String)>,
    subject: Option<Value>,
    artifact_type: Option<String>,
    annotations: Map<String, Value>,
}

impl ImageBuilder {
    /// Adds a layer: bytes, text, or [`Synthetic`](crate::Synthetic) content.
    #[must_use]
    pub fn layer(mut self, layer: impl Into<Blob>) -> ImageBuilder {
        self.layers.push(layer.into());
        self
    }

    /// The platform it runs on; `linux`, `amd64` where this is not called.
    #[must_use]
    pub fn platform(mut self, os: &str, architecture: &str) -> ImageBuilder {
        self.platform = Some((os.to_owned(), architecture.to_owned()));
        self
    }

    /// Uses Docker's schema 2 media types.
    #[must_use]
    pub fn docker(mut self) -> ImageBuilder {
        self.flavour = Flavour::Docker;
        self
    }

    /// Names the manifest, the config and the layers by digests of this algorithm.
    #[must_use]
    pub fn algorithm(mut self, algorithm: Algorithm) -> ImageBuilder {
        self.algorithm = algorithm;
        self
    }

    /// Makes it a referrer of `subject`.
    #[must_use]
    pub fn subject(mut self, subject: &Image) -> ImageBuilder {
        self.subject = Some(subject.manifest.descriptor());
        self
    }

    /// Makes it an artifact of this type: with the empty config and no platform.
    #[must_use]
    pub fn artifact_type(mut self, artifact_type: &str) -> ImageBuilder {
        self.artifact_type = Some(artifact_type.to_owned());
        self
    }

    /// Adds an annotation to the manifest.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> ImageBuilder {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// The image.
    pub fn build(self) -> Image {
        let (manifest_type, layer_type) = match self.flavour {
            Flavour::Oci => (media_type::OCI_MANIFEST, media_type::OCI_LAYER),
            Flavour::Docker => (media_type::DOCKER_MANIFEST, media_type::DOCKER_LAYER),
        };
        let algorithm = self.algorithm;
        let layers: Vec<Blob> = self.layers.into_iter().map(|layer| layer.named_by(algorithm)).collect();
        let (os, architecture) = self.platform.unwrap_or_else(|| ("linux".to_owned(), "amd64".to_owned()));
        let (config_type, config, platform) = match &self.artifact_type {
            Some(_) => (media_type::OCI_EMPTY, json!({}), None),
            None => {
                let diff_ids: Vec<_> = layers.iter().map(Blob::digest).collect();
                let config = json!({
                    "os": os,
                    "architecture": architecture,
                    "config": {},
                    "rootfs": {"type": "layers", "diff_ids": diff_ids},
                });
                let config_type = match self.flavour {
                    Flavour::Oci => media_type::OCI_CONFIG,
                    Flavour::Docker => media_type::DOCKER_CONFIG,
                };
                let platform = json!({"os": os, "architecture": architecture});
                (config_type, config, Some(platform))
            }
        };
        let config = Blob::with_algorithm(algorithm, config.to_string());

        let mut document = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": blob_descriptor(config_type, &config),
            "layers": layers
                .iter()
                .map(|layer| blob_descriptor(layer_type, layer))
                .collect::<Vec<_>>(),
        });
        if let Some(artifact_type) = self.artifact_type {
            document["artifactType"] = artifact_type.into();
        }
        if let Some(subject) = self.subject {
            document["subject"] = subject;
        }
        if !self.annotations.is_empty() {
            document["annotations"] = self.annotations.into();
        }

        let mut blobs = vec![config];
        blobs.extend(layers);
        Image { manifest: Manifest::new(algorithm, manifest_type, document.to_string()), children: Vec::new(), blobs, platform }
    }
}

fn blob_descriptor(media_type: &str, blob: &Blob) -> Value {
    json!({
        "mediaType": media_type,
        "digest": blob.digest(),
        "size": blob.size(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Digest, Repository, Synthetic};

    #[test]
    fn a_manifest_names_its_blobs_and_an_index_its_manifests() {
        let amd64 = Image::builder().layer(Synthetic::new(1, 10)).layer("two").build();
        let arm64 = Image::builder().layer("two").platform("linux", "arm64").build();
        let index = Image::index([&amd64, &arm64]);

        let document: Value = serde_json::from_slice(&index.manifest().bytes).unwrap();
        assert_eq!(document["manifests"][1]["platform"]["architecture"], "arm64");
        assert_eq!(document["manifests"][0]["digest"], amd64.manifest().digest.as_str());
        let document: Value = serde_json::from_slice(&amd64.manifest().bytes).unwrap();
        assert_eq!(document["layers"][0]["size"], 10);
        assert_eq!(document["layers"][1]["digest"], Digest::sha256(b"two").as_str());
        assert_eq!(index.manifests().len(), 3);
    }

    #[test]
    fn a_repository_lists_the_referrers_of_a_subject() {
        let image = Image::builder().layer("app").build();
        let sbom = Image::builder().layer("packages").artifact_type("application/spdx+json").subject(&image).build();
        let repository = Repository::new("library/app").tag("1", &image).image(&sbom);

        let referrers = repository.referrers(&image.manifest().digest);
        assert_eq!(referrers.len(), 1);
        assert_eq!(referrers[0]["artifactType"], "application/spdx+json");
        assert_eq!(referrers[0]["digest"], sbom.manifest().digest.as_str());
        assert!(repository.referrers(&sbom.manifest().digest).is_empty());
    }

    #[test]
    fn sha512_names_everything_when_asked_for() {
        let image = Image::builder().layer(Synthetic::new(3, 5)).algorithm(Algorithm::Sha512).build();
        assert!(image.manifest().digest.as_str().starts_with("sha512:"));
        assert!(image.layers()[0].digest().as_str().starts_with("sha512:"));
    }
}
