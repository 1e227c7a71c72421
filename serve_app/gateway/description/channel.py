"""How the route of a WebSocket says what its client sends and gets. `asyncapi.py` makes the description from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from serve_app.gateway.description.schemas import Tag

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """The messages of a WebSocket. `id` names it in a generated client; `received` and `sent` are the types of the JSON that
    the service receives and sends, each a pydantic model or a `TypedDict` with a field `type`."""

    id: str
    tag: Tag
    received: tuple[type[Any], ...]
    sent: tuple[type[Any], ...]
    received_bytes: str = ""
    """What a binary message of the client contains; empty if it sends none."""
    sent_bytes: str = ""
    """What a binary message of the service contains; empty if it sends none."""
    query: Mapping[str, str] = field(default_factory=dict)
    """The fields of the address and what they mean."""
    example: tuple[Mapping[str, Any] | str, ...] = ()
    """Messages of a client that work, in order. A text stands for a binary message."""


_CHANNELS: dict[Callable[..., Any], Channel] = {}


def channel(messages: Channel) -> Callable[[Endpoint], Endpoint]:
    """Says what an endpoint of a WebSocket sends and receives. Stands under `@router.websocket`."""

    def noted(endpoint: Endpoint) -> Endpoint:
        _CHANNELS[endpoint] = messages
        return endpoint

    return noted


def channel_of(endpoint: Callable[..., Any]) -> Channel | None:
    """What an endpoint said of itself; None if nothing."""
    return _CHANNELS.get(endpoint)
