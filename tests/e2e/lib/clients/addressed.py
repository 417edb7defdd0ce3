"""Clients without a notion of mirrors, which are told the mirror's address in the name: python-oras and curl."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from ..images import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Image
from ..process import Isolation
from .base import PULL_TIMEOUT, Client, file_digest, verify_blob_files


class AddressedClient(Client):
    """What the two have in common: a folder with one file per digest as their store."""

    def __init__(self, name: str, directory: Path, isolation: Isolation, mirror: str) -> None:
        self.name = name
        self._isolation = isolation
        self._mirror = mirror
        self._folder = directory / "content"
        self._folder.mkdir(parents=True)

    def verify(self, image: Image, reference: str) -> None:
        documents = {image.top.digest, image.amd64.manifest.digest}
        verify_blob_files(self._folder, documents | set(image.amd64.blobs))

    def clear(self) -> None:
        shutil.rmtree(self._folder)
        self._folder.mkdir()


class Oras(AddressedClient):
    """python-oras, in a process of its own."""

    def pull(self, reference: str) -> None:
        program = [sys.executable, str(Path(__file__).with_name("oras_pull.py"))]
        arguments = [f"{self._mirror}/{reference}", str(self._folder)]
        self._isolation.run([*program, *arguments], timeout=PULL_TIMEOUT)


class Curl(AddressedClient):
    """curl, walking from the tag to the layers by the distribution specification."""

    def pull(self, reference: str) -> None:
        by_digest = "@" in reference
        repository, _, wanted = reference.rpartition("@") if by_digest else reference.rpartition(":")
        document = self._get(f"{repository}/manifests/{wanted}")
        if "manifests" in document:
            (chosen,) = (entry for entry in document["manifests"] if entry["platform"]["architecture"] == "amd64")
            document = self._get(f"{repository}/manifests/{chosen['digest']}")
        for entry in [document["config"], *document["layers"]]:
            hexadecimal = entry["digest"].removeprefix("sha256:")
            self._curl(f"{repository}/blobs/{entry['digest']}", self._folder / hexadecimal)

    def _get(self, path: str) -> dict[str, Any]:
        """Fetches a document, files it under its true digest, and returns it parsed."""
        target = self._folder / "document"
        self._curl(path, target)
        filed = target.rename(self._folder / file_digest(target).removeprefix("sha256:"))
        document: dict[str, Any] = json.loads(filed.read_bytes())
        return document

    def _curl(self, path: str, target: Path) -> None:
        accept = ", ".join([OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST])
        url = f"http://{self._mirror}/v2/{path}"
        options = ["--fail", "--silent", "--show-error", "--header", f"Accept: {accept}"]
        command = ["curl", *options, "--output", str(target), url]
        self._isolation.run(command, timeout=PULL_TIMEOUT)
