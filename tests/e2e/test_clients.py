"""Every client pulls through Larder, and Larder asks upstream for each thing once."""

from __future__ import annotations

import pytest

from conftest import Shelf
from lib.clients.base import Client
from lib.hub import Hub
from lib.larder import Larder
from lib.process import CommandFailed


def test_without_a_mirror_nothing_can_be_pulled(client: Client, shelf: Shelf) -> None:
    """The control of all other tests: if a client had another way to the image, they would prove nothing."""
    with pytest.raises(CommandFailed):
        client.pull(shelf.tiny.name)


def test_the_second_pull_costs_upstream_nothing(client: Client, larder: Larder, hub: Hub, shelf: Shelf) -> None:
    """Cold, each blob and each manifest is read once; from then on the cache is enough."""
    client.fetch(shelf.tiny)
    cold = hub.traffic()
    assert len(cold.manifest_gets) <= len(shelf.tiny.documents)
    assert cold.repeated_reads == []

    client.clear()
    hub.forget()
    client.fetch(shelf.tiny)
    assert hub.traffic().all == []


def test_every_kind_of_manifest_by_tag_and_by_digest(client: Client, larder: Larder, shelf: Shelf) -> None:
    """Docker's media types as well as OCI's, with an index and without."""
    for image in (shelf.list, shelf.schema2):
        client.fetch(image)
        client.clear()
        client.fetch(image, by_digest=True)


@pytest.mark.larder(freshness="0s")
def test_a_tag_is_checked_without_a_counted_request(client: Client, larder: Larder, hub: Hub, shelf: Shelf) -> None:
    """Docker Hub counts GETs of manifests, not HEADs: checking a tag that did not move is free."""
    client.fetch(shelf.tiny)
    client.clear()
    hub.forget()
    client.fetch(shelf.tiny)
    traffic = hub.traffic()
    assert traffic.manifest_heads, "a tag that is not fresh is checked"
    assert (traffic.manifest_gets, traffic.blob_reads) == ([], [])
