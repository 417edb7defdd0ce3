"""A network of its own from which nothing can be reached: what is sent is neither answered nor refused, but lost."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from .process import run

#: A name server in the dark: questions to it get no answer, nor does anything tell that they will not.
SILENT_NAMESERVER = "192.0.2.53"

#: `CLONE_NEWNET` of setns(2), which Python has as `os.setns` from 3.12 on.
NETWORK_NAMESPACE = 0x4000_0000


class Dark:
    """A network namespace with a loopback of its own, and a way out that leads nowhere."""

    def __init__(self) -> None:
        self._name = f"larder-{os.getpid()}"

    def make(self) -> None:
        """Makes it. Both ends of its one cable are inside, and the far end drops what is not for itself."""
        run(["ip", "netns", "add", self._name])
        nobody = "02:00:00:00:00:01"
        for command in (
            "link set lo up",
            "link add out type veth peer name nowhere",
            "addr add 192.0.2.1/24 dev out",
            "link set out up",
            "link set nowhere up",
            f"neigh add {SILENT_NAMESERVER} lladdr {nobody} dev out nud permanent",
            f"route add default via {SILENT_NAMESERVER} dev out",
        ):
            run(["ip", "-netns", self._name, *command.split()])

    def remove(self) -> None:
        """Removes it, once all that runs in it has ended."""
        run(["ip", "netns", "delete", self._name])

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Meanwhile this thread, and whatever it starts, is in there: requests, daemons, clients."""
        with Path("/proc/thread-self/ns/net").open() as outside:
            with Path("/run/netns", self._name).open() as namespace:
                enter(namespace.fileno())
            try:
                yield
            finally:
                enter(outside.fileno())


def enter(namespace: int) -> None:
    """Moves this thread into the network namespace that a descriptor stands for."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, NETWORK_NAMESPACE) != 0:
        raise OSError(ctypes.get_errno(), "setns")
