"""Larder itself: the program under test, with a cache of its own, and what it shows of itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import http
from .clients.base import file_digest
from .process import Daemon, free_port, run

#: No variable of Larder's own.
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}

#: A field of a log line: a word, or a string in quotes.
FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)')


@dataclass(frozen=True)
class Settings:
    """What a test may want otherwise in the configuration. Durations and sizes are as in Larder's own file."""

    freshness: str = "1h"
    max_size: str = "4GB"
    stall: str = "20s"
    answer: str = "25s"
    resolve: str = "3s"
    connections: int = 4
    offline: bool = False
    log: str = "debug"
    username: str | None = None
    password: str | None = None


@dataclass(frozen=True)
class Footprint:
    """What a process takes of the machine."""

    #: Bytes of memory, without those of files.
    memory: int
    #: Open file descriptors, but for those of content.
    descriptors: int
    #: Those of content: what is much used is kept open.
    contents: int

    def __str__(self) -> str:
        return f"{self.memory / 1e6:.1f} MB, {self.descriptors} descriptors, {self.contents} contents open"


@dataclass(frozen=True)
class Access:
    """One request that Larder answered, as its access log tells."""

    method: str
    #: `manifest` or `blob`.
    kind: str
    #: What was asked for: `library/tiny:1`, `library/tiny@sha256:…`.
    name: str
    status: int
    user_agent: str


class Larder:
    """One Larder on a given port, in front of one upstream that it takes for docker.io."""

    def __init__(self, program: Path, address: str, upstream: str, directory: Path, settings: Settings) -> None:
        """`upstream` is a URL. The same `address` in every test is what the clients are configured with."""
        directory.mkdir(parents=True)
        self.address = address
        self.admin = f"127.0.0.1:{free_port()}"
        self.cache = directory / "cache"
        self.log = directory / "larder.log"
        self._program = str(program)
        self._upstream = upstream
        self._settings = settings
        self._config = directory / "larder.toml"
        self._password = directory / "password"
        self._daemon = Daemon("larder", [], self.log)

    def start(
        self,
        *,
        upstream: str | None = None,
        before: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> None:
        """Starts it; returns when it says that it is ready.

        `upstream` and `changes` (fields of `Settings`) hold from now on. `before` is a command that runs it, in the
        same process, and `environment` is added to its own; both are for this start.
        """
        self._upstream = upstream or self._upstream
        self._settings = replace(self._settings, **changes)
        self._config.write_text(self._toml())
        self._daemon = Daemon(
            "larder",
            [*before, self._program, "serve", "--config", str(self._config)],
            self.log,
            environment={**ENVIRONMENT, **(environment or {})},
        )
        self._daemon.start(self._ready)

    @property
    def pid(self) -> int:
        """The process."""
        return self._daemon.pid

    def stop(self) -> None:
        """Asks it to end."""
        self._daemon.stop()

    def kill(self) -> None:
        """kill -9."""
        self._daemon.kill()

    def restart(self, **otherwise: Any) -> None:
        """Stops it and starts it again on the same cache, with what `start` takes."""
        self.stop()
        self.start(**otherwise)

    def footprint(self) -> Footprint:
        """What it takes of the machine now."""
        process = Path("/proc", str(self._daemon.pid))
        anonymous = re.search(r"^RssAnon:\s+(\d+) kB$", (process / "status").read_text(), re.MULTILINE)
        assert anonymous, "the kernel tells what memory a process has"
        targets = []
        for descriptor in (process / "fd").iterdir():
            # One may have been closed in between.
            with suppress(FileNotFoundError):
                targets.append(str(descriptor.readlink()))
        contents = sum(target.startswith(f"{self.cache / 'blobs'}/") for target in targets)
        return Footprint(int(anonymous[1]) * 1024, len(targets) - contents, contents)

    def accesses(self) -> list[Access]:
        """Every request for a manifest or a blob that it has answered so far, in all its runs."""
        found = []
        lines = self.log.read_text(errors="replace").splitlines()
        for line in (line for line in lines if " larder::access: " in line):
            fields = {name: value.strip('"') for name, value in FIELD.findall(line)}
            if fields["kind"] in ("manifest", "blob"):
                reference = fields.get("reference") or fields["digest"]
                name = fields["repository"] + ("@" if ":" in reference else ":") + reference
                client = fields.get("user_agent", "")
                found.append(Access(fields["method"], fields["kind"], name, int(fields["status"]), client))
        return found

    def missing(self) -> list[dict[str, Any]]:
        """What `larder missing` tells."""
        told = run([self._program, "missing", "--config", str(self._config), "--json"], environment=ENVIRONMENT)
        return [json.loads(line) for line in told.splitlines()]

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
offline = {quote(self._settings.offline)}

[admin]
listen = {quote(self.admin)}

[cache]
dir = {quote(str(self.cache))}
max_size = {quote(self._settings.max_size)}
min_free = "100MB"

[freshness]
tags = {quote(self._settings.freshness)}

[limits]
connections_per_blob = {self._settings.connections}

[timeouts]
stall = {quote(self._settings.stall)}
answer = {quote(self._settings.answer)}
resolve = {quote(self._settings.resolve)}

[log]
level = {quote(self._settings.log)}

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
