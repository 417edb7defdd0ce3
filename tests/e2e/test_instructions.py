"""What a hit costs, in instructions: a figure that neither the machine nor its other work changes."""

from __future__ import annotations

import http.client
from functools import partial
from pathlib import Path

import pytest

from conftest import Shelf, note_figure
from lib.callgrind import Callgrind
from lib.larder import Larder

REQUESTS = 1000

#: About a third more than it is: what is lost in one commit shows in the figure, what is lost in many shows here.
MOST = {"manifest by digest": 36_000, "manifest by tag": 36_000, "small blob": 45_000}


@pytest.mark.larder(log="warn")
def test_a_hit_costs_few_instructions(larder: Larder, shelf: Shelf, room: Path) -> None:
    """In user mode, with all threads of the process, over one connection that is kept."""
    callgrind = Callgrind(room)
    larder.restart(before=callgrind.command())
    config = shelf.tiny.amd64.config_digest
    targets = {
        "manifest by digest": f"/v2/library/tiny/manifests/{shelf.tiny.amd64.manifest.digest}",
        "manifest by tag": "/v2/library/tiny/manifests/1",
        "small blob": f"/v2/library/tiny/blobs/{config}",
    }
    connection = http.client.HTTPConnection(larder.address, timeout=60)

    def ask(target: str, times: int) -> None:
        for _ in range(times):
            connection.request("GET", target)
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200
            assert len(body) == int(response.headers["Content-Length"])

    for what, target in targets.items():
        ask(target, 100)
        count = callgrind.count(larder.pid, partial(ask, target, REQUESTS)) // REQUESTS
        note_figure(f"instructions for a hit, {what}: {count}")
        assert count < MOST[what], what
    connection.close()
