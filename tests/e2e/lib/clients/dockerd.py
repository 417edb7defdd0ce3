"""The Docker Engine: a daemon with `registry-mirrors`, asked through /usr/bin/docker; and its embedded BuildKit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..images import Image
from ..process import CommandFailed, Daemon, Isolation
from .base import PULL_TIMEOUT, Client

#: Debian's client speaks with every daemon here. A `docker` found first on PATH may be something else.
DOCKER = "/usr/bin/docker"


class Dockerd(Client):
    """dockerd with its own data root, socket and containerd."""

    def __init__(self, name: str, directory: Path, isolation: Isolation, mirror: str, programs: Path | None) -> None:
        """`programs` is the root of an unpacked set of packages, or None for the installed one."""
        self.name = name
        self.isolation = isolation
        self._directory = directory
        directory.mkdir(parents=True)
        self.socket = directory / "docker.sock"
        config = directory / "daemon.json"
        config.write_text(
            json.dumps(
                {
                    "registry-mirrors": [f"http://{mirror}"],
                    "data-root": str(directory / "data"),
                    "exec-root": str(directory / "exec"),
                    "pidfile": str(directory / "docker.pid"),
                    "hosts": [f"unix://{self.socket}"],
                    "storage-driver": "overlay2",
                    "bridge": "none",
                    "iptables": False,
                    "ip6tables": False,
                    "max-download-attempts": 5,
                    "features": {"buildkit": True},
                }
            )
        )
        path = isolation.environment()["PATH"]
        if programs is not None:
            path = f"{programs}/usr/sbin:{programs}/usr/bin:{path}"
        self.daemon = Daemon(
            name,
            isolation.wrap(["dockerd", "--config-file", str(config)]),
            directory / f"{name}.log",
            environment=isolation.environment({"PATH": path}),
        )

    def start(self) -> None:
        """Starts the daemon; returns when it answers."""
        self.daemon.start(self._answers, timeout=60)

    def stop(self) -> None:
        """Ends the daemon, and its containerd with it."""
        self.daemon.stop(timeout=30)
        shutil.rmtree(self._directory / "data", ignore_errors=True)

    def docker(self, *arguments: str, timeout: float = PULL_TIMEOUT) -> str:
        """Runs the command-line client against this daemon."""
        command = [DOCKER, "--host", f"unix://{self.socket}", *arguments]
        return self.isolation.run(command, timeout=timeout)

    def pull(self, reference: str) -> None:
        self.docker("pull", "--quiet", reference)

    def verify(self, image: Image, reference: str) -> None:
        (inspected,) = json.loads(self.docker("image", "inspect", reference))
        assert inspected["Id"] == image.amd64.config_digest
        assert inspected["RootFS"]["Layers"] == image.amd64.diff_ids
        repository = image.repository.removeprefix("library/")
        assert f"{repository}@{image.top.digest}" in inspected["RepoDigests"]
        checked = self.docker("run", "--rm", "--network=none", inspected["Id"])
        assert checked.count(": OK") == len(image.amd64.files) - 1

    def clear(self) -> None:
        if images := self.docker("images", "--all", "--quiet", "--no-trunc").split():
            self.docker("rmi", "--force", *dict.fromkeys(images))

    def _answers(self) -> bool:
        try:
            self.docker("version", timeout=10)
        except CommandFailed:
            return False
        return True


class DockerBuild(Client):
    """`docker build` by BuildKit inside a `Dockerd`: it pulls the base image itself, in its own way."""

    def __init__(self, name: str, engine: Dockerd) -> None:
        self.name = name
        self._engine = engine
        self._context = engine.daemon.log.parent / "context"
        self._context.mkdir()

    def pull(self, reference: str) -> None:
        recipe = f'FROM {reference}\nRUN ["/bin/sha256sum", "-c", "/SHA256SUMS"]\n'
        (self._context / "Dockerfile").write_text(recipe)
        options = ["--pull", "--no-cache", "--network=none", "--tag", "built:latest"]
        self._engine.docker("build", *options, str(self._context))

    def verify(self, image: Image, reference: str) -> None:
        (inspected,) = json.loads(self._engine.docker("image", "inspect", "built:latest"))
        base = image.amd64.diff_ids
        assert inspected["RootFS"]["Layers"][: len(base)] == base

    def clear(self) -> None:
        self._engine.clear()
        self._engine.docker("builder", "prune", "--all", "--force")
