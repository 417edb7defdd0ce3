//! The content that most tests pull, where it is, and what pulling it has cost.

use larder_testkit::{Digest, Hub, HubBuilder, Image, Listener, Repository, Requests, Synthetic};
use serde_json::Value;

use super::client::{Answer, End};
use super::larder::Larder;

/// The repository of most tests.
pub(crate) const NAME: &str = "library/app";

/// The tag of most tests.
pub(crate) const TAG: &str = "1.0";

/// An image with one layer of so many bytes for each size. Other seeds make other bytes.
pub(crate) fn image(seed: u64, sizes: &[u64]) -> Image {
    let layers = sizes.iter().zip(seed * 1000..);
    layers.fold(Image::builder(), |image, (size, seed)| image.layer(Synthetic::new(seed, *size))).build()
}

/// An index of an image for amd64 and one for arm64.
pub(crate) fn index(seed: u64) -> Image {
    let platform = |architecture, seed| {
        let image = Image::builder().platform("linux", architecture);
        image.layer(Synthetic::new(seed, 200_000)).layer(Synthetic::new(seed + 1, 3_000)).build()
    };
    Image::index([&platform("amd64", seed * 1000), &platform("arm64", seed * 1000 + 500)])
}

/// A hub that has the image at [`NAME`] with the tag [`TAG`].
pub(crate) async fn hub_with(image: &Image) -> Hub {
    prepare(image).start().await.unwrap()
}

/// The same, before it is started.
pub(crate) fn prepare(image: &Image) -> HubBuilder {
    Hub::builder().repository(Repository::new(NAME).tag(TAG, image))
}

/// The target of a manifest in [`NAME`].
pub(crate) fn manifest(reference: impl ToString) -> String {
    format!("/v2/{NAME}/manifests/{}", reference.to_string())
}

/// The target of a blob in [`NAME`].
pub(crate) fn blob(digest: &Digest) -> String {
    format!("/v2/{NAME}/blobs/{digest}")
}

/// The GETs of manifests that a hub has answered with one: what Docker Hub counts as pulls.
pub(crate) fn counted(hub: &Hub) -> Requests {
    hub.requests().on(Listener::Registry).method("GET").path_contains("/manifests/").status(200)
}

/// The HEADs of manifests that a hub has answered, which Docker Hub does not count.
pub(crate) fn checked(hub: &Hub) -> Requests {
    hub.requests().on(Listener::Registry).method("HEAD").path_contains("/manifests/").status(200)
}

/// The requests for a blob at the CDN.
pub(crate) fn fetched(hub: &Hub, digest: &Digest) -> Requests {
    hub.requests().on(Listener::Cdn).method("GET").path_contains(digest)
}

/// Pulls an image or index with all that it needs, as a client that verifies everything does, and waits until it is at rest.
///
/// Gives the digest of its manifest.
pub(crate) async fn pull(larder: &Larder, name: &str, reference: impl ToString) -> String {
    let top = larder.get(format!("/v2/{name}/manifests/{}", reference.to_string())).await;
    let digest = verified_manifest(&top);
    let mut waiting = vec![top.json()];
    while let Some(document) = waiting.pop() {
        for child in list(&document, "manifests") {
            let answer = larder.get(format!("/v2/{name}/manifests/{child}")).await;
            assert_eq!(verified_manifest(&answer), child);
            waiting.push(answer.json());
        }
        let config = document["config"]["digest"].as_str().map(str::to_owned);
        for blob in config.into_iter().chain(list(&document, "layers")) {
            let download = larder.download(format!("/v2/{name}/blobs/{blob}")).await;
            assert_eq!((download.head.status, download.end), (200, End::Complete), "{download:?}");
            assert_eq!(download.digest.as_str(), blob);
        }
    }
    larder.until_idle().await;
    digest
}

/// What a manifest hashes to, which is what its header says.
fn verified_manifest(answer: &Answer) -> String {
    assert_eq!((answer.status(), answer.end), (200, End::Complete), "{answer:?}");
    let digest = Digest::sha256(&answer.body).to_string();
    assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
    digest
}

fn list(document: &Value, field: &str) -> Vec<String> {
    let descriptors = document[field].as_array().into_iter().flatten();
    descriptors.map(|descriptor| descriptor["digest"].as_str().unwrap().to_owned()).collect()
}
