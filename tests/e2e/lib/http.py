"""A small, literal HTTP client: what the tests say is what goes over the wire, and nothing is followed or decoded."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Response:
    """An answer that was read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def request(
    address: str,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout: float = 30.0,
) -> Response:
    """One request to `host:port` on a connection of its own. A body that ends early raises `IncompleteRead`."""
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        connection.request(method, target, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        return Response(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def get(address: str, target: str, *, timeout: float = 30.0, **headers: str) -> Response:
    """GET with headers given as keywords: `get(mirror, "/v2/", Accept="*/*")`."""
    return request(address, "GET", target, headers=headers, timeout=timeout)


@contextlib.contextmanager
def stream(address: str, target: str, *, timeout: float = 30.0) -> Iterator[http.client.HTTPResponse]:
    """GET whose body is read piece by piece. `timeout` is for the header and for each piece."""
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        assert answer.status == 200, answer.status
        yield answer
    finally:
        connection.close()
