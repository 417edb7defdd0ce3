"""What is private stays private, and a credential goes where the operator sent it and nowhere else."""

from __future__ import annotations

import pytest

from conftest import Shelf
from lib import http
from lib.clients.base import Client
from lib.clients.fleet import Fleet
from lib.hub import ALICE, PASSWORD, Hub
from lib.images import PlatformImage
from lib.larder import Larder
from lib.process import CommandFailed


def contents(image: PlatformImage) -> list[bytes]:
    """Everything of an image that must not be seen."""
    return [image.manifest.data, *image.blobs.values()]


def test_a_private_image_is_refused_to_everyone_without_a_credential(
    typical: Client, larder: Larder, shelf: Shelf
) -> None:
    """Larder asks upstream anonymously here, upstream refuses, and so does Larder."""
    with pytest.raises(CommandFailed):
        typical.pull(shelf.private.name)
    assert larder.blob_files() == []


def test_the_refusal_is_plain(larder: Larder, shelf: Shelf) -> None:
    """403 DENIED, not upstream's challenge: dockerd would answer that with its user's Docker Hub login."""
    image = shelf.private
    targets = [f"manifests/{image.tag}", f"manifests/{image.top.digest}"]
    targets += [f"blobs/{digest}" for digest in image.blobs]
    for target in targets:
        answer = http.get(larder.address, f"/v2/{image.repository}/{target}")
        assert answer.status == 403, (target, answer)
        assert answer.json()["errors"][0]["code"] == "DENIED"
        assert "WWW-Authenticate" not in answer.headers
        assert not any(content in answer.body for content in contents(image.amd64))


@pytest.mark.larder(username=ALICE, password=PASSWORD)
def test_a_digest_is_no_key_to_another_repository(larder: Larder, shelf: Shelf) -> None:
    """What may be read is decided by repository. That a private blob lies in the cache opens no other way to it."""
    image = shelf.private
    blob = image.amd64.layers[1].digest
    assert http.get(larder.address, f"/v2/{image.repository}/manifests/{image.tag}").status == 200
    assert http.get(larder.address, f"/v2/{image.repository}/blobs/{blob}").status == 200
    for target in (f"blobs/{blob}", f"manifests/{image.top.digest}"):
        answer = http.get(larder.address, f"/v2/library/tiny/{target}")
        assert answer.status == 404, (target, answer)


@pytest.mark.larder(username=ALICE, password=PASSWORD)
def test_the_operators_credential_opens_what_it_may(larder: Larder, hub: Hub, clients: Fleet, shelf: Shelf) -> None:
    """With a credential, and the operator's word that everyone may use it, clients pull the private image."""
    for name in ("dockerd", "cri", "podman"):
        clients[name].fetch(shelf.private)
        clients[name].clear()
    assert any(request.path == "/token" and request.authorization for request in hub.requests())


def test_a_clients_own_login_is_ignored_and_forgotten(larder: Larder, hub: Hub, shelf: Shelf) -> None:
    """dockerd sends its Docker Hub login to mirrors. It neither opens anything here, nor harms, nor is passed on."""
    canary = "Basic Y2FuYXJ5OmNhbmFyeS1vZi1hLWNsaWVudA=="
    public = http.get(larder.address, "/v2/library/tiny/manifests/1", Authorization=canary)
    assert public.status == 200
    private = http.get(larder.address, f"/v2/{shelf.private.repository}/manifests/1", Authorization=canary)
    assert private.status == 403
    assert all(request.authorization != canary for request in hub.requests())
    assert canary.split()[1] not in larder.log.read_text()
