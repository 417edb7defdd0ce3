"""Larder itself: the program under test, with a cache of its own, and what it shows of itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import http
from .clients.base import file_digest
from .process import Daemon, free_port


@dataclass(frozen=True)
class Settings:
    """What a test may want otherwise in the configuration. Durations and sizes are as in Larder's own file."""

    freshness: str = "1h"
    max_size: str = "4GB"
    stall: str = "20s"
    username: str | None = None
    password: str | None = None


class Larder:
    """One Larder on a given port, in front of one upstream that it takes for docker.io."""

    def __init__(self, program: Path, address: str, upstream: str, directory: Path, settings: Settings) -> None:
        """`upstream` is a URL. The same `address` in every test is what the clients are configured with."""
        directory.mkdir(parents=True)
        self.address = address
        self.admin = f"127.0.0.1:{free_port()}"
        self.cache = directory / "cache"
        self.log = directory / "larder.log"
        self._upstream = upstream
        self._settings = settings
        self._config = directory / "larder.toml"
        self._password = directory / "password"
        self._daemon = Daemon(
            "larder",
            [str(program), "serve", "--config", str(self._config)],
            self.log,
            environment={"PATH": "/usr/bin:/bin"},
        )

    def start(self) -> None:
        """Starts it; returns when it says that it is ready."""
        self._config.write_text(self._toml())
        self._daemon.start(self._ready)

    def stop(self) -> None:
        """Asks it to end."""
        self._daemon.stop()

    def kill(self) -> None:
        """kill -9."""
        self._daemon.kill()

    def restart(self) -> None:
        """Stops it and starts it again on the same cache."""
        self.stop()
        self.start()

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics, by name and labels as they are written."""
        page = http.get(self.admin, "/metrics")
        assert page.status == 200, page
        samples = (line for line in page.body.decode().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in samples)}

    def blob_files(self) -> list[Path]:
        """Every file of the cache's content at rest."""
        return [path for path in (self.cache / "blobs").rglob("*") if path.is_file()]

    def blob_digests(self) -> set[str]:
        """The digests of all content at rest."""
        return {f"{path.parents[1].name}:{path.name}" for path in self.blob_files()}

    def verify_cache(self) -> None:
        """Every blob at rest is what its name says: nothing short, nothing wrong."""
        for path in self.blob_files():
            assert file_digest(path) == f"sha256:{path.name}", path

    def verify_log(self, secrets: Iterable[str]) -> None:
        """The log of all runs so far says something, and none of these things."""
        text = self.log.read_text(errors="replace")
        assert re.search("listen|ready|serv", text), f"an empty log proves nothing: {text!r}"
        told = [secret for secret in secrets if secret in text]
        assert not told, f"{self.log} has secrets in it: {told}"

    def tail(self) -> str:
        """The end of the log."""
        return self._daemon.tail()

    def _ready(self) -> bool:
        try:
            return http.get(self.admin, "/readyz", timeout=2).status == 200
        except OSError:
            return False

    def _toml(self) -> str:
        # A JSON string is a TOML string.
        quote = json.dumps
        text = f"""
listen = {quote(self.address)}

[admin]
listen = {quote(self.admin)}

[cache]
dir = {quote(str(self.cache))}
max_size = {quote(self._settings.max_size)}
min_free = "100MB"

[freshness]
tags = {quote(self._settings.freshness)}

[timeouts]
stall = {quote(self._settings.stall)}

[log]
level = "debug"

[upstreams."docker.io"]
url = {quote(self._upstream)}
default = true
"""
        if self._settings.username and self._settings.password:
            self._password.write_text(self._settings.password)
            self._password.chmod(0o600)
            text += f"""username = {quote(self._settings.username)}
password_file = {quote(str(self._password))}
open_to_all = true
"""
        return text
