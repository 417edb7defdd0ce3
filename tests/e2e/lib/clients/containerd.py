"""containerd, the two ways it pulls: `ctr images pull` with a hosts.toml, and the CRI, which is the kubelet's way."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc

from ..images import Image
from ..process import CommandFailed, Daemon, Isolation
from .base import PULL_TIMEOUT, Client, check_in, verify_blob_files, verify_sums


class Containerd:
    """The daemon, with its own root, socket and hosts.toml."""

    def __init__(self, name: str, directory: Path, isolation: Isolation, mirror: str, programs: Path | None) -> None:
        """`programs` is the root of an unpacked set of packages, or None for the installed one."""
        self.isolation = isolation
        self.root = directory / "root"
        self.mounts = directory / "mnt"
        self.mounts.mkdir(parents=True)
        self.socket = directory / "containerd.sock"
        self.hosts = directory / "hosts"
        (self.hosts / "docker.io").mkdir(parents=True)
        self._mirror = mirror
        self._go_on_at("https://registry-1.docker.io")
        config = directory / "config.toml"
        config.write_text(
            "version = 2\n"
            f'root = "{self.root}"\nstate = "{directory / "state"}"\n'
            f'[grpc]\naddress = "{self.socket}"\n'
            f'[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "{self.hosts}"\n'
            f'[plugins."io.containerd.grpc.v1.cri".cni]\nconf_dir = "{directory / "cni"}"\n'
        )
        self._path = isolation.environment()["PATH"]
        if programs is not None:
            self._path = f"{programs}/usr/bin:{self._path}"
        self.daemon = Daemon(
            name,
            isolation.wrap(["containerd", "--config", str(config)]),
            directory / f"{name}.log",
            environment=isolation.environment({"PATH": self._path}),
        )

    def start(self) -> None:
        """Starts the daemon; returns when it answers."""
        self.daemon.start(self._answers, timeout=60)

    def stop(self) -> None:
        """Ends the daemon."""
        self.daemon.stop()

    @contextlib.contextmanager
    def with_origin(self, address: str) -> Iterator[None]:
        """Meanwhile the registry behind the mirror is at `address`, speaks plain HTTP, and answers."""
        self._go_on_at(f"http://{address}")
        try:
            yield
        finally:
            self._go_on_at("https://registry-1.docker.io")

    def _go_on_at(self, origin: str) -> None:
        """Names the origin, after the mirror. containerd reads this at every pull."""
        mirror = f'[host."http://{self._mirror}"]\ncapabilities = ["pull", "resolve"]\n'
        (self.hosts / "docker.io" / "hosts.toml").write_text(f'server = "{origin}"\n{mirror}')

    def reset(self) -> None:
        """Forgets everything, half-fetched content included, which no command of containerd's does."""
        self.stop()
        shutil.rmtree(self.root)
        self.start()

    def ctr(self, *arguments: str) -> str:
        """Runs containerd's own command-line client."""
        return self.shell(" ".join(["ctr", *arguments]))

    def shell(self, script: str) -> str:
        """Runs shell text, in a mount namespace of its own, in which `ctr` means this daemon."""
        return self.isolation.run(
            ["sh", "-euc", script],
            timeout=PULL_TIMEOUT,
            environment={"PATH": self._path, "CONTAINERD_ADDRESS": str(self.socket)},
        )

    def verify(self, namespace: str, image: Image, reference: str) -> None:
        """What the content store and the snapshots of `namespace` hold is `image`."""
        listed = self.ctr("--namespace", namespace, "images", "list")
        line = next(line for line in listed.splitlines() if line.startswith(f"{reference} "))
        assert image.top.digest in line
        digests = {image.top.digest, image.amd64.manifest.digest, *image.amd64.blobs}
        store = self.root / "io.containerd.content.v1.content" / "blobs" / "sha256"
        verify_blob_files(store, digests)
        target = self.mounts / "image"
        target.mkdir(exist_ok=True)
        ctr = f"ctr --namespace {namespace}"
        sums = self.shell(
            f"{ctr} images mount '{reference}' {target} >/dev/null; {check_in(str(target))}; "
            f"{ctr} images unmount --rm {target} >/dev/null"
        )
        verify_sums(sums, image.amd64)

    def _answers(self) -> bool:
        try:
            plugins = self.ctr("plugins", "list")
        except CommandFailed:
            return False
        rows = (line.split() for line in plugins.splitlines())
        return any(row[:2] == ["io.containerd.grpc.v1", "cri"] and row[-1] == "ok" for row in rows)


class Ctr(Client):
    """`ctr images pull --hosts-dir`."""

    def __init__(self, name: str, containerd: Containerd) -> None:
        self.name = name
        self.containerd = containerd

    def pull(self, reference: str) -> None:
        hosts = str(self.containerd.hosts)
        options = ["--hosts-dir", hosts, "--platform", "linux/amd64"]
        self.containerd.ctr("images", "pull", *options, f"'{reference}'")

    def verify(self, image: Image, reference: str) -> None:
        self.containerd.verify("default", image, reference)

    def clear(self) -> None:
        self.containerd.reset()


class Cri(Client):
    """The CRI's PullImage, as the kubelet calls it. The few fields it needs are encoded by hand."""

    def __init__(self, name: str, containerd: Containerd) -> None:
        self.name = name
        self.containerd = containerd

    def pull(self, reference: str) -> None:
        try:
            self._call("PullImage", _field(1, _field(1, reference.encode())))
        except grpc.RpcError as error:
            raise CommandFailed(["PullImage", reference], 1, str(error)) from error

    def verify(self, image: Image, reference: str) -> None:
        status = self._call("ImageStatus", _field(1, _field(1, reference.encode())))
        assert _field(1, image.amd64.config_digest.encode()) in status
        repo_digest = f"docker.io/{image.repository}@{image.top.digest}"
        assert _field(3, repo_digest.encode()) in status
        self.containerd.verify("k8s.io", image, reference)

    def clear(self) -> None:
        self.containerd.reset()

    def _call(self, method: str, message: bytes) -> bytes:
        with grpc.insecure_channel(f"unix://{self.containerd.socket}") as channel:
            call = channel.unary_unary(f"/runtime.v1.ImageService/{method}")
            answer: bytes = call(message, timeout=PULL_TIMEOUT, wait_for_ready=True)
            return answer


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field of a protocol buffer message."""
    length, size = len(payload), b""
    while length > 0x7F:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + payload
