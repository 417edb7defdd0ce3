"""What can become of an upstream, by a name for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from .hub import Hub

#: Nobody listens; tokens can neither be had nor used; 429, and 6 s to wait; connections are taken and nothing answered;
#: every request is refused, with a challenge; half of all requests are answered 503.
TROUBLES: Mapping[str, Callable[[Hub], None]] = MappingProxyType(
    {
        "down": Hub.go_down,
        "no-tokens": Hub.lose_the_token_server,
        "limited": lambda hub: hub.refuse(429, retry_after=6),
        "silent": Hub.fall_silent,
        "denied": lambda hub: hub.deny(401),
        "forbidden": lambda hub: hub.deny(403),
        "flapping": Hub.flap,
    }
)


def strike(trouble: str, hub: Hub) -> None:
    """Lets it happen, until `Hub.recover`."""
    TROUBLES[trouble](hub)
