"""containerd with an origin behind the mirror that answers: whatever becomes of Larder's upstream, no pull fails.
Larder says no soon enough, and in such a way, that containerd goes on there, object by object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from conftest import Shelf
from lib import http, images
from lib.clients.base import Client
from lib.clients.containerd import Cri, Ctr
from lib.clients.fleet import Fleet
from lib.hub import Hub
from lib.images import Image
from lib.larder import Larder
from lib.origin import Origin
from lib.process import CommandFailed
from lib.trouble import strike

pytestmark = pytest.mark.usefixtures("footprint_returns")


@pytest.fixture
def containerds(clients: Fleet, origin: Origin) -> Iterator[list[Client]]:
    """The kubelet's way to containerd 1.6, and `ctr`'s to trixie's, both with the origin behind the mirror."""
    made = [clients["cri"], clients["ctr-trixie"]]
    with ExitStack() as stack:
        for client in made:
            assert isinstance(client, Cri | Ctr)
            client.clear()
            stack.enter_context(client.containerd.with_origin(origin.address))
        yield made
    for client in made:
        client.clear()


def halves() -> Image:
    """library/halves: a layer of which half is enough to be noticed."""
    layers = images.self_checking([{"data/half": images.noise(60, 16 * images.MIB)}], level=0)
    return Image("library/halves", "1", images.platform_image(layers, "amd64"))


def strike_with_one_cached(
    fault: str, hub: Hub, origin: Origin, containerds: list[Client], clients: Fleet, shelf: Shelf
) -> int:
    """The fault comes when Larder has an image, which clients then get from it, every byte. Gives how often these have
    asked the origin so far.
    """
    clients["skopeo"].fetch(shelf.tiny)
    clients["skopeo"].clear()
    before = len(origin.reads_by("containerd"))
    strike(fault, hub)
    for client in containerds:
        client.fetch(shelf.tiny)
    assert origin.reads_by("containerd")[before:] == [], "Larder has all of it"
    return before


@pytest.mark.larder(freshness="0s", answer="6s")
@pytest.mark.parametrize("fault", ["down", "no-tokens", "limited", "silent", "denied", "forbidden", "flapping"])
def test_no_fault_upstream_fails_a_pull(
    fault: str, larder: Larder, hub: Hub, origin: Origin, containerds: list[Client], clients: Fleet, shelf: Shelf
) -> None:
    """What is cached comes from Larder, every byte of it, and what is not from the origin."""
    before = strike_with_one_cached(fault, hub, origin, containerds, clients, shelf)

    seen = len(larder.accesses())
    for client in containerds:
        client.fetch(shelf.schema2)
    if fault == "flapping":
        return
    read = {read.reference for read in origin.reads_by("containerd")[before:]}
    # They have its busybox already, from the other image.
    assert read == {shelf.schema2.top.digest, *shelf.schema2.blobs} - set(shelf.tiny.blobs)
    # At a 429, containerd would have asked five times more for each of them.
    asked = Counter((access.user_agent, access.method, access.name) for access in larder.accesses()[seen:])
    assert set(asked.values()) == {1}, asked
    for kind, digest in (("manifests", shelf.schema2.top.digest), ("blobs", shelf.schema2.amd64.config_digest)):
        refusal = http.get(larder.address, f"/v2/library/schema2/{kind}/{digest}")
        assert refusal.status in (403, 502, 503, 504)
        assert "WWW-Authenticate" not in refusal.headers


@pytest.mark.larder(freshness="0s", answer="6s")
@pytest.mark.parametrize("fault", ["no-cdn", "silent-cdn", "wrong-bytes", "no-blobs", "led-astray"])
def test_no_fault_of_blobs_alone_fails_a_pull(
    fault: str, larder: Larder, hub: Hub, origin: Origin, containerds: list[Client], clients: Fleet, shelf: Shelf
) -> None:
    """Manifests can be had all the while. What is cached comes from Larder, and each other blob from the origin."""
    strike_with_one_cached(fault, hub, origin, containerds, clients, shelf)

    blobs = set(shelf.schema2.blobs) - set(shelf.tiny.blobs)
    for client in containerds:
        before = len(origin.reads_by("containerd"))
        client.fetch(shelf.schema2)
        read = [read.reference for read in origin.reads_by("containerd")[before:] if read.kind == "blobs"]
        assert set(read) <= blobs
        # Where a byte is wrong that no blob of a few hundred has, that one is not.
        assert set(read) == blobs or (fault == "wrong-bytes" and read)
    assert not set(read) & set(larder.blob_digests())


@pytest.mark.larder(stall="1s")
def test_a_layer_that_breaks_in_the_middle_is_gone_on_with_at_the_origin(
    larder: Larder, hub: Hub, origin: Origin, containerds: list[Client]
) -> None:
    """Half of it came from Larder. The rest is asked for with Range: here, where it is refused, and then there."""
    image = halves()
    origin.push(image)
    layer = max(image.amd64.layers, key=lambda layer: len(layer.blob))
    client = containerds[0]
    before = len(origin.reads_by("containerd"))
    hub.withhold(layer.digest, after=len(layer.blob) // 2)
    client.fetch(image)
    (rest,) = origin.reads_by("containerd")[before:]
    assert (rest.reference, rest.status) == (layer.digest, 206)
    of_layer = [access.status for access in larder.accesses() if access.name.endswith(layer.digest)]
    assert of_layer[0] == 200
    assert set(of_layer[1:]) == {503}
    assert layer.digest not in larder.blob_digests()


@pytest.mark.larder(freshness="0s")
def test_what_is_missing_of_an_image_comes_from_the_origin(
    larder: Larder, hub: Hub, origin: Origin, containerds: list[Client], clients: Fleet, shelf: Shelf
) -> None:
    """All but one blob is cached. Podman, which could not go elsewhere for it, is refused the manifest."""
    image = shelf.schema2
    missing = image.amd64.layers[1].digest
    for target in (f"manifests/{image.tag}", *(f"blobs/{digest}" for digest in image.blobs if digest != missing)):
        assert http.get(larder.address, f"/v2/{image.repository}/{target}").status == 200
    hub.go_down()

    refused = http.get(larder.address, f"/v2/{image.repository}/manifests/{image.tag}")
    assert refused.status in (502, 503, 504)
    with pytest.raises(CommandFailed):
        clients["podman"].pull(image.name)
    for client in containerds:
        before = len(origin.reads_by("containerd"))
        client.fetch(image)
        blobs = [read.reference for read in origin.reads_by("containerd")[before:] if read.kind == "blobs"]
        assert blobs == [missing]
