"""A running service, as the bridge uses it: its lists over HTTP, speech and transcription over WebSockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, NoReturn

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    InvalidHandshake,
    InvalidStatus,
    WebSocketException,
)

from deployments.errors import Failure, Kind, MotetError, fail
from serve_app.wyoming.catalogue import Catalogue

ANSWER_S = 30.0
"""How long the service may take for an answer over HTTP, and to open a WebSocket."""
SPEECH_PATH = "/v1/audio/speech/stream"
KEY_ADVICE = "Set MOTET_API_KEY to a key of the service, and start motet wyoming again."


class RemoteService:
    """The service at `url`, such as http://127.0.0.1:8000.

    Every method raises `MotetError` if the service does not answer, or refuses.
    """

    def __init__(self, url: str, key: str | None, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._url = url.rstrip("/").removesuffix("/v1").rstrip("/")
        if not _is_url(self._url):
            raise fail("invalid", f"{url!r} is not a URL.", "Give one such as http://127.0.0.1:8000.")
        self._http = httpx.AsyncClient(base_url=self._url, headers=self._headers, timeout=ANSWER_S, transport=transport)

    async def close(self) -> None:
        """Closes idle connections."""
        await self._http.aclose()

    async def catalogue(self) -> Catalogue:
        """Its models and voices now."""
        return Catalogue.of(*await asyncio.gather(self._list("/v1/models"), self._list("/v1/audio/voices")))

    async def _list(self, path: str) -> list[Mapping[str, Any]]:
        try:
            answer = await self._http.get(path)
            if answer.is_success:
                listed: list[Mapping[str, Any]] = answer.json()["data"]
                return listed
        except httpx.HTTPError as error:
            raise self._away(error) from error
        except (ValueError, LookupError, TypeError) as error:
            raise self._misread() from error
        raise refused(answer.status_code, answer.text)

    @asynccontextmanager
    async def session(self, path: str) -> AsyncIterator[ServiceSession]:
        """A WebSocket of the service, for as long as the context is open."""
        address = f"ws{self._url.removeprefix('http')}{path}"
        async with AsyncExitStack() as held:
            # What the context raises passes: a connection that breaks there is that of the bridge's client.
            try:
                socket = await held.enter_async_context(
                    connect(address, additional_headers=self._headers, open_timeout=ANSWER_S, max_size=None)
                )
            except InvalidStatus as error:
                body = (error.response.body or b"").decode(errors="replace")
                raise refused(error.response.status_code, body) from error
            except (InvalidHandshake, WebSocketException, OSError, TimeoutError) as error:
                raise self._away(error) from error
            yield ServiceSession(socket)

    def _away(self, error: Exception) -> MotetError:
        cause = f"The service at {self._url} does not answer."
        remedy = "Start it with motet serve, or correct --service of motet wyoming."
        return fail("unavailable", cause, remedy, code="service_unavailable", detail=str(error) or type(error).__name__)

    def _misread(self) -> MotetError:
        cause = f"The service at {self._url} is not a Motet service."
        return fail("unavailable", cause, "Correct --service of motet wyoming.", code="service_unavailable")


class ServiceSession:
    """One WebSocket session. JSON objects go both ways; the service may also send sound as binary messages."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def send(self, **fields: Any) -> None:
        """Sends a message. If the service has closed the session, `messages` says why."""
        with suppress(ConnectionClosed):
            await self._socket.send(json.dumps(fields, ensure_ascii=False))

    async def messages(self) -> AsyncGenerator[bytes | dict[str, Any]]:
        """What the service sends, until it closes. Raises `MotetError` for an error message, and for a session that breaks
        off."""
        try:
            async for message in self._socket:
                if isinstance(message, bytes):
                    yield message
                    continue
                fields = json.loads(message)
                if fields.get("type") == "error":
                    raise MotetError(session_failure(fields.get("error")))
                yield fields
        except ConnectionClosedError:
            ended_early()


def refused(status: int, body: str) -> MotetError:
    """The error in an answer of the service."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, LookupError, TypeError):
        error = None
    return MotetError(_failure(status, error))


def session_failure(error: Any) -> Failure:
    """The error that a session reports."""
    return _failure(503, error)


def ended_early() -> NoReturn:
    """Raises the error for a session that the service ended before its answer was complete."""
    cause = "The service ended the session before its answer was complete."
    raise fail("unavailable", cause, "Try again.", code="service_unavailable")


def _is_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and url.host != ""


_KINDS: Mapping[int, Kind] = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    429: "overloaded",
}


def _failure(status: int, error: Any) -> Failure:
    error = error if isinstance(error, dict) else {}
    message = str(error.get("message") or f"The service answered {status}.")
    advice = KEY_ADVICE if status == 401 else ""
    return Failure(_KINDS.get(status, "unavailable"), message, advice, error.get("param"), error.get("code"))
