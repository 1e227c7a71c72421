"""What the request that is served here is called: its id, which its client can report, and its method and path."""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger("ray.serve")

ID_HEADER = "x-request-id"


@dataclass(frozen=True, slots=True)
class RequestName:
    """`id` is the header x-request-id: the client's own, or the one that Ray Serve gave the request; empty without Ray
    Serve. `what` is like "POST /v1/audio/speech"."""

    id: str = ""
    what: str = "A request"


UNNAMED = RequestName()
REQUEST: ContextVar[RequestName] = ContextVar("REQUEST", default=UNNAMED)
"""The request that is served here."""


class NamesRequests:
    """Sets `REQUEST` for everything that serves a request, and logs one line when its client leaves.

    Ray Serve 2.60 leaves such requests out of its access log when calls to replicas are under way: cancelling one changes
    the dictionary of them over which it iterates.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] in ("http", "websocket"):
            what = f"{scope.get('method', 'WEBSOCKET')} {scope['path']}"
            REQUEST.set(RequestName(Headers(scope=scope).get(ID_HEADER, ""), what))
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            logger.info("%s: the client left.", REQUEST.get().what)
            raise
