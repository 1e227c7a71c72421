"""One line of JSON in the log for each request, and counts of requests and failures by route, model and outcome."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.tracing.context import HEADER as TRACE_HEADER
from deployments.tracing.context import parsed
from deployments.tracing.spans import SPAN, Tracer, TraceSpan
from serve_app.gateway.errors import CLIENT_LEFT
from serve_app.gateway.request_context import REQUEST, RequestRecord

logger = logging.getLogger("ray.serve")

ID_HEADER = "x-request-id"
ANSWER_HEADER = "x-trace-id"
STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")
"""Messages with the headers of an answer."""
API_PREFIX = "/v1"
OTHER_ROUTE = "other"
"""The route of requests that no route matches: metric labels must not hold what clients choose."""


class RequestLog:
    """Creates the `RequestRecord` and the trace of each request and WebSocket, and logs it when the request ends.

    Requests outside `/v1` (the page, health checks) are logged only if they fail. A request whose client disconnects has
    status 499, as in nginx. `count` gets the record, its route and its status. Without a `tracer`, the id of the client's
    trace is in the log and in the answer all the same."""

    def __init__(
        self,
        app: ASGIApp,
        count: Callable[[RequestRecord, str, int], None],
        tracer: Tracer | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._app = app
        self._count = count
        self._tracer = tracer
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        started_s = self._clock()
        method, headers = scope.get("method", "WEBSOCKET"), Headers(scope=scope)
        span, trace_id = self._traced(headers, scope["path"])
        record = RequestRecord(headers.get(ID_HEADER, ""), trace_id, method, scope["path"])
        REQUEST.set(record)
        SPAN.set(span)
        outcome = _RequestOutcome(trace_id)
        try:
            await self._app(scope, outcome.watched_receive(receive), outcome.watched_send(send))
        except asyncio.CancelledError:
            outcome.status = CLIENT_LEFT
            raise
        finally:
            self._log(record, scope, outcome.status, self._clock() - started_s)
            if span is not None:
                _end(span, record, _route_of(scope), outcome.status)

    def _traced(self, headers: Headers, path: str) -> tuple[TraceSpan | None, str | None]:
        """The span of a request and the id of its trace, if it has them."""
        context = parsed(sent) if (sent := headers.get(TRACE_HEADER)) else None
        span = self._tracer.request(context) if self._tracer and path.startswith(API_PREFIX) else None
        if span is not None:
            return span, span.context.trace_id
        return None, context.trace_id if context else None

    def _log(self, record: RequestRecord, scope: Scope, status: int, seconds: float) -> None:
        route = _route_of(scope)
        self._count(record, route, status)
        if not record.path.startswith(API_PREFIX) and status < 400:
            return
        fields = {
            "id": record.id,
            "trace_id": record.trace_id,
            "route": f"{record.method} {route if route != OTHER_ROUTE else record.path}",
            "model": record.model,
            "placement": record.placement,
            "status": status,
            "failure": record.failure,
            "first_sound_ms": record.first_sound_ms,
            "first_result_ms": record.first_result_ms,
            "total_ms": round(seconds * 1000, 1),
            "seconds_of_audio": record.seconds_of_audio,
            "finish_reason": record.finish_reason,
        }
        logger.info("%s", json.dumps({name: value for name, value in fields.items() if value is not None}))


def _route_of(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", OTHER_ROUTE))


def _end(span: TraceSpan, record: RequestRecord, route: str, status: int) -> None:
    """Ends the span of a request with what the log says about it."""
    span.set_http(f"{record.method} {route}", record.method, route, status)
    span.set(
        request_id=record.id or None,
        model=record.model,
        placement=record.placement,
        first_sound_ms=record.first_sound_ms,
        first_result_ms=record.first_result_ms,
        seconds_of_audio=record.seconds_of_audio,
        finish_reason=record.finish_reason,
    )
    if record.failure is not None:
        span.fail(record.failure)
    span.end()


class _RequestOutcome:
    """The status of one request, read from its ASGI messages. A WebSocket has 101 once accepted, then its close code. The
    answer gets the id of its trace."""

    def __init__(self, trace_id: str | None = None) -> None:
        self.status = 500
        self._trace_id = trace_id
        self._ended = False

    def watched_receive(self, receive: Receive) -> Receive:
        async def watched() -> Message:
            message = await receive()
            if not self._ended and message["type"] == "http.disconnect":
                self.status, self._ended = CLIENT_LEFT, True
            elif not self._ended and message["type"] == "websocket.disconnect":
                self.status, self._ended = int(message.get("code") or 1005), True
            return message

        return watched

    def watched_send(self, send: Send) -> Send:
        async def watched(message: Message) -> None:
            if not self._ended:
                self._note(message)
            if self._trace_id and message["type"] in STARTS:
                MutableHeaders(scope=message)[ANSWER_HEADER] = self._trace_id
            await send(message)

        return watched

    def _note(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self.status = int(message["status"])
            case "http.response.body":
                self._ended = not message.get("more_body", False)
            case "websocket.accept":
                self.status = 101
            case "websocket.close":
                self.status, self._ended = int(message.get("code") or 1000), True


def replace_access_log() -> None:
    """Drops Ray Serve's own access log lines in this process, which have no route, model or failure.

    Ray Serve 2.60 has a setting for that, which also removes the request id from all other lines.
    """
    logger.addFilter(lambda record: not getattr(record, "serve_access_log", False))
