"""How a route reaches the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from starlette.requests import HTTPConnection

if TYPE_CHECKING:
    from serve_app.gateway.api import Service


def service_of(connection: HTTPConnection) -> Service:
    """The service behind the application that answers this request or WebSocket."""
    return cast("Service", connection.app.state.service)
