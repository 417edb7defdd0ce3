"""Real clients through whatever can become of an upstream. What is cached is pulled all the while; what is not fails
soon, and is pulled when the trouble is over.
"""

from __future__ import annotations

import time

import pytest

from conftest import Shelf
from lib import http
from lib.clients.base import Client
from lib.clients.fleet import Crowd, Fleet
from lib.hub import Hub
from lib.larder import Larder
from lib.process import CommandFailed, wait_until
from lib.trouble import strike

pytestmark = pytest.mark.usefixtures("footprint_returns")

#: What a tag that is not cached is answered with, by what has become of the upstream: statuses and code.
REFUSED = {
    "down": ((502,), "UNAVAILABLE"),
    "no-tokens": ((502,), "UNAVAILABLE"),
    "limited": ((503,), "TOOMANYREQUESTS"),
    "silent": ((502, 504), "UNAVAILABLE"),
}


@pytest.mark.larder(freshness="0s", answer="6s")
@pytest.mark.parametrize("fault", ["down", "no-tokens", "limited", "silent"])
def test_clients_get_what_is_cached_and_later_the_rest(
    fault: str, larder: Larder, hub: Hub, clients: Fleet, crowd: Crowd, shelf: Shelf
) -> None:
    """One image was pulled by somebody before, and one is new."""
    cached, new = shelf.tiny, shelf.schema2
    clients["skopeo"].fetch(cached)
    clients["skopeo"].clear()
    strike(fault, hub)

    def gets_the_one_and_not_the_other(client: Client) -> None:
        client.fetch(cached)
        begun = time.monotonic()
        with pytest.raises(CommandFailed) as failed:
            client.pull(new.name)
        assert time.monotonic() - begun < 60, "it fails while its user is still looking"
        assert "not found" not in failed.value.output, "the image may well exist"

    crowd.each(gets_the_one_and_not_the_other)
    refusal = http.get(larder.address, f"/v2/{new.repository}/manifests/{new.tag}")
    statuses, code = REFUSED[fault]
    assert refusal.status in statuses, refusal
    assert refusal.json()["errors"][0]["code"] == code
    assert int(refusal.headers["Retry-After"]) > 0

    hub.recover()
    path = f"/v2/{new.repository}/manifests/{new.tag}"
    wait_until(lambda: http.get(larder.address, path).status == 200, "the upstream to be asked again", 60)
    crowd.each(lambda client: client.fetch(new))


@pytest.mark.larder(freshness="0s")
def test_every_second_answer_is_a_503(larder: Larder, hub: Hub, clients: Fleet, crowd: Crowd, shelf: Shelf) -> None:
    """Nobody notices: neither Podman, containerd and dockerd, which pull what is new, nor who pulls what is cached."""
    for name, new in (("podman", shelf.tiny), ("cri", shelf.schema2), ("dockerd", shelf.list)):
        hub.recover()
        hub.falter()
        clients[name].fetch(new)
        clients[name].clear()
        assert hub.spoiled() > len(new.amd64.blobs), name
    crowd.each(lambda client: client.fetch(shelf.tiny))
