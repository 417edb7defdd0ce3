"""Upstream is gone, its token server and its CDN with it. What was pulled once can still be pulled."""

from __future__ import annotations

import pytest

from conftest import Shelf
from lib import http
from lib.clients.base import Client
from lib.hub import Hub
from lib.larder import Larder
from lib.process import wait_until


@pytest.mark.larder(freshness="0s")
def test_what_is_cached_outlives_the_upstream_and_a_restart(
    client: Client, larder: Larder, hub: Hub, shelf: Shelf
) -> None:
    """By tag and by digest; then Larder starts anew, with nobody upstream to ask, and still has it all."""
    client.fetch(shelf.tiny)
    client.clear()
    hub.go_down()

    for by_digest in (False, True):
        client.fetch(shelf.tiny, by_digest=by_digest)
        client.clear()

    larder.restart()
    for by_digest in (False, True):
        client.fetch(shelf.tiny, by_digest=by_digest)
        client.clear()


def test_something_new_fails_truthfully_and_soon(larder: Larder, hub: Hub, shelf: Shelf) -> None:
    """Not with 404: the image may well exist."""
    hub.go_down()
    answer = http.get(larder.address, "/v2/library/tiny/manifests/1")
    assert answer.status in (502, 503, 504)
    assert answer.json()["errors"]


@pytest.mark.larder(freshness="0s")
def test_half_an_image_is_not_begun(larder: Larder, hub: Hub, shelf: Shelf) -> None:
    """Only the manifest is cached. Podman would take it and then fail at the blobs; refused, it can go elsewhere."""
    path = "/v2/library/tiny/manifests/1"
    assert http.get(larder.address, path).status == 200
    hub.go_down()
    assert http.get(larder.address, path).status in (502, 503, 504)


def test_upstream_comes_back(larder: Larder, hub: Hub, shelf: Shelf) -> None:
    """After an outage Larder finds upstream again without being restarted."""
    hub.go_down()
    path = "/v2/library/tiny/manifests/1"
    assert http.get(larder.address, path).status in (502, 503, 504)
    hub.come_back()
    wait_until(lambda: http.get(larder.address, path).status == 200, "upstream to be asked again", 60)
    assert http.get(larder.address, path).body == shelf.tiny.top.data
