"""Many clients that want the same at once cost the upstream one read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import Shelf
from lib import http
from lib.clients.fleet import Fleet
from lib.hub import Hub
from lib.larder import Larder


# Bytes are counted: what a lane was sent beyond its share, when another one was given that, would be counted twice.
@pytest.mark.larder(connections=1)
def test_a_big_image_for_three_clients_is_read_once(larder: Larder, hub: Hub, clients: Fleet, shelf: Shelf) -> None:
    """dockerd, containerd and podman together; the CDN sends each byte once."""
    crowd = [clients[name] for name in ("dockerd", "cri", "podman")]
    for client in crowd:
        client.clear()
    with ThreadPoolExecutor() as pool:
        pulls = [pool.submit(client.fetch, shelf.big) for client in crowd]
        for pull in pulls:
            pull.result()

    traffic = hub.traffic()
    for digest, blob in shelf.big.blobs.items():
        assert traffic.bytes_of(digest) == len(blob), digest
    assert len(traffic.manifest_gets) == 1
    for client in crowd:
        client.clear()


@pytest.mark.larder(connections=1)
def test_a_late_client_gets_at_once_what_has_come(larder: Larder, hub: Hub, clients: Fleet, shelf: Shelf) -> None:
    """Upstream holds a layer back halfway. A second client reads what is there, and then the rest with the first."""
    layer = max(shelf.big.amd64.layers, key=lambda layer: len(layer.blob))
    half = len(layer.blob) // 2
    first = clients["ctr"]
    first.clear()
    gate = hub.hold(layer.digest, after=half)
    with ThreadPoolExecutor() as pool:
        pull = pool.submit(first.fetch, shelf.big)
        gate.wait_until_held()
        with http.stream(larder.address, f"/v2/library/big/blobs/{layer.digest}") as answer:
            begun = answer.read(half // 2)
            assert not pull.done(), "the layer is complete: nothing was held back"
            gate.release()
            assert begun + answer.read() == layer.blob
        pull.result()
    first.clear()
    assert hub.traffic().bytes_of(layer.digest) == len(layer.blob)
