"""Upstream misbehaves while it is read. The client gets right bytes all the same, and does not notice.

The clients are Podman of Debian 12 and curl, for neither ever goes on with a body that ended early.
"""

from __future__ import annotations

import contextlib
from http.client import IncompleteRead

import pytest

from conftest import Shelf
from lib import http
from lib.clients.fleet import Fleet
from lib.hub import Action, Hub
from lib.images import Layer
from lib.larder import Larder
from lib.process import CommandFailed, wait_until

#: Where in the layer it happens.
HALFWAY = 500_000


def layer_of(shelf: Shelf) -> Layer:
    """The first layer of library/tiny: busybox, 1 MB."""
    return shelf.tiny.amd64.layers[0]


def read_as_far_as_it_goes(address: str, target: str) -> bytes:
    """What comes of a body before the connection ends; nothing if there is an error in its place."""
    try:
        answer = http.get(address, target)
    except IncompleteRead as cut:
        return cut.partial
    assert answer.status in (200, 502, 503), answer
    return answer.body if answer.status == 200 else b""


@pytest.mark.larder(stall="1s")
@pytest.mark.parametrize("name", ["podman", "curl"])
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"cut": {"at": HALFWAY, "with": "fin"}}, id="cut"),
        pytest.param({"cut": {"at": HALFWAY, "with": "rst"}}, id="reset"),
        pytest.param({"cut": {"with": "fin"}}, id="closed-unanswered"),
        pytest.param({"hold": {"at": HALFWAY}}, id="stalled"),
        pytest.param({"answer": {"status": 503}}, id="503"),
        pytest.param("chunked", id="no-length"),
    ],
)
def test_a_fault_at_the_cdn_does_not_reach_the_client(
    fault: Action, name: str, larder: Larder, hub: Hub, clients: Fleet, shelf: Shelf
) -> None:
    """One pull, one fault in the middle of it, and the pull succeeds."""
    hub.spoil(layer_of(shelf).digest, fault)
    clients[name].fetch(shelf.tiny)
    clients[name].clear()
    assert hub.spoiled() == 1


def test_after_a_cut_only_the_rest_is_read(larder: Larder, hub: Hub, clients: Fleet, shelf: Shelf) -> None:
    """Larder goes on with Range where the CDN stopped."""
    layer = layer_of(shelf)
    hub.spoil(layer.digest, {"cut": {"at": HALFWAY, "with": "fin"}})
    clients["curl"].fetch(shelf.tiny)
    clients["curl"].clear()
    reads = [request for request in hub.traffic().blob_reads if layer.digest in request.path]
    assert [request.body_bytes for request in reads] == [HALFWAY, len(layer.blob) - HALFWAY]


def test_wrong_bytes_are_neither_completed_nor_kept(larder: Larder, hub: Hub, shelf: Shelf) -> None:
    """One flipped byte at the very end; whoever reads along never gets the whole of it, and the next read is right."""
    layer = layer_of(shelf)
    hub.spoil(layer.digest, {"corrupt": {"offset": len(layer.blob) - 1}})
    target = f"/v2/library/tiny/blobs/{layer.digest}"
    got = read_as_far_as_it_goes(larder.address, target)
    assert len(got) < len(layer.blob)
    assert got == layer.blob[: len(got)], "a byte that upstream got wrong was passed on"
    assert hub.spoiled() == 1
    wait_until(lambda: http.get(larder.address, target).status == 200, "the blob to be fetched anew")
    assert http.get(larder.address, target).body == layer.blob


def test_wrong_bytes_do_not_stick_in_containerd(larder: Larder, hub: Hub, clients: Fleet, shelf: Shelf) -> None:
    """containerd keeps what it got of a broken body and asks for the rest only. All of that was right."""
    client = clients["ctr"]
    client.clear()
    layer = max(shelf.big.amd64.layers, key=lambda layer: len(layer.blob))
    hub.spoil(layer.digest, {"corrupt": {"offset": len(layer.blob) - 1}})
    with contextlib.suppress(CommandFailed):
        client.pull(shelf.big.name)
    assert hub.spoiled() == 1
    # Larder refuses the blob for a few seconds rather than to break it again and again.
    target = f"/v2/library/big/blobs/{layer.digest}"
    wait_until(lambda: http.get(larder.address, target, Range="bytes=0-0").status == 206, "the blob to be had again")
    client.fetch(shelf.big)
    client.clear()


def test_a_revoked_token_is_replaced(larder: Larder, hub: Hub, shelf: Shelf) -> None:
    """Upstream refuses the token that Larder has; Larder gets another one, and nobody notices."""
    first, second = shelf.tiny.amd64.layers[:2]
    assert http.get(larder.address, f"/v2/library/tiny/blobs/{first.digest}").body == first.blob
    hub.revoke_tokens()
    assert http.get(larder.address, f"/v2/library/tiny/blobs/{second.digest}").body == second.blob
