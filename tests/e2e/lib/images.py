"""Deterministic, self-checking images, built in plain Python: the same bytes, hence digests, on every machine.

Every image carries /SHA256SUMS over its other files, so that `sha256sum -c` in a container, or in a mounted root file
system, proves what a client unpacked. Nothing here talks to a registry.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

MIB = 1024 * 1024

#: Statically linked, from Debian's busybox-static: the one program that the images need.
BUSYBOX = Path("/bin/busybox")


def sha256(data: bytes) -> str:
    """The digest of `data`, as registries write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def noise(seed: int, size: int) -> bytes:
    """`size` bytes that do not compress and are the same for the same seed."""
    return random.Random(seed).randbytes(size)


@dataclass(frozen=True)
class Document:
    """A manifest or an index: bytes with a media type."""

    media_type: str
    data: bytes = field(repr=False)

    @property
    def digest(self) -> str:
        """What the document is called."""
        return sha256(self.data)

    def descriptor(self, **more: Any) -> dict[str, Any]:
        """A descriptor of this document, with further fields such as `platform`."""
        return descriptor(self.media_type, self.data, **more)


@dataclass(frozen=True)
class Layer:
    """A layer: the compressed blob, and the digest of the archive within."""

    blob: bytes = field(repr=False)
    diff_id: str
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def digest(self) -> str:
        """The digest of the compressed blob."""
        return sha256(self.blob)


@dataclass(frozen=True)
class PlatformImage:
    """One manifest with all that it names."""

    manifest: Document
    config: bytes = field(repr=False)
    layers: Sequence[Layer] = field(repr=False)

    @property
    def config_digest(self) -> str:
        """The image ID of dockerd, podman and the CRI."""
        return sha256(self.config)

    @property
    def diff_ids(self) -> list[str]:
        """The digests of the uncompressed layers, lowest first."""
        return [layer.diff_id for layer in self.layers]

    @property
    def files(self) -> dict[str, str]:
        """The sha256 in hex of each regular file, by its path without the leading slash."""
        return {path: hashlib.sha256(data).hexdigest() for layer in self.layers for path, data in layer.files.items()}

    @property
    def blobs(self) -> dict[str, bytes]:
        """Config and layers, by digest."""
        return {self.config_digest: self.config} | {layer.digest: layer.blob for layer in self.layers}

    @property
    def documents(self) -> list[Document]:
        """The manifest alone."""
        return [self.manifest]


@dataclass(frozen=True)
class Image:
    """What a tag names: an index over platforms, or (with `index` None) the manifest of amd64 itself."""

    repository: str
    tag: str
    amd64: PlatformImage
    index: Document | None = None
    others: Sequence[PlatformImage] = ()
    artifacts: Mapping[str, tuple[Document, Mapping[str, bytes]]] = field(default_factory=dict, repr=False)

    @property
    def top(self) -> Document:
        """The document that the tag names."""
        return self.index or self.amd64.manifest

    @property
    def name(self) -> str:
        """The reference that a user types, e.g. `docker.io/library/tiny:1`."""
        return f"docker.io/{self.repository}:{self.tag}"

    @property
    def name_by_digest(self) -> str:
        """The same image by its digest."""
        return f"docker.io/{self.repository}@{self.top.digest}"

    @property
    def documents(self) -> list[Document]:
        """Every manifest and index, referenced ones before those that refer to them."""
        children = [self.amd64.manifest, *(image.manifest for image in self.others)]
        return [*children, self.index] if self.index else children

    @property
    def blobs(self) -> dict[str, bytes]:
        """Every blob of every platform."""
        found = dict(self.amd64.blobs)
        for image in self.others:
            found |= image.blobs
        return found


def descriptor(media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
    """An OCI content descriptor of `data`."""
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **more}


def document(media_type: str, content: Mapping[str, Any]) -> Document:
    """A schema 2 document in the one spelling that these tests use."""
    body = {"schemaVersion": 2, "mediaType": media_type, **content}
    return Document(media_type, json.dumps(body, indent=2).encode())


def layer(files: Mapping[str, bytes], links: Mapping[str, str] | None = None, level: int = 9) -> Layer:
    """A layer with `files`, executable below bin/, and symbolic `links`. Level 0 stores without compressing."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for directory in sorted({path.rsplit("/", 1)[0] for path in files if "/" in path}):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o755 if path.startswith("bin/") else 0o644
            tar.addfile(entry, io.BytesIO(data))
        for path, target in (links or {}).items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
            tar.addfile(entry)
    plain = archive.getvalue()
    return Layer(gzip.compress(plain, level, mtime=0), sha256(plain), dict(files))


def raw_layer(plain: bytes) -> Layer:
    """A layer of exactly this archive, stored: for an archive without entries."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return Layer(packer.compress(plain) + packer.flush(), sha256(plain), {})


