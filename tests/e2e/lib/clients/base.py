"""What the tests ask of every client: pull a name, prove what came, forget it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

from ..images import Image, PlatformImage

#: Seconds for one pull. The largest image takes a few; this is for a machine that is busy with other things.
PULL_TIMEOUT = 120.0


class Client(ABC):
    """One client program with one store."""

    #: How tests call it, e.g. `podman-4`.
    name: str

    @abstractmethod
    def pull(self, reference: str) -> None:
        """Pulls a full name such as `docker.io/library/tiny:1`; raises `CommandFailed` if it cannot."""

    @abstractmethod
    def verify(self, image: Image, reference: str) -> None:
        """Proves that the store holds `image` under `reference`: digests, diff_ids, and the files unpacked."""

    @abstractmethod
    def clear(self) -> None:
        """Forgets every image, so that the next pull has to fetch all of it."""

    def fetch(self, image: Image, *, by_digest: bool = False) -> None:
        """Pulls `image` by its tag or by its digest, and verifies it."""
        reference = image.name_by_digest if by_digest else image.name
        self.pull(reference)
        self.verify(image, reference)


def file_digest(path: Path) -> str:
    """The digest of a file's content."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def verify_blob_files(folder: Path, digests: Iterable[str], suffixes: Iterable[str] = ("",)) -> None:
    """Each digest has a file in `folder`, named by its hex (and one of `suffixes`), that hashes to it."""
    for digest in digests:
        hexadecimal = digest.removeprefix("sha256:")
        found = [path for suffix in suffixes if (path := folder / (hexadecimal + suffix)).exists()]
        assert found, f"{digest} is not in the client's store"
        assert file_digest(found[0]) == digest


def check_in(directory: str) -> str:
    """Shell text that checks a root file system with its own sums, after writing these to stdout."""
    return f'cat "{directory}/SHA256SUMS"; (cd "{directory}" && sha256sum --quiet --check SHA256SUMS)'


def verify_sums(written: str, image: PlatformImage) -> None:
    """The sums that `check_in` checked by were the image's own: the list is complete and unchanged."""
    expected = {path: digest for path, digest in image.files.items() if path != "SHA256SUMS"}
    lines = (line.split("  ", 1) for line in written.splitlines())
    listed = {path: digest for digest, path in lines}
    assert listed == expected
