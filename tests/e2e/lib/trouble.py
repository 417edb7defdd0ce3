"""What can become of an upstream, by a name for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from .hub import Hub

#: Where a registry has no business to send anybody, and Larder does not go.
ASTRAY = "http://169.254.169.254/"

#: Nobody listens; tokens can neither be had nor used; 429, and 6 s to wait; connections are taken and nothing answered;
#: every request is refused, with a challenge; half of all requests are answered 503. And where blobs alone are in
#: trouble: their CDN answers 503, or nothing, or with another byte in what Larder withholds until it has verified all
#: of a layer; the registry does not know them, or sends whoever asks for them where none may be sent.
TROUBLES: Mapping[str, Callable[[Hub], None]] = MappingProxyType(
    {
        "down": Hub.go_down,
        "no-tokens": Hub.lose_the_token_server,
        "limited": lambda hub: hub.refuse(429, retry_after=6),
        "silent": Hub.fall_silent,
        "denied": lambda hub: hub.deny(401),
        "forbidden": lambda hub: hub.deny(403),
        "flapping": Hub.flap,
        "no-cdn": lambda hub: hub.fail_blobs({"answer": {"status": 503}}),
        "silent-cdn": lambda hub: hub.fail_blobs({"hold": {}}),
        "wrong-bytes": lambda hub: hub.fail_blobs({"corrupt": {"offset": 50_000}}),
        "no-blobs": lambda hub: hub.misplace_blobs({"answer": {"status": 404}}),
        "led-astray": lambda hub: hub.misplace_blobs({"answer": {"status": 307, "headers": [["Location", ASTRAY]]}}),
    }
)


def strike(trouble: str, hub: Hub) -> None:
    """Lets it happen, until `Hub.recover`."""
    TROUBLES[trouble](hub)
