"""Larder on a machine that has lost the world around it: no name can be looked up and nothing can be reached, or the
clock is wrong by years.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from conftest import TARGET, Shelf, program
from lib import http
from lib.clients.containerd import Cri
from lib.clients.fleet import CROWD, Crowd, Fleet
from lib.hub import Hub
from lib.larder import Larder
from lib.network import SILENT_NAMESERVER, Dark
from lib.origin import Origin
from lib.process import CommandFailed, Isolation, wait_until

pytestmark = pytest.mark.usefixtures("footprint_returns")

#: Where Larder is told to find the registry.
NAME = "registry.example.test"


@pytest.fixture
def dark() -> Iterator[Dark]:
    """A network in which nobody answers."""
    made = Dark()
    made.make()
    yield made
    made.remove()


@pytest.fixture
def lost(dark: Dark, workdir: Path, mirror_address: str) -> Iterator[Fleet]:
    """Clients whose daemons are in there too, with Larder as the only other program."""
    trixie = program("LARDER_TRIXIE", TARGET / "e2e" / "trixie" / "root")
    # Short, and another one for each test.
    home = Path(tempfile.mkdtemp(prefix="lost-", dir=workdir))
    made = Fleet(home, Isolation(workdir / "isolation-of-the-lost"), mirror_address, trixie)
    yield made
    made.stop()


def seconds_for_a_stale_answer(larder: Larder, target: str) -> float:
    """How long it takes to be served what is cached."""
    begun = time.monotonic()
    answer = http.get(larder.address, target)
    assert answer.status == 200
    assert "fwd=stale" in answer.headers["Cache-Status"]
    return time.monotonic() - begun


@pytest.mark.larder(freshness="0s", answer="6s")
def test_names_cannot_be_looked_up(
    larder: Larder, origin: Origin, clients: Fleet, dark: Dark, lost: Fleet, room: Path, shelf: Shelf
) -> None:
    """Larder starts like that. It serves what it has; and what it does not have, as soon as there are names again."""
    clients["skopeo"].fetch(shelf.tiny)
    clients["skopeo"].clear()
    larder.stop()
    # With the patience that a system has by default: Larder's own is shorter.
    world = Isolation(room / "world", names={}, resolver=f"nameserver {SILENT_NAMESERVER}\n")
    _, _, port = origin.address.partition(":")
    cached, new = "/v2/library/tiny/manifests/1", "/v2/library/schema2/manifests/1"
    twin = origin.daemon("origin-in-the-dark")
    with dark.inside():
        larder.start(upstream=f"http://{NAME}:{port}", before=world.wrap([]))
        # The first one waits for 1.5 s, and those after it for nothing; the machine may be busy.
        first, *others = (seconds_for_a_stale_answer(larder, cached) for _ in range(6))
        assert first < 5
        assert min(others) < 0.5
        refused = http.get(larder.address, new)
        assert refused.status in (502, 504)
        assert refused.json()["errors"][0]["code"] == "UNAVAILABLE"

        crowd = Crowd(lost[name] for name in CROWD)
        crowd.each(lambda client: client.fetch(shelf.tiny))
        with pytest.raises(CommandFailed):
            lost["podman"].pull(shelf.schema2.name)

        twin.start(origin.listening)
        try:
            kubelet = lost["cri"]
            assert isinstance(kubelet, Cri)
            with kubelet.containerd.with_origin(origin.address):
                kubelet.fetch(shelf.schema2)
                kubelet.clear()
            assert http.get(larder.address, new).status in (502, 504)
            world.know({NAME: "127.0.0.1"})
            wait_until(lambda: http.get(larder.address, new).status == 200, "the upstream to be found by its name", 60)
            crowd.each(lambda client: client.fetch(shelf.schema2))
        finally:
            twin.stop()


def clock_off_by(years: str) -> dict[str, str]:
    """An environment in which a program takes today for another day, such as `+10y`. Its timers run on."""
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME": years, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@pytest.mark.larder(freshness="0s", answer="6s")
@pytest.mark.parametrize("years", ["+10y", "-1y"])
def test_all_of_that_at_once(
    years: str, larder: Larder, origin: Origin, clients: Fleet, dark: Dark, lost: Fleet, room: Path, shelf: Shelf
) -> None:
    """No names, neither token server nor registry behind them, and another day: it starts, and serves what it has."""
    clients["skopeo"].fetch(shelf.tiny)
    clients["skopeo"].clear()
    larder.stop()
    world = Isolation(room / "world", names={}, resolver=f"nameserver {SILENT_NAMESERVER}\n")
    _, _, port = origin.address.partition(":")
    with dark.inside():
        larder.start(upstream=f"http://{NAME}:{port}", before=world.wrap([]), environment=clock_off_by(years))
        today = parsedate_to_datetime(http.get(larder.address, "/v2/").headers["Date"])
        assert abs(today - datetime.now(UTC)) > timedelta(days=300), "the clock is not off"
        crowd = Crowd(lost[name] for name in CROWD)
        crowd.each(lambda client: client.fetch(shelf.tiny))
        crowd.each(lambda client: client.fetch(shelf.tiny, by_digest=True))
        refused = http.get(larder.address, "/v2/library/schema2/manifests/1")
        assert refused.status in (502, 504)
        assert refused.json()["errors"][0]["code"] == "UNAVAILABLE"

        # Now the name has an address, at which there is nobody.
        world.know({NAME: "127.0.0.1"})
        crowd.each(lambda client: client.fetch(shelf.tiny))


@pytest.mark.parametrize(("years", "off"), [("+10y", timedelta(days=3650)), ("-1y", timedelta(days=-365))])
def test_the_clock_is_wrong(years: str, off: timedelta, larder: Larder, hub: Hub, clients: Fleet, shelf: Shelf) -> None:
    """It starts, serves what it has at the price of one question, and fetches what it does not have. When the clock is
    right again, so is the age of what came meanwhile.
    """
    podman = clients["podman"]
    podman.fetch(shelf.tiny)
    podman.clear()

    def now_it_costs_no_more_than_one_question() -> None:
        hub.forget()
        for _ in range(2):
            podman.fetch(shelf.tiny)
            podman.clear()
        traffic = hub.traffic()
        assert (traffic.manifest_gets, traffic.blob_reads) == ([], [])
        assert len(traffic.manifest_heads) <= 1
        assert sum(request.listener == "token" for request in traffic.all) <= 1

    larder.restart(environment=clock_off_by(years))
    today = parsedate_to_datetime(http.get(larder.address, "/v2/").headers["Date"])
    assert abs(today - datetime.now(UTC) - off) < timedelta(days=9), "the clock is not off"
    now_it_costs_no_more_than_one_question()
    podman.fetch(shelf.schema2)
    podman.clear()

    larder.restart()
    now_it_costs_no_more_than_one_question()
    podman.fetch(shelf.schema2)
    podman.clear()
