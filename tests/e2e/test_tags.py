"""A tag that moves upstream moves here, and what it named before stays."""

from __future__ import annotations

import pytest

from conftest import Shelf
from lib import http, images
from lib.clients.base import Client
from lib.hub import Hub
from lib.larder import Larder
from lib.origin import Origin


@pytest.mark.larder(freshness="0s")
def test_a_moved_tag_is_followed_and_the_old_digest_stays(typical: Client, larder: Larder, origin: Origin) -> None:
    """Yesterday's image and today's under one tag; yesterday's is still there by its digest."""
    yesterday = images.multi_platform("library/moving", "latest", seed=100)
    today = images.multi_platform("library/moving", "latest", seed=200)
    origin.push(yesterday)
    typical.fetch(yesterday)
    typical.clear()

    origin.push(today)
    typical.fetch(today)
    typical.clear()
    typical.fetch(yesterday, by_digest=True)


def test_a_fresh_tag_is_served_without_asking(larder: Larder, hub: Hub, origin: Origin) -> None:
    """Within its freshness a tag is what it was, even if it has moved: that is what the operator chose."""
    yesterday = images.multi_platform("library/quiet", "latest", seed=100)
    origin.push(yesterday)
    path = "/v2/library/quiet/manifests/latest"
    assert http.get(larder.address, path).body == yesterday.top.data
    origin.push(images.multi_platform("library/quiet", "latest", seed=200))
    hub.forget()
    again = http.get(larder.address, path)
    assert again.body == yesterday.top.data
    assert again.headers["Docker-Content-Digest"] == yesterday.top.digest
    assert hub.traffic().all == []


@pytest.mark.larder(freshness="0s")
def test_a_rate_limit_upstream_is_not_the_clients_problem(
    typical: Client, larder: Larder, hub: Hub, shelf: Shelf
) -> None:
    """What is cached is served although upstream answers 429 to every request, HEAD included."""
    typical.fetch(shelf.tiny)
    typical.clear()
    hub.refuse(429, retry_after=60)
    typical.fetch(shelf.tiny)


def test_a_rate_limit_on_something_new_is_told_truthfully(larder: Larder, hub: Hub) -> None:
    """No 404, which would be a lie, and no 429, at which containerd and Podman try again and again."""
    hub.refuse(429, retry_after=60)
    answer = http.get(larder.address, "/v2/library/tiny/manifests/1")
    assert answer.status == 503
    assert answer.json()["errors"][0]["code"] == "TOOMANYREQUESTS"
    assert int(answer.headers["Retry-After"]) > 0
