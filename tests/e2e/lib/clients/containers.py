"""The containers/image family: Podman, Buildah and Skopeo, which share registries.conf and address a mirror by path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..images import Image
from ..process import Isolation
from .base import PULL_TIMEOUT, Client, check_in, verify_blob_files, verify_sums


class ContainersClient(Client):
    """What the three have in common: where their configuration lies, and how they are run."""

    def __init__(self, name: str, directory: Path, isolation: Isolation, location: str) -> None:
        """`location` is the mirror as registries.conf names it: `host:port/docker.io`."""
        self.name = name
        self._isolation = isolation
        self.directory = directory
        directory.mkdir(parents=True)
        (directory / "mirrors.conf").write_text(
            'unqualified-search-registries = ["docker.io"]\n'
            '[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n'
            f'[[registry.mirror]]\nlocation = "{location}"\ninsecure = true\n'
        )
        (directory / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (directory / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{directory / "root"}"\nrunroot = "{directory / "run"}"\n'
        )

    def shell(self, script: str) -> str:
        """Runs shell text in a mount namespace of its own."""
        return self._isolation.run(
            ["sh", "-euc", script],
            timeout=PULL_TIMEOUT,
            environment={
                "CONTAINERS_REGISTRIES_CONF": str(self.directory / "mirrors.conf"),
                "CONTAINERS_STORAGE_CONF": str(self.directory / "storage.conf"),
                "XDG_RUNTIME_DIR": str(self.directory),
            },
        )

    @property
    def _policy(self) -> str:
        return f"--signature-policy {self.directory / 'policy.json'}"


class Podman(ContainersClient):
    """`podman pull`; the files are checked by mounting the image."""

    def pull(self, reference: str) -> None:
        self.shell(f"podman pull --quiet {self._policy} '{reference}'")

    def verify(self, image: Image, reference: str) -> None:
        (inspected,) = json.loads(self.shell(f"podman image inspect '{reference}'"))
        assert "sha256:" + inspected["Id"] == image.amd64.config_digest
        assert inspected["RootFS"]["Layers"] == image.amd64.diff_ids
        repository = f"docker.io/{image.repository}"
        assert f"{repository}@{image.top.digest}" in inspected["RepoDigests"]
        verify_sums(self.shell(f"mnt=$(podman image mount '{reference}'); {check_in('$mnt')}"), image.amd64)

    def clear(self) -> None:
        self.shell("podman rmi --all --force")


class Buildah(ContainersClient):
    """`buildah pull`, and a working container made from what it pulled."""

    def pull(self, reference: str) -> None:
        self.shell(f"buildah pull --quiet {self._policy} '{reference}'")

    def verify(self, image: Image, reference: str) -> None:
        work = self.shell(f"buildah from --pull-never {self._policy} '{reference}'").strip()
        inspected = json.loads(self.shell(f"buildah inspect {work}"))
        assert "sha256:" + inspected["FromImageID"] == image.amd64.config_digest
        assert inspected["OCIv1"]["rootfs"]["diff_ids"] == image.amd64.diff_ids
        verify_sums(self.shell(f"mnt=$(buildah mount {work}); {check_in('$mnt')}"), image.amd64)

    def clear(self) -> None:
        self.shell("buildah rm --all >/dev/null; buildah rmi --all --force >/dev/null")


class Skopeo(ContainersClient):
    """`skopeo copy --all` into a folder: the documents and blobs of every platform, as they came."""

    @property
    def _copy(self) -> Path:
        return self.directory / "copy"

    def pull(self, reference: str) -> None:
        options = f"--policy {self.directory / 'policy.json'} --registries-conf {self.directory / 'mirrors.conf'}"
        copy = f"copy --quiet --all --preserve-digests 'docker://{reference}' dir:{self._copy}"
        self.shell(f"skopeo {options} {copy}")

    def verify(self, image: Image, reference: str) -> None:
        assert (self._copy / "manifest.json").read_bytes() == image.top.data
        documents = [document.digest for document in image.documents if document != image.top]
        verify_blob_files(self._copy, documents, (".manifest.json",))
        verify_blob_files(self._copy, image.blobs)

    def clear(self) -> None:
        shutil.rmtree(self._copy, ignore_errors=True)
