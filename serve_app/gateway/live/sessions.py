"""How the gateway opens live sessions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from starlette.websockets import WebSocket

from deployments.errors import Failure
from serve_app.gateway.live.settings import RealtimeSettings
from serve_app.gateway.routing.open_limits import SessionLimit


class ServesClient(Protocol):
    """One live session: see `Session`."""

    async def run(self) -> NoReturn:
        """Serves the client until it leaves. Raises what ends the session."""

    async def end(self, failure: Failure, code: int) -> None:
        """Sends what waits and the failure, and closes the WebSocket."""


@dataclass(frozen=True, slots=True)
class LiveSessions:
    """The live sessions of a gateway replica.

    `open` opens one for a WebSocket: its arguments are the `Service`, of which this is a part, the WebSocket, a
    `SessionConfiguration`, and whether the address names a model.
    """

    settings: RealtimeSettings
    limit: SessionLimit
    open: Callable[[Any, WebSocket, Any, bool], ServesClient]
