"""What Larder says of itself is true: metrics agree with what upstream saw, and `Cache-Status` with what happened."""

from __future__ import annotations

import pytest

from conftest import Shelf
from lib import http
from lib.clients.fleet import Fleet
from lib.hub import Hub
from lib.larder import Larder

MANIFEST = "/v2/library/tiny/manifests/1"


def test_the_metrics_agree_with_upstream(larder: Larder, hub: Hub, clients: Fleet, shelf: Shelf) -> None:
    """Pulled twice: once from upstream, once from the cache."""
    hub.configure(rate_limit={"limit": 100})
    for _ in range(2):
        clients["curl"].fetch(shelf.tiny)
        clients["curl"].clear()

    metrics = larder.metrics()
    blobs = len(shelf.tiny.amd64.blobs)
    assert metrics['larder_requests_total{kind="blob",cache="miss"}'] == blobs
    assert metrics['larder_requests_total{kind="blob",cache="hit"}'] == blobs
    assert metrics["larder_cache_blobs"] == len(larder.blob_files())

    traffic = hub.traffic()
    received = sum(request.body_bytes for request in traffic.blob_reads + traffic.manifest_gets)
    assert metrics['larder_upstream_received_bytes_total{upstream="docker.io"}'] == received
    remaining = metrics['larder_upstream_ratelimit_remaining{upstream="docker.io"}']
    assert remaining == 100 - len(traffic.manifest_gets)


def test_cache_status_tells_a_miss_from_a_hit(larder: Larder) -> None:
    """RFC 9211: an answer that was fetched says so, and so does one that was not."""
    assert "fwd=" in http.get(larder.address, MANIFEST).headers["Cache-Status"]
    assert http.get(larder.address, MANIFEST).headers["Cache-Status"] == "larder; hit"


@pytest.mark.larder(freshness="0s")
def test_cache_status_tells_that_an_answer_is_stale(larder: Larder, hub: Hub, clients: Fleet, shelf: Shelf) -> None:
    """Served without upstream's word, and said so."""
    clients["curl"].fetch(shelf.tiny)
    clients["curl"].clear()
    hub.go_down()
    status = http.get(larder.address, MANIFEST).headers["Cache-Status"]
    assert "fwd=stale" in status, status


def test_it_lives_and_is_ready_while_upstream_is_away(larder: Larder, hub: Hub) -> None:
    """An orchestrator must not restart, or take out of service, what can serve its cache."""
    hub.go_down()
    http.get(larder.address, MANIFEST)
    for probe in ("/livez", "/readyz"):
        assert http.get(larder.admin, probe).status == 200
