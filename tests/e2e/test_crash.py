"""Larder is killed in the middle of a fill. Nothing that it left behind is ever taken for the whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import Shelf
from lib.clients.fleet import Fleet
from lib.hub import Hub
from lib.images import MIB, Layer
from lib.larder import Larder

#: Bytes of the big layer that upstream sends before it holds back.
PART = 48 * MIB


def biggest_layer(shelf: Shelf) -> Layer:
    """The layer of library/big that takes its time."""
    return max(shelf.big.amd64.layers, key=lambda layer: len(layer.blob))


@pytest.mark.parametrize("name", ["ctr", "podman"])
def test_killed_in_the_middle_of_a_fill(name: str, larder: Larder, hub: Hub, clients: Fleet, shelf: Shelf) -> None:
    """kill -9 with a part of the big layer there; the next pull is right, and so is every file of the cache."""
    client = clients[name]
    client.clear()
    layer = biggest_layer(shelf)
    gate = hub.hold(layer.digest, after=PART)
    with ThreadPoolExecutor() as pool:
        broken = pool.submit(client.pull, shelf.big.name)
        gate.wait_until_held()
        larder.kill()
        # Nobody serves now, so this pull has to fail, however often the client tries.
        assert broken.exception() is not None
    larder.verify_cache()
    assert layer.digest not in larder.blob_digests()

    gate.release()
    larder.start()
    client.clear()
    client.fetch(shelf.big)
    assert layer.digest in larder.blob_digests()
    larder.verify_cache()
    client.clear()


def test_dockerd_rides_over_a_crash(larder: Larder, hub: Hub, clients: Fleet, shelf: Shelf) -> None:
    """Killed and started again while dockerd reads the big layer: dockerd goes on with Range where it stood."""
    client = clients["dockerd"]
    client.clear()
    layer = biggest_layer(shelf)
    gate = hub.hold(layer.digest, after=PART)
    with ThreadPoolExecutor() as pool:
        pull = pool.submit(client.fetch, shelf.big)
        gate.wait_until_held()
        larder.kill()
        gate.release()
        larder.start()
        pull.result()
    client.clear()


def test_a_damaged_cache_is_not_believed(larder: Larder, clients: Fleet, shelf: Shelf) -> None:
    """A blob at rest that lost its end while Larder was down is fetched again, not served short."""
    client = clients["podman"]
    client.fetch(shelf.tiny)
    client.clear()
    larder.stop()
    layer = shelf.tiny.amd64.layers[0]
    (file,) = (path for path in larder.blob_files() if layer.digest.endswith(path.name))
    file.chmod(0o644)
    with file.open("ab") as damaged:
        damaged.truncate(len(layer.blob) // 2)
    larder.start()
    client.fetch(shelf.tiny)
    client.clear()
