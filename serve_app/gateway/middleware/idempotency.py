"""Answers a request with an `Idempotency-Key` once, however often it is sent.

Jobs have keys of their own, which survive a restart: `gateway/jobs/job_table.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import Failure, MotetError
from serve_app.gateway.errors import error_response
from serve_app.gateway.idempotency.fingerprint import RequestFingerprint
from serve_app.gateway.idempotency.kept_answers import KeptAnswers
from serve_app.gateway.idempotency.key_header import KEY_HEADER, check_key
from serve_app.gateway.idempotency.shared_answer import SharedAnswer
from serve_app.gateway.request_context import DUE, KEY, REQUEST, SERVE_NOW, current_request

PREFIX = "/v1/audio/"
REPLAYED = "idempotent-replayed"
WRONG_EVENT = Failure(
    "invalid",
    "Last-Event-ID does not belong to this request.",
    "Send the id of an event of this Idempotency-Key, or leave the header out to start again.",
    param="Last-Event-ID",
    code="event_id_mismatch",
)


class Idempotency:
    """Makes the answer of the first request with a key, and sends it to all that have the same key, client and body.

    The answer is made to its end when the first client is lost. With `Last-Event-ID`, a client gets the events after that
    one. `client` names the client of a request.
    """

    def __init__(self, app: ASGIApp, answers: KeptAnswers, client: Callable[[HTTPConnection], str]) -> None:
        self._app = app
        self._answers = answers
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        key = headers.get(KEY_HEADER)
        if key is None or scope["method"] != "POST" or not scope["path"].startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        try:
            check_key(key)
            id = self._client(HTTPConnection(scope)), key
            if (known := self._answers.find(id)) is None:
                new = self._answers.new(id, current_request())
                new.begin(self._app, scope, receive, _context())
                await new.send_to(send, receive)
                return
            self._answers.ensure_kept(key, known)
            wanted = await _fingerprint(scope, receive)
            if wanted is None:
                return
            self._answers.ensure_same(key, await known.fingerprint, wanted)
        except MotetError as error:
            await error_response(error.failure)(scope, receive, send)
            return
        if not await self._send_known(known, headers.get("last-event-id"), receive, send):
            await error_response(WRONG_EVENT)(scope, receive, send)

    @staticmethod
    async def _send_known(known: SharedAnswer, after: str | None, receive: Receive, send: Send) -> bool:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": list(message["headers"])}
                MutableHeaders(scope=message)[REPLAYED] = "true"
            await send(message)

        return await known.send_to(marked, receive, after)


async def _fingerprint(scope: Scope, receive: Receive) -> str | None:
    """Reads the body of a repeated request; None if its client left."""
    found = RequestFingerprint(scope)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        found.feed(message.get("body", b""))
        if not message.get("more_body", False):
            return found.digest()


def _context() -> Context:
    """The context of the task that makes an answer: what is known of the request, and nothing of Ray's call. Ray Serve
    cancels everything that belongs to the call of a client that left."""
    context = Context()
    context.run(REQUEST.set, current_request())
    context.run(KEY.set, KEY.get())
    context.run(DUE.set, DUE.get())
    context.run(SERVE_NOW.set, SERVE_NOW.get())
    return context
