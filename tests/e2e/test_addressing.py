"""Every way in which clients address a mirror leads to the same bytes; and what else the API serves."""

from __future__ import annotations

import json

import pytest

from conftest import Shelf
from lib import http
from lib.hub import Hub
from lib.images import OCI_INDEX
from lib.larder import Larder

#: How dockerd, containerd, Podman, an `override_path` of containerd, and Docker ≥ 25 ask for library/tiny:1.
TARGETS = (
    "/v2/library/tiny/manifests/1",
    "/v2/tiny/manifests/1",
    "/v2/library/tiny/manifests/1?ns=docker.io",
    "/v2/library/tiny/manifests/1?ns=registry-1.docker.io",
    "/v2/docker.io/library/tiny/manifests/1",
    "/v2/docker.io/tiny/manifests/1",
    "/v2/docker.io/library/tiny/manifests/1?ns=docker.io",
    "/docker.io/v2/library/tiny/manifests/1",
)


@pytest.mark.parametrize("target", TARGETS)
def test_each_way_leads_to_the_same_bytes(target: str, larder: Larder, shelf: Shelf) -> None:
    """GET and HEAD, with the headers that clients go by."""
    for method in ("GET", "HEAD"):
        answer = http.request(larder.address, method, target)
        assert answer.status == 200, answer
        assert answer.headers["Docker-Content-Digest"] == shelf.tiny.top.digest
        assert answer.headers["Content-Type"] == OCI_INDEX
        assert answer.headers["Content-Length"] == str(len(shelf.tiny.top.data))
        assert answer.body == (shelf.tiny.top.data if method == "GET" else b"")


def test_all_ways_share_one_cache(larder: Larder, hub: Hub) -> None:
    """However it is asked for, it is read once."""
    for target in TARGETS:
        assert http.get(larder.address, target).status == 200
    assert len(hub.traffic().manifest_gets) == 1


def test_a_prefix_and_an_ns_that_disagree_are_refused(larder: Larder, hub: Hub) -> None:
    """Which of the two was meant is not for a mirror to guess."""
    answer = http.get(larder.address, "/v2/docker.io/library/tiny/manifests/1?ns=ghcr.io")
    assert answer.status == 400
    assert answer.json()["errors"]
    assert hub.traffic().all == []


def test_a_registry_that_is_not_on_the_list_is_never_dialled(larder: Larder) -> None:
    """`ns` is a key to look up, not an address."""
    answer = http.get(larder.address, "/v2/library/tiny/manifests/1?ns=127.0.0.1")
    assert answer.status == 404
    assert answer.json()["errors"][0]["code"] == "NAME_UNKNOWN"


def test_the_base_is_answered_without_upstream(larder: Larder, hub: Hub) -> None:
    """dockerd's and Podman's first question; both leave a mirror that is slow to answer it."""
    hub.go_down()
    answer = http.get(larder.address, "/v2/")
    assert answer.status == 200
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


def test_tags_are_listed_and_paged(larder: Larder, shelf: Shelf) -> None:
    """In lexical order, with a Link that leads on through the mirror."""
    tags = sorted([shelf.signed.tag, *shelf.signed.artifacts])
    base = "/v2/docker.io/library/signed/tags/list"
    assert http.get(larder.address, base).json()["tags"] == tags

    found: list[str] = []
    target: str | None = f"{base}?n=1"
    while target:
        page = http.get(larder.address, target)
        assert page.status == 200
        found += page.json()["tags"]
        link = page.headers["Link"]
        target = link.partition("<")[2].partition(">")[0] if link else None
        assert target is None or target.startswith(base), "the Link stays with the mirror"
    assert found == tags


def test_referrers_by_the_tag_schema(larder: Larder, hub: Hub, shelf: Shelf) -> None:
    """Upstream has no referrers API, and says so with 404. That is passed on, so that clients look for the tag; and
    the tag, the SBOM that it lists and cosign's older signature tag are served like any other, also in an outage.
    """
    subject = shelf.signed.amd64.manifest.digest
    api = http.get(larder.address, f"/v2/library/signed/referrers/{subject}")
    assert api.status == 404

    def walk() -> None:
        listed = http.get(larder.address, f"/v2/library/signed/manifests/{subject.replace(':', '-')}")
        assert listed.status == 200, listed
        (entry,) = json.loads(listed.body)["manifests"]
        referrer = http.get(larder.address, f"/v2/library/signed/manifests/{entry['digest']}")
        document, blobs = shelf.signed.artifacts["sbom"]
        assert referrer.body == document.data
        for digest, blob in blobs.items():
            assert http.get(larder.address, f"/v2/library/signed/blobs/{digest}").body == blob
        signature, _ = shelf.signed.artifacts[f"{subject.replace(':', '-')}.sig"]
        by_cosign = f"/v2/library/signed/manifests/{subject.replace(':', '-')}.sig"
        assert http.get(larder.address, by_cosign).body == signature.data

    walk()
    hub.go_down()
    walk()


def test_ranges_of_a_blob(larder: Larder, shelf: Shelf) -> None:
    """Cold and hot: 206 with exactly what was asked for."""
    layer = shelf.tiny.amd64.layers[1]
    target, size = f"/v2/library/tiny/blobs/{layer.digest}", len(layer.blob)
    for _ in range(2):
        for asked, first, end in (
            ("100-199", 100, 200),
            ("100000-", 100_000, size),
            ("-10", size - 10, size),
        ):
            part = http.get(larder.address, target, Range=f"bytes={asked}")
            assert part.status == 206, part
            assert part.headers["Content-Range"] == f"bytes {first}-{end - 1}/{size}"
            assert part.body == layer.blob[first:end]
    assert http.get(larder.address, target, Range=f"bytes={size}-").status == 416


def test_writing_is_refused(larder: Larder, hub: Hub) -> None:
    """Larder is a mirror: 405, and upstream does not hear of it."""
    for method, target in (
        ("POST", "/v2/library/tiny/blobs/uploads/"),
        ("PUT", "/v2/library/tiny/manifests/2"),
        ("DELETE", "/v2/library/tiny/manifests/1"),
    ):
        answer = http.request(larder.address, method, target)
        assert answer.status == 405, answer
        assert answer.json()["errors"][0]["code"] == "UNSUPPORTED"
    assert hub.traffic().all == []
