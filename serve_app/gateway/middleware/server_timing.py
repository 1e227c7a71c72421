"""The header `Server-Timing` of answers that have a first result: transcriptions, separations and the like."""

from __future__ import annotations

import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.gateway.request_context import RequestRecord, current_request

HEADER = "server-timing"


class ServerTiming:
    """Adds the header (W3C Server Timing, in ms) where a route has set none: `first_result`, from the request to the first
    text or sound, and `total`, to the start of the answer. What is sent afterwards is not in it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                record = current_request()
                if record.first_result_ms is not None and HEADER not in headers:
                    headers[HEADER] = _timing(record)
            await send(message)

        await self._app(scope, receive, timed)


def _timing(record: RequestRecord) -> str:
    total_ms = round((time.perf_counter() - record.started_s) * 1000, 1)
    return f"first_result;dur={record.first_result_ms:g}, total;dur={total_ms:g}"
