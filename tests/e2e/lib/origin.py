"""The origin: Debian's docker-registry with a store of its own, into which the tests push what is to be pulled.

It is a plain registry. What makes an upstream like Docker Hub out of it is `lib.hub`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from . import http
from .images import Document, Image, sha256
from .process import Daemon, free_port, listens

#: A GET in the access log: repository, `manifests` or `blobs`, reference, status and User-Agent.
READ = re.compile(r'"GET /v2/(\S+?)/(manifests|blobs)/([^\s?]+)\S* HTTP/1\.1" (\d+) \d+ "[^"]*" "([^"]*)"')


class Read(NamedTuple):
    """One GET."""

    repository: str
    kind: str
    reference: str
    status: int


class Origin:
    """A docker-registry on a loopback port."""

    def __init__(self, directory: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._directory = directory
        directory.mkdir(parents=True)
        # JSON is YAML, and needs no quoting rules of its own.
        self._config.write_text(json.dumps(registry_config(self.address, directory / "store")))
        self._daemon = self.daemon("origin")

    @property
    def _config(self) -> Path:
        return self._directory / "config.yml"

    def daemon(self, name: str) -> Daemon:
        """The program, with this store and this address; a second one needs another network namespace."""
        return Daemon(name, ["docker-registry", "serve", str(self._config)], self._directory / f"{name}.log")

    def listening(self) -> bool:
        """Whether there is a registry at the address."""
        return listens(self.address)

    def reads_by(self, program: str) -> list[Read]:
        """What a client whose User-Agent begins like this has read so far: every GET."""
        return [
            Read(repository, kind, reference, int(status))
            for repository, kind, reference, status, agent in READ.findall(self._daemon.log.read_text())
            if agent.startswith(program)
        ]

    def start(self) -> None:
        """Starts the registry; returns when it accepts connections."""
        self._daemon.start(self.listening)

    def stop(self) -> None:
        """Ends the registry."""
        self._daemon.stop()

    def push(self, image: Image) -> None:
        """Pushes all of an image and makes its tag name it."""
        for data in image.blobs.values():
            self.push_blob(image.repository, data)
        for document in image.documents:
            self.push_document(image.repository, document.digest, document)
        for tag, (document, blobs) in image.artifacts.items():
            self.push_artifact(image.repository, tag, document, blobs)
        self.push_document(image.repository, image.tag, image.top)

    def push_artifact(self, repository: str, tag: str, document: Document, blobs: Mapping[str, bytes]) -> None:
        """Pushes a manifest that is not an image, with its blobs."""
        for data in blobs.values():
            self.push_blob(repository, data)
        self.push_document(repository, tag, document)

    def push_blob(self, repository: str, data: bytes) -> None:
        """Pushes one blob, in one PUT."""
        opened = http.request(self.address, "POST", f"/v2/{repository}/blobs/uploads/")
        assert opened.status == 202, opened
        session = urlsplit(opened.headers["Location"])
        done = http.request(
            self.address,
            "PUT",
            f"{session.path}?{session.query}&digest={sha256(data)}",
            headers={"Content-Type": "application/octet-stream"},
            body=data,
        )
        assert done.status == 201, done

    def push_document(self, repository: str, reference: str, document: Document) -> None:
        """Pushes a manifest or an index under a tag or its digest; what it names must be there."""
        done = http.request(
            self.address,
            "PUT",
            f"/v2/{repository}/manifests/{reference}",
            headers={"Content-Type": document.media_type},
            body=document.data,
        )
        assert done.status == 201, done


def registry_config(address: str, store: Path, upstream: str | None = None) -> dict[str, object]:
    """docker-registry's configuration: a registry, or with `upstream` a pull-through mirror of that URL."""
    config: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {
            "filesystem": {"rootdirectory": str(store)},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": address, "secret": "not a secret: uploads on loopback"},
    }
    if upstream is not None:
        config["proxy"] = {"remoteurl": upstream}
    return config
