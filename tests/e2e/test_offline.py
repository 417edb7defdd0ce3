"""Larder as it is told to be offline: it serves what it has, for ever, and not one connection leaves it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from conftest import Shelf
from lib import http
from lib.clients.base import Client
from lib.clients.fleet import Crowd, Fleet
from lib.hub import Hub
from lib.larder import Larder
from lib.process import CommandFailed

pytestmark = pytest.mark.usefixtures("footprint_returns")


def traced(record: Path) -> list[str]:
    """A command before Larder's that writes every connection it opens, and every name it looks up, to `record`."""
    return ["strace", "-D", "-f", "-qq", "-e", "trace=connect,sendto,sendmmsg", "-o", str(record)]


def dialled(record: Path) -> list[str]:
    """The addresses of the internet's families in such a record."""
    return [line for line in record.read_text().splitlines() if "sa_family=AF_INET" in line]


@pytest.mark.larder(freshness="0s")
def test_offline_nothing_leaves_the_house(
    crowd: Crowd, larder: Larder, hub: Hub, clients: Fleet, room: Path, shelf: Shelf
) -> None:
    """Pulled online once; then the tag that is never fresh lives on, and what is not here is not there, at once."""
    online, offline = room / "online", room / "offline"
    larder.restart(before=traced(online))
    clients["skopeo"].fetch(shelf.tiny)
    clients["skopeo"].clear()
    larder.restart(offline=True, before=traced(offline))
    assert dialled(online), "strace would have shown a connection"
    hub.forget()

    def gets_the_one_and_not_the_other(client: Client) -> None:
        client.fetch(shelf.tiny)
        with pytest.raises(CommandFailed):
            client.pull(shelf.schema2.name)

    crowd.each(gets_the_one_and_not_the_other)
    absent = ("manifests/absent", f"blobs/{shelf.schema2.amd64.config_digest}")
    began = time.monotonic()
    for target in absent:
        answer = http.get(larder.address, f"/v2/library/schema2/{target}")
        assert answer.status == 404
        assert answer.json()["errors"]
    assert time.monotonic() - began < 2, "nobody is waited for"

    assert hub.traffic().all == []
    # The record is complete when the one who is watched has ended.
    larder.restart()
    assert dialled(offline) == []
    wanted = {(entry["name"], entry["kind"]) for entry in larder.missing()}
    config = f"docker.io/library/schema2@{shelf.schema2.amd64.config_digest}"
    assert wanted >= {
        (shelf.schema2.name, "manifest"),
        ("docker.io/library/schema2:absent", "manifest"),
        (config, "blob"),
    }
