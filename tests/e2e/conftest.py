"""The stage of the end-to-end tests: one origin and one set of clients for all, a hub and a Larder for each test.

Nothing is skipped: a program that is not there fails the test that needs it. `scripts/test e2e` installs and builds
all of them. These may be given in the environment:

    LARDER_BIN       the program under test (default: target/release/larder)
    LARDER_HUB_BIN   the upstream of the test kit (default: target/release/larder-hub)
    LARDER_TRIXIE    root of the unpacked packages of Debian trixie (default: target/e2e/trixie/root)
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lib import images
from lib.clients import fleet
from lib.clients.base import Client
from lib.clients.fleet import Crowd, Fleet
from lib.hub import ALICE, PASSWORD, Hub
from lib.images import Image
from lib.larder import Footprint, Larder, Settings
from lib.origin import Origin
from lib.process import Isolation, free_port, wait_until

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).parents[2] / "target"))


def program(variable: str, default: Path) -> Path:
    """The path that the environment or the build gives; it must be there."""
    path = Path(os.environ.get(variable, default))
    assert path.exists(), f"{path} is not there: build it, or name another by {variable}"
    return path


#: What tests have measured, to be shown at the end.
FIGURES: list[str] = []


def note_figure(figure: str) -> None:
    """Has a figure shown at the end of the run, whether the tests pass or not."""
    FIGURES.append(figure)


def pytest_configure(config: pytest.Config) -> None:
    """Refuses to run while there are tests that nobody would run: `testpaths` names the files, for their order."""
    there = {file.name for file in Path(__file__).parent.glob("test_*.py")}
    if there != set(config.getini("testpaths")):
        difference = ", ".join(sorted(there ^ set(config.getini("testpaths"))))
        raise pytest.UsageError(f"testpaths in pyproject.toml is not what there is: {difference}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows the figures."""
    if FIGURES:
        terminalreporter.section("figures")
        for figure in FIGURES:
            terminalreporter.write_line(figure)


@dataclass(frozen=True)
class Shelf:
    """The images that the origin holds."""

    tiny: Image
    list: Image
    schema2: Image
    big: Image
    signed: Image
    private: Image


@pytest.fixture(scope="session")
def workdir(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder with a short path (sockets, and podman's 50 characters). It stays if a test failed."""
    assert os.geteuid() == 0, "mount namespaces, dockerd and containerd need root"
    directory = Path(tempfile.mkdtemp(prefix="larder-"))
    yield directory
    if request.session.testsfailed:
        print(f"\nThe logs of this run are in {directory}")
    else:
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def shelf() -> Shelf:
    """Every image, built."""
    return Shelf(
        tiny=images.tiny(),
        list=images.manifest_list(),
        schema2=images.schema2(),
        big=images.big(),
        signed=images.signed(),
        private=images.private(f"canary-content-{secrets.token_hex(8)}".encode()),
    )


@pytest.fixture(scope="session")
def origin(workdir: Path, shelf: Shelf) -> Iterator[Origin]:
    """The registry behind the hub, filled."""
    origin = Origin(workdir / "origin")
    origin.start()
    for image in vars(shelf).values():
        origin.push(image)
    yield origin
    origin.stop()


@pytest.fixture(scope="session")
def mirror_address() -> str:
    """Where Larder listens in every test: the address that all clients have as their mirror."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="session")
def clients(workdir: Path, mirror_address: str) -> Iterator[Fleet]:
    """All clients, by name."""
    trixie = program("LARDER_TRIXIE", TARGET / "e2e" / "trixie" / "root")
    made = Fleet(workdir / "clients", Isolation(workdir / "isolation"), mirror_address, trixie)
    yield made
    made.stop()


@pytest.fixture(params=fleet.NAMES)
def client(request: pytest.FixtureRequest, clients: Fleet) -> Iterator[Client]:
    """Each client in turn, with an empty store."""
    made = clients[request.param]
    yield made
    made.clear()


@pytest.fixture(params=["podman", "cri", "dockerd", "buildkit"])
def typical(request: pytest.FixtureRequest, clients: Fleet) -> Iterator[Client]:
    """One client of each family, where the story is more about Larder than about them."""
    made = clients[request.param]
    yield made
    made.clear()


@pytest.fixture
def crowd(clients: Fleet) -> Crowd:
    """One client of each family, with empty stores, to be used together."""
    made = Crowd(clients[name] for name in fleet.CROWD)
    made.clear()
    return made


@pytest.fixture
def room(workdir: Path, request: pytest.FixtureRequest) -> Path:
    """A folder for this test alone, named after it."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    return workdir / "tests" / name.strip("-")


@pytest.fixture
def hub(room: Path, origin: Origin, shelf: Shelf) -> Iterator[Hub]:
    """A Docker Hub over the origin. Whatever the test was about, no credential may have reached the CDN."""
    executable = program("LARDER_HUB_BIN", TARGET / "release" / "larder-hub")
    hub = Hub(executable, origin.address, room / "hub")
    hub.start()
    hub.configure(users={ALICE: PASSWORD}, private={shelf.private.repository: [ALICE]})
    yield hub
    leaked = hub.credentials_at_the_cdn()
    hub.stop()
    assert not leaked


@pytest.fixture
def larder(room: Path, hub: Hub, mirror_address: str, request: pytest.FixtureRequest) -> Iterator[Larder]:
    """A Larder with an empty cache, running. Whatever the test was about, its cache is right and its log discreet."""
    marker = request.node.get_closest_marker("larder")
    settings = Settings(**(marker.kwargs if marker else {}))
    executable = program("LARDER_BIN", TARGET / "release" / "larder")
    larder = Larder(executable, mirror_address, hub.url, room / "larder", settings)
    larder.start()
    yield larder
    confidential = {PASSWORD, *hub.confidential()}
    larder.stop()
    larder.verify_cache()
    larder.verify_log(confidential)


@pytest.fixture
def footprint_returns(larder: Larder) -> Iterator[None]:
    """When the test is over, Larder soon takes no more of the machine than it did before, but for what it may keep:
    memory for what it serves, and connections that may be used again.
    """
    before = larder.footprint()
    yield
    most = Footprint(before.memory + 64_000_000, before.descriptors + 24, 128)

    def is_back() -> bool:
        now = larder.footprint()
        return now.memory <= most.memory and now.descriptors <= most.descriptors and now.contents <= most.contents

    wait_until(is_back, f"Larder to take no more than {most}, when it took {before} before", 45)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    """Shows the end of Larder's and the hub's log with a failure."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for name in ("larder", "hub"):
            shown = item.funcargs.get(name)
            if isinstance(shown, Larder | Hub):
                report.sections.append((f"log of {name}", shown.tail()))
    return report
