"""How a route reaches the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fastapi import Request

if TYPE_CHECKING:
    from serve_app.api import Service


def service_of(request: Request) -> Service:
    """The service behind the application that answers this request."""
    return cast("Service", request.app.state.service)
