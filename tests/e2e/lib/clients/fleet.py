"""All clients by name, made when they are first asked for and ended together."""

from __future__ import annotations

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
    "docker-build",
)


class Fleet:
    """The clients of one test session, all with `mirror` (`host:port`) as their mirror of docker.io."""

    def __init__(self, directory: Path, isolation: Isolation, mirror: str, trixie: Path) -> None:
        self._directory = directory
        self._isolation = isolation
        self._mirror = mirror
        self._trixie = trixie
        self._clients: dict[str, Client] = {}
        self._daemons: dict[str, Containerd | Dockerd] = {}

    def __getitem__(self, name: str) -> Client:
        """The client of this name, ready to pull."""
        if name not in self._clients:
            self._clients[name] = self._make(name)
        return self._clients[name]

    def stop(self) -> None:
        """Ends the daemons."""
        for daemon in self._daemons.values():
            daemon.stop()

    def _make(self, name: str) -> Client:
        directory = self._directory / name
        common = (self._isolation, self._mirror)
        location = f"{self._mirror}/docker.io"
        match name:
            case "curl":
                return Curl(name, directory, *common)
            case "oras":
                return Oras(name, directory, *common)
            case "skopeo":
                return Skopeo(name, directory, self._isolation, location)
            case "podman":
                return Podman(name, directory, self._isolation, location)
            case "buildah":
                return Buildah(name, directory, self._isolation, location)
            case "ctr" | "ctr-trixie":
                return Ctr(name, self._containerd(name))
            case "cri" | "cri-trixie":
                return Cri(name, self._containerd(name))
            case "dockerd" | "dockerd-trixie":
                return self._dockerd(name)
            case "docker-build":
                return DockerBuild(name, self._dockerd("dockerd"))
        raise KeyError(name)

    def _programs(self, name: str) -> Path | None:
        return self._trixie if name.endswith("-trixie") else None

    def _containerd(self, client: str) -> Containerd:
        name = client.replace("ctr", "containerd").replace("cri", "containerd")
        if name not in self._daemons:
            made = Containerd(name, self._directory / name, self._isolation, self._mirror, self._programs(name))
            made.start()
            self._daemons[name] = made
        daemon = self._daemons[name]
        assert isinstance(daemon, Containerd)
        return daemon

    def _dockerd(self, name: str) -> Dockerd:
        if name not in self._daemons:
            made = Dockerd(name, self._directory / name, self._isolation, self._mirror, self._programs(name))
            made.start()
            self._daemons[name] = made
        daemon = self._daemons[name]
        assert isinstance(daemon, Dockerd)
        return daemon
