"""How content goes out: in segments that are full, which is what each of its bytes costs least in."""

from __future__ import annotations

import http.client
import socket
import struct

import pytest

from conftest import Shelf, note_figure
from lib.larder import Larder

REQUESTS = 100

#: Loopback has an MTU of 64 KiB, of which headers take some.
SEGMENT = 65_483


def segments_received(connection: http.client.HTTPConnection) -> int:
    """With data in them, so far (`tcpi_data_segs_in` in linux/tcp.h)."""
    info = connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(struct.unpack_from("=I", info, 152)[0])


@pytest.mark.larder(log="warn")
def test_a_blob_goes_out_in_full_segments(larder: Larder, shelf: Shelf) -> None:
    """Each acknowledgement that comes meanwhile would else send what there is of the next one."""
    layer = next(layer for layer in shelf.big.amd64.layers if 1 << 20 <= len(layer.blob) <= 16 << 20)
    size = len(layer.blob)
    connection = http.client.HTTPConnection(larder.address, timeout=60)

    def read() -> None:
        connection.request("GET", f"/v2/library/big/blobs/{layer.digest}")
        response = connection.getresponse()
        assert response.status == 200
        assert len(response.read()) == size

    read()
    before = segments_received(connection)
    for _ in range(REQUESTS):
        read()
    count = (segments_received(connection) - before) / REQUESTS
    # The last one is what is left.
    full = size // SEGMENT + 1
    note_figure(f"segments for a hit, blob of {size} bytes: {count:.2f} ({full} if all are full)")
    assert count <= full * 1.05, f"{count} segments, and not {full}"
    connection.close()