def platform_image(layers: Sequence[Layer], architecture: str, *, docker: bool = False) -> PlatformImage:
    """Layers as an image whose default command checks it, in OCI's or in Docker's media types."""
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "created": "2020-01-01T00:00:00Z",
            "config": {"Cmd": ["/bin/sha256sum", "-c", "/SHA256SUMS"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "tests"} for _ in layers],
        }
    ).encode()
    layer_type = DOCKER_LAYER if docker else OCI_LAYER
    manifest = document(
        DOCKER_MANIFEST if docker else OCI_MANIFEST,
        {
            "config": descriptor(DOCKER_CONFIG if docker else OCI_CONFIG, config),
            "layers": [descriptor(layer_type, layer.blob) for layer in layers],
        },
    )
    return PlatformImage(manifest, config, layers)


def self_checking(contents: Sequence[Mapping[str, bytes]], level: int = 9) -> list[Layer]:
    """Busybox, then one layer per item of `contents`, then /SHA256SUMS over everything."""
    busybox = {"bin/busybox": BUSYBOX.read_bytes()}
    links = {"bin/sh": "busybox", "bin/sha256sum": "busybox", "bin/cat": "busybox"}
    everything = dict(busybox)
    for files in contents:
        everything |= files
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in everything.items())
    return [
        layer(busybox, links),
        *(layer(files, level=level) for files in contents),
        layer({"SHA256SUMS": sums.encode()}),
    ]


def index_of(images: Mapping[str, PlatformImage], *, docker: bool = False) -> Document:
    """An index, or with `docker` a manifest list, over images by architecture."""
    return document(
        DOCKER_LIST if docker else OCI_INDEX,
        {
            "manifests": [
                image.manifest.descriptor(platform={"architecture": architecture, "os": "linux"})
                for architecture, image in images.items()
            ]
        },
    )


def multi_platform(repository: str, tag: str, *, seed: int, docker: bool = False) -> Image:
    """An image of 4 small layers for amd64 and arm64 (the latter is never run: its busybox is amd64's)."""
    images = {
        architecture: platform_image(
            self_checking(
                [
                    {"data/architecture": architecture.encode(), "data/a": noise(seed, 300_000)},
                    {"data/b": noise(seed + offset, 200_000)},
                ]
            ),
            architecture,
            docker=docker,
        )
        for offset, architecture in ((1, "amd64"), (2, "arm64"))
    }
    return Image(repository, tag, images["amd64"], index_of(images, docker=docker), (images["arm64"],))


def tiny(tag: str = "1", seed: int = 1) -> Image:
    """library/tiny: an OCI index. Another seed is another image, e.g. what the tag names tomorrow."""
    return multi_platform("library/tiny", tag, seed=seed)


def manifest_list() -> Image:
    """library/list: Docker's manifest list."""
    return multi_platform("library/list", "1", seed=10, docker=True)


def schema2() -> Image:
    """library/schema2: one Docker schema 2 manifest, as most images were for years."""
    layers = self_checking([{"data/a": noise(20, 100_000)}, {"data/b": noise(21, 100_000)}])
    return Image("library/schema2", "1", platform_image(layers, "amd64", docker=True))


def big() -> Image:
    """library/big: a layer of more than 200 MiB, some of 4 MiB, and one of a few bytes."""
    contents = [{"data/big": noise(30, 208 * MIB)}]
    contents += [{f"data/medium{number}": noise(30 + number, 4 * MIB)} for number in (1, 2, 3)]
    layers = self_checking(contents, level=0)
    layers.insert(-1, raw_layer(bytes(1024)))
    return Image("library/big", "1", platform_image(layers, "amd64"))


def private(canary: bytes) -> Image:
    """corp/secret: may be read by one user only. Its files hold `canary`, to look for where it must not be."""
    layers = self_checking([{"data/secret": canary}])
    return Image("corp/secret", "1", platform_image(layers, "amd64"))


def signed() -> Image:
    """library/signed: an image with an SBOM as referrer, listed in the tag `sha256-<hex>` (OCI's referrers tag
    schema), and a signature under cosign's older tag `sha256-<hex>.sig`.
    """
    layers = self_checking([{"data/a": noise(40, 50_000)}])
    image = platform_image(layers, "amd64")
    empty = b"{}"
    sbom = noise(41, 10_000)
    referrer = document(
        OCI_MANIFEST,
        {
            "artifactType": "application/spdx+json",
            "config": descriptor(OCI_EMPTY, empty),
            "layers": [
                descriptor(
                    "application/spdx+json",
                    sbom,
                    annotations={"org.opencontainers.image.title": "sbom.json"},
                )
            ],
            "subject": image.manifest.descriptor(),
        },
    )
    referrers = document(
        OCI_INDEX,
        {"manifests": [referrer.descriptor(artifactType="application/spdx+json")]},
    )
    payload = b'{"critical":{}}'
    signature = document(
        OCI_MANIFEST,
        {
            "config": descriptor(OCI_CONFIG, empty),
            "layers": [descriptor("application/vnd.dev.cosign.simplesigning.v1+json", payload)],
        },
    )
    schema_tag = image.manifest.digest.replace(":", "-")
    return Image(
        "library/signed",
        "1",
        image,
        artifacts={
            "sbom": (referrer, {sha256(empty): empty, sha256(sbom): sbom}),
            schema_tag: (referrers, {}),
            f"{schema_tag}.sig": (signature, {sha256(empty): empty, sha256(payload): payload}),
        },
    )
