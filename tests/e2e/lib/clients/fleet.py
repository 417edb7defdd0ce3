"""All clients by name, made when they are first asked for and ended together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..process import Isolation
from .addressed import Curl, Oras
from .base import Client
from .containerd import Containerd, Cri, Ctr
from .containers import Buildah, Podman, Skopeo
from .dockerd import DockerBuild, Dockerd

#: Every client. Those of trixie, Debian's stable release, are unpacked beside those that are installed.
NAMES = (
    "curl",
    "oras",
    "skopeo",
    "podman",
    "buildah",
    "ctr",
    "ctr-trixie",
    "cri",
    "cri-trixie",
    "dockerd",
    "dockerd-trixie",
    "buildkit",
    "buildkit-trixie",
)


#: A client of each family. Two of the same daemon would clear each other's images.
CROWD = ("podman", "skopeo", "cri", "dockerd", "buildkit-trixie")


class Crowd:
    """Clients that do the same at the same time. None of them shares a daemon with another."""

    def __init__(self, clients: Iterable[Client]) -> None:
        self._clients = list(clients)

    def each(self, work: Callable[[Client], object]) -> None:
        """All of them do it; then they forget what they pulled."""
        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(work, client) for client in self._clients]:
                done.result()
        self.clear()

    def clear(self) -> None:
        """Empties their stores."""
        for client in self._clients:
            client.clear()


class Fleet:
    """The clients of one test session, all with `mirror` (`host:port`) as their mirror of docker.io."""

    def __init__(self, directory: Path, isolation: Isolation, mirror: str, trixie: Path) -> None:
        """`trixie` is the root of the packages that are unpacked and not installed."""
        self._directory = directory
        self._isolation = isolation
        self._mirror = mirror
        self._programs = {"": None, "trixie": trixie}
        self._clients: dict[str, Client] = {}
        self._containerds: dict[str, Containerd] = {}
        self._dockerds: dict[str, Dockerd] = {}

    def __getitem__(self, name: str) -> Client:
        """The client of this name, ready to pull."""
        if name not in self._clients:
            self._clients[name] = self._make(name)
        return self._clients[name]

    def stop(self) -> None:
        """Ends the daemons."""
        for containerd in self._containerds.values():
            containerd.stop()
        for dockerd in self._dockerds.values():
            dockerd.stop()

    def _make(self, name: str) -> Client:
        program, _, release = name.partition("-")
        directory = self._directory / name
        by_path = (name, directory, self._isolation, f"{self._mirror}/docker.io")
        match program:
            case "curl":
                return Curl(name, directory, self._isolation, self._mirror)
            case "oras":
                return Oras(name, directory, self._isolation, self._mirror)
            case "skopeo":
                return Skopeo(*by_path)
            case "podman":
                return Podman(*by_path)
            case "buildah":
                return Buildah(*by_path)
            case "ctr":
                return Ctr(name, self._containerd(release))
            case "cri":
                return Cri(name, self._containerd(release))
            case "dockerd":
                return self._dockerd(release)
            case "buildkit":
                return DockerBuild(name, self._dockerd(release))
        raise KeyError(name)

    def _containerd(self, release: str) -> Containerd:
        if release not in self._containerds:
            name = f"containerd-{release}".strip("-")
            made = Containerd(name, self._directory / name, self._isolation, self._mirror, self._programs[release])
            made.start()
            self._containerds[release] = made
        return self._containerds[release]

    def _dockerd(self, release: str) -> Dockerd:
        if release not in self._dockerds:
            name = f"dockerd-{release}".strip("-")
            made = Dockerd(name, self._directory / name, self._isolation, self._mirror, self._programs[release])
            made.start()
            self._dockerds[release] = made
        return self._dockerds[release]
