"""Runs programs: commands with a deadline, daemons with a log, and both in a world without an internet.

`Isolation` is a private mount namespace in which every registry that a client could fall back to resolves to a
loopback address where nobody listens. A pull that succeeds in it was served by the mirror, every byte of it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

#: Where the names of real registries lead inside an `Isolation`. Nobody listens there.
NOWHERE = "127.66.66.66"

#: Every name under which a client would look for Docker Hub, its token server or its CDN.
REAL_REGISTRIES = (
    "docker.io",
    "index.docker.io",
    "registry-1.docker.io",
    "registry.hub.docker.com",
    "hub.docker.com",
    "auth.docker.io",
    "production.cloudflare.docker.com",
    "production.cloudfront.docker.com",
    "docker-images-prod.6aa30f8b08e16409b46e0173d6de2f56.r2.cloudflarestorage.com",
)


class CommandFailed(AssertionError):
    """A command ended with an error. Its output is the message, so that pytest shows it."""

    def __init__(self, argv: Sequence[str], code: int, output: str) -> None:
        super().__init__(f"`{shlex.join(argv)}` ended with {code}:\n{output}")
        self.output = output


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 20.0) -> None:
    """Polls `condition` until it holds; fails naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:.0f} s in vain for {what}")
        time.sleep(0.02)


def listens(address: str) -> bool:
    """Whether a TCP connection to `host:port` is accepted."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


class Isolation:
    """A private mount namespace per command, whose /etc/hosts and /etc/resolv.conf are the tests' own."""

    def __init__(
        self,
        directory: Path,
        *,
        names: Mapping[str, str] = dict.fromkeys(REAL_REGISTRIES, NOWHERE),
        resolver: str = f"nameserver {NOWHERE}\noptions timeout:1 attempts:1\n",
    ) -> None:
        """`names` have these addresses; for all others, those are asked whom `resolver` names, a resolv.conf."""
        directory.mkdir(parents=True, exist_ok=True)
        self.home = directory / "home"
        self.home.mkdir(exist_ok=True)
        self._hosts = hosts = directory / "hosts"
        self.know(names)
        resolv_conf = directory / "resolv.conf"
        resolv_conf.write_text(resolver)
        self._prefix = (
            "unshare",
            "--mount",
            "--propagation=private",
            "sh",
            "-ec",
            f"mount --bind {shlex.quote(str(hosts))} /etc/hosts; "
            f"mount --bind {shlex.quote(str(resolv_conf))} /etc/resolv.conf; "
            'exec "$@"',
            "isolated",
        )

    def know(self, names: Mapping[str, str]) -> None:
        """From now on these names have these addresses, for what runs already as well, and no others have any."""
        lines = "".join(f"{address} {name}\n" for name, address in names.items())
        # Not another file: what was mounted is this one.
        self._hosts.write_text("127.0.0.1 localhost\n" + lines)

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """`argv` as a command that runs it inside the namespace."""
        return [*self._prefix, *argv]

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """A clean environment: no proxy, no login and no configuration of whoever runs the tests."""
        return {
            "PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
            **(extra or {}),
        }

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 60.0,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Runs a command and returns what it wrote to stdout; raises `CommandFailed` with all it wrote."""
        return run(self.wrap(argv), timeout=timeout, environment=self.environment(environment))


def run(argv: Sequence[str], *, timeout: float = 60.0, environment: Mapping[str, str] | None = None) -> str:
    """Runs a command to its end, or ends its whole process group after `timeout` seconds."""
    process = subprocess.Popen(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise CommandFailed(argv, -signal.SIGKILL, f"no end within {timeout} s\n{out}{err}") from None
    if process.returncode != 0:
        raise CommandFailed(argv, process.returncode, out + err)
    return out


class Daemon:
    """A program that runs until it is stopped. All it says is appended to one log file."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that was started."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the program was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, ready: Callable[[], bool], timeout: float = 20.0) -> None:
        """Starts the program and waits until `ready`; a program that ends before that fails the test."""
        assert not self.running, f"{self.name} runs already"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.argv,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        def ready_or_dead() -> bool:
            assert self.running, f"{self.name} ended at its start:\n{self.tail()}"
            return ready()

        try:
            wait_until(ready_or_dead, f"{self.name} to be ready", timeout)
        except BaseException:
            self.stop()
            raise

    def stop(self, timeout: float = 15.0) -> None:
        """Asks the program to end (SIGTERM), and insists (SIGKILL) after `timeout` seconds."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        """kill -9: the program gets no chance to tidy up."""
        assert self._process is not None, f"{self.name} does not run"
        self._process.kill()
        self._process.wait(10)
        self._process = None

    def tail(self, lines: int = 40) -> str:
        """The end of the log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
