"""The chat model behind conversations: any OpenAI-compatible `/chat/completions`, read while it writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from deployments.errors import MotetError, fail, in_one_line
from deployments.tracing.context import HEADER
from deployments.tracing.spans import below_current, ended
from serve_app.gateway.live.chat_stream import AnswerEnd, AnswerPart, answer_parts
from serve_app.gateway.live.settings import ChatSettings

MAX_ERROR_BYTES = 4096
"""The part of a refusal that is read."""
CHECK_SETTINGS = "The operator of this service can check `realtime.chat` in its configuration."
CONNECTIONS = httpx.Limits(max_connections=1000, max_keepalive_connections=20, keepalive_expiry=30.0)
"""httpx would let the 101st answer wait for a connection. The number of sessions bounds the answers."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a chat model answers: messages in OpenAI's form, functions that it may call, and a bound of its answer."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    max_tokens: int | None = None


class ChatModel(Protocol):
    """Answers conversations."""

    @property
    def instructions(self) -> str:
        """The system message of a session that has no instructions."""

    def answer(self, request: ChatRequest) -> AsyncGenerator[AnswerPart]:
        """The parts of an answer while they are written. The last one is an `AnswerEnd`. Raises `MotetError`."""


class ChatEndpoint:
    """A chat model at an address. Whoever closes an answer closes its request."""

    def __init__(
        self, settings: ChatSettings, key: str | None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._settings = settings
        headers = {"accept-encoding": "identity", **({"authorization": f"Bearer {key}"} if key else {})}
        self._client = httpx.AsyncClient(
            headers=headers,
            follow_redirects=False,  # a redirect could send the key and the conversation to another host
            timeout=max(settings.first_word_s, settings.next_word_s),
            limits=CONNECTIONS,
            transport=transport,
        )

    @property
    def instructions(self) -> str:
        """See `ChatModel`."""
        return self._settings.instructions

    async def answer(self, request: ChatRequest) -> AsyncGenerator[AnswerPart]:
        """See `ChatModel`. Raises `MotetError`: (unavailable), (overloaded), (invalid) for a conversation that
        the model refuses."""
        left = self._settings.max_answer_characters
        wait_s = self._settings.first_word_s
        async with aclosing(self._parts(request)) as parts:
            while True:
                part = await self._within(parts, wait_s)
                yield part
                if isinstance(part, AnswerEnd):
                    return
                wait_s = self._settings.next_word_s
                if (left := left - part.length) <= 0:
                    yield AnswerEnd("length")
                    return

    async def _within(self, parts: AsyncGenerator[AnswerPart], seconds: float) -> AnswerPart:
        try:
            async with asyncio.timeout(seconds):
                return await anext(parts)
        except TimeoutError:
            cause = f"The chat model wrote nothing for {seconds:g} s."
            raise fail("unavailable", cause, f"Try again. {CHECK_SETTINGS}", code="chat_timeout") from None
        except StopAsyncIteration:
            return AnswerEnd("stop")
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            cause = "The connection to the chat model failed."
            detail = in_one_line(error)
            remedy = f"Try again. {CHECK_SETTINGS}"
            raise fail("unavailable", cause, remedy, code="chat_unavailable", detail=detail) from error

    async def _parts(self, request: ChatRequest) -> AsyncGenerator[AnswerPart]:
        url = f"{self._settings.base_url.rstrip('/')}/chat/completions"
        span = below_current("chat", "client")
        trace = {HEADER: span.context.traceparent} if span else {}
        with ended(span):
            async with self._client.stream("POST", url, json=self._body(request), headers=trace) as response:
                if response.status_code != httpx.codes.OK:
                    raise _refusal(response.status_code, await _beginning(response))
                async with aclosing(answer_parts(response.aiter_bytes())) as parts:
                    async for part in parts:
                        yield part

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self._settings.model, "messages": list(request.messages), "stream": True}
        body["stream_options"] = {"include_usage": True}
        if request.tools:
            body["tools"] = list(request.tools)
            if request.tool_choice is not None:
                body["tool_choice"] = request.tool_choice
        if request.max_tokens is not None:
            body["max_tokens"] = request.max_tokens
        return body


async def _beginning(response: httpx.Response) -> str:
    body = b""
    async for block in response.aiter_bytes():
        body += block
        if len(body) >= MAX_ERROR_BYTES:
            break
    return body[:MAX_ERROR_BYTES].decode(errors="replace")


def _refusal(status: int, body: str) -> MotetError:
    """The error for a status other than 200. Clients see the text of an answer only if it is about their conversation: others
    may show addresses and keys."""
    detail = " ".join(body.split())
    if status in (400, 413, 422):
        cause = f"The chat model refused the conversation with status {status}: {detail}"
        return fail("invalid", cause, "Correct the tools or instructions, or delete items.", code="chat_refused")
    if status == 429:
        return fail(
            "overloaded", "The chat model is busy (status 429).", "Try again later.", code="chat_busy", detail=detail
        )
    cause = f"The chat model answered with status {status}."
    return fail("unavailable", cause, CHECK_SETTINGS, code="chat_unavailable", detail=detail)
