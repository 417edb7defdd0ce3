"""Real clients through whatever can become of an upstream. What is cached is pulled all the while; what is not fails
soon, and is pulled when the trouble is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import Shelf
from lib import http
from lib.clients.base import Client
from lib.clients.fleet import Fleet
from lib.hub import Hub
from lib.larder import Larder
from lib.process import CommandFailed, wait_until

pytestmark = pytest.mark.usefixtures("footprint_returns")

#: A client of each family. Two of the same daemon would clear each other's images.
CROWD = ("podman", "skopeo", "cri", "dockerd", "buildkit-trixie")

#: What a tag that is not cached is answered with, by what has become of the upstream: statuses and code.
REFUSED = {
    "down": ((502,), "UNAVAILABLE"),
    "no-tokens": ((502,), "UNAVAILABLE"),
    "limited": ((503,), "TOOMANYREQUESTS"),
    "silent": ((502, 504), "UNAVAILABLE"),
    "denied": ((403,), "DENIED"),
}


def strike(fault: str, hub: Hub) -> None:
    """Lets it happen, until `Hub.recover`."""
    match fault:
        case "down":
            hub.go_down()
        case "no-tokens":
            hub.lose_the_token_server()
        case "limited":
            hub.refuse(429, retry_after=3)
        case "silent":
            hub.fall_silent()
        case "denied":
            hub.deny(401)
        case _:
            raise KeyError(fault)


def together(crowd: list[Client], work: Callable[[Client], None]) -> None:
    """All of them at the same time; then they forget what they pulled."""
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(work, client) for client in crowd]:
            done.result()
    for client in crowd:
        client.clear()


@pytest.fixture
def crowd(clients: Fleet) -> list[Client]:
    """Clients with empty stores."""
    made = [clients[name] for name in CROWD]
    for client in made:
        client.clear()
    return made


@pytest.mark.larder(freshness="0s", answer="8s")
@pytest.mark.parametrize("fault", ["down", "no-tokens", "limited", "silent"])
def test_clients_get_what_is_cached_and_later_the_rest(
    fault: str, larder: Larder, hub: Hub, clients: Fleet, crowd: list[Client], shelf: Shelf
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

    together(crowd, gets_the_one_and_not_the_other)
    refusal = http.get(larder.address, f"/v2/{new.repository}/manifests/{new.tag}")
    statuses, code = REFUSED[fault]
    assert refusal.status in statuses, refusal
    assert refusal.json()["errors"][0]["code"] == code
    assert int(refusal.headers["Retry-After"]) > 0

    hub.recover()
    path = f"/v2/{new.repository}/manifests/{new.tag}"
    wait_until(lambda: http.get(larder.address, path).status == 200, "the upstream to be asked again", 60)
    together(crowd, lambda client: client.fetch(new))


@pytest.mark.larder(freshness="0s")
@pytest.mark.parametrize("name", CROWD)
def test_every_second_answer_is_a_503(
    name: str, larder: Larder, hub: Hub, clients: Fleet, shelf: Shelf
) -> None:
    """Nobody notices: neither who pulls what is new, nor who pulls what is cached."""
    client = clients[name]
    client.clear()
    hub.flap()
    for _ in range(2):
        client.fetch(shelf.tiny)
        client.clear()
    assert hub.spoiled() > 0
