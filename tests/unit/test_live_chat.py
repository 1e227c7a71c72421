"""The client of the chat model: what it sends, how it reads streams, and what it says of every way to fail. No network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from deployments.errors import MotetError
from serve_app.gateway.live.chat import ChatEndpoint, ChatRequest
from serve_app.gateway.live.chat_stream import MAX_LINE_BYTES, AnswerEnd, AnswerPart, CallPart, TextPart
from serve_app.gateway.live.settings import ChatSettings
from tests.unit.jumping_clock import now, run

HELLO = [{"role": "user", "content": "Hello."}]
Handler = Callable[[httpx.Request], httpx.Response]


class Stream(httpx.AsyncByteStream):
    """A body that arrives block by block; a number is a pause in seconds."""

    def __init__(self, *blocks: bytes | float) -> None:
        self.blocks = blocks
        self.sent = 0
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for block in self.blocks:
            if isinstance(block, bytes):
                self.sent += 1
                yield block
            else:
                await asyncio.sleep(block)

    async def aclose(self) -> None:
        self.closed = True


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    return line({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def line(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def endpoint(answer: Handler | Stream, key: str | None = None, **settings: Any) -> ChatEndpoint:
    handler = answer if not isinstance(answer, Stream) else lambda _: httpx.Response(200, stream=answer)
    chat = ChatSettings(base_url="http://chat.example/v1/", model="small", **settings)
    return ChatEndpoint(chat, key, httpx.MockTransport(handler))


async def parts_of(chat: ChatEndpoint, request: ChatRequest | None = None) -> list[AnswerPart]:
    async with aclosing(chat.answer(request or ChatRequest(HELLO))) as parts:
        return [part async for part in parts]


def read(*blocks: bytes | float, **settings: Any) -> list[AnswerPart]:
    return run(lambda: parts_of(endpoint(Stream(*blocks), **settings)))


def failure_of(answer: Handler | Stream, **settings: Any) -> Any:
    with pytest.raises(MotetError) as raised:
        run(lambda: parts_of(endpoint(answer, **settings)))
    return raised.value.failure


def test_the_request_is_openais() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, stream=Stream(chunk(content="Hi."), DONE))

    tools = [{"type": "function", "function": {"name": "add"}}]
    request = ChatRequest(HELLO, tools, "auto", 100)
    run(lambda: parts_of(endpoint(answer, "secret"), request))
    assert str(seen[0].url) == "http://chat.example/v1/chat/completions"
    assert seen[0].headers["authorization"] == "Bearer secret"
    assert json.loads(seen[0].content) == {
        "model": "small",
        "messages": HELLO,
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": tools,
        "tool_choice": "auto",
        "max_tokens": 100,
    }


def test_text_arrives_as_it_is_written() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
    whole = (
        b": a comment\n\n"
        + chunk(role="assistant", content="")
        + chunk(content="Hi ")
        + chunk(content="thére.", reasoning="no")
        + chunk("stop")
        + line(usage)
        + DONE
    )
    expected = [TextPart("Hi "), TextPart("thére."), AnswerEnd("stop", 7, 2)]
    assert read(whole) == expected
    assert read(*(bytes([byte]) for byte in whole)) == expected
    assert read(whole.replace(b"\n", b"\r\n")) == expected
    assert read(whole.removesuffix(DONE).removesuffix(b"\n\n")) == expected, "a server that ends without [DONE]"


def test_an_emoji_that_the_server_cut_in_half_can_be_sent_on() -> None:
    halves = line({"choices": [{"delta": {"content": "Hi \ud83d"}}]}) + chunk("stop") + DONE
    assert rb"\ud83d" in halves
    assert read(halves) == [TextPart("Hi \ufffd"), AnswerEnd("stop")]


def call(index: int | None, arguments: str, name: str | None = None, call_id: str | None = None) -> bytes:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    facts = {key: value for key, value in (("index", index), ("id", call_id)) if value is not None}
    return chunk(tool_calls=[{**facts, "type": "function", "function": function}])


def test_function_calls_are_assembled() -> None:
    parts = read(
        call(0, "", "add", "c0"), call(0, '{"a"'), call(0, ": 1}"), call(1, "{}", "now", "c1"), chunk("tool_calls")
    )
    assert parts == [
        CallPart(0, "c0", "add", ""),
        CallPart(0, "c0", "", '{"a"'),
        CallPart(0, "c0", "", ": 1}"),
        CallPart(1, "c1", "now", "{}"),
        AnswerEnd("tool_calls"),
    ]


def test_calls_without_numbers_are_told_apart_by_their_ids() -> None:
    parts = read(call(None, "{}", "add", "c0"), call(None, "{}", "now", "c1"), DONE)
    assert [part.index for part in parts if isinstance(part, CallPart)] == [0, 1]


def test_calls_without_numbers_and_with_one_id_are_told_apart_by_their_names() -> None:
    parts = read(call(None, "{", "add", "c0"), call(None, "}", None, "c0"), call(None, "{}", "now", "c0"), DONE)
    found = [(part.index, part.name, part.arguments) for part in parts if isinstance(part, CallPart)]
    assert found == [(0, "add", "{"), (0, "", "}"), (1, "now", "{}")]


@pytest.mark.parametrize("first_id", [None, "c0"])
def test_calls_without_numbers_go_on_in_pieces_without_an_id(first_id: str | None) -> None:
    parts = read(call(None, '{"a"', "add", first_id), call(None, ": 1}"), call(None, "{}", "now"), DONE)
    found = [(part.index, part.arguments) for part in parts if isinstance(part, CallPart)]
    assert found == [(0, '{"a"'), (0, ": 1}"), (1, "{}")]


def test_calls_without_numbers_that_repeat_their_name_are_one_until_their_arguments_are_complete() -> None:
    pieces = ('{"a": {"b"', ": 1}", "}", '{"a": 2', "}")
    parts = read(*(call(None, piece, "add", "c0") for piece in pieces), DONE)
    found = [(part.index, part.arguments) for part in parts if isinstance(part, CallPart)]
    assert found == list(zip((0, 0, 0, 1, 1), pieces, strict=True))


def test_a_long_answer_ends() -> None:
    stream = Stream(*(chunk(content="Hello. ") for _ in range(100)))
    parts = run(lambda: parts_of(endpoint(stream, max_answer_characters=20)))
    assert parts == [TextPart("Hello. ")] * 3 + [AnswerEnd("length")]
    assert stream.closed and stream.sent < 10


@pytest.mark.parametrize(
    ("status", "kind", "shown"),
    [(400, "invalid", True), (422, "invalid", True), (401, "unavailable", False), (404, "unavailable", False)]
    + [(429, "overloaded", False), (500, "unavailable", False), (307, "unavailable", False)],
)
def test_refusals_name_cause_and_remedy(status: int, kind: str, shown: bool) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(status, text="the key sk-123 is wrong", headers={"location": "http://elsewhere.example/"})

    failure = failure_of(answer)
    assert (failure.kind, "sk-123" in failure.message) == (kind, shown)
    assert str(status) in failure.cause and failure.remedy
    assert "sk-123" in failure.explained, "the log has the answer"
    assert asked == ["chat.example"], "no redirect is followed"


def test_a_long_refusal_is_cut() -> None:
    assert len(failure_of(lambda _: httpx.Response(400, text="x" * 100_000)).cause) < 5000


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.ReadError("reset")])
def test_a_broken_connection_is_a_failure(error: httpx.HTTPError) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    failure = failure_of(answer)
    assert (failure.kind, failure.code) == ("unavailable", "chat_unavailable")
    assert failure.remedy


def test_a_slow_model_is_given_up() -> None:
    async def test() -> None:
        for blocks, at_s in (((100.0, DONE), 3.0), ((chunk(content="Hi"), 100.0, DONE), 2.0)):
            began, stream = now(), Stream(*blocks)
            with pytest.raises(MotetError) as raised:
                await parts_of(endpoint(stream, first_word_s=3.0, next_word_s=2.0))
            assert (raised.value.failure.kind, now() - began) == ("unavailable", at_s)
            assert stream.closed

    run(test)


@pytest.mark.parametrize(
    "bad",
    [
        b"data: {not json}\n\n",
        b"data: [1]\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        line({"error": {"message": "out of memory"}}),
        b"x" * (MAX_LINE_BYTES + 1),
        b"".join(call(index, "{}", "f", f"c{index}") for index in range(40)),
        call(0, "{}"),
    ],
)
def test_a_stream_that_is_not_an_answer_is_a_failure(bad: bytes) -> None:
    failure = failure_of(Stream(chunk(content="Hi"), bad, DONE))
    assert (failure.kind, failure.code) == ("unavailable", "chat_unreadable")
    assert len(failure.message) < 300


@pytest.mark.parametrize(
    "odd", [{}, {"choices": None}, {"choices": [None]}, {"choices": [{}]}, {"choices": [{"delta": {"content": 3}}]}]
)
def test_odd_chunks_are_passed_over(odd: Any) -> None:
    assert read(line(odd), chunk(content="Hi"), DONE) == [TextPart("Hi"), AnswerEnd("stop")]


def test_closing_an_answer_closes_its_request() -> None:
    async def test() -> None:
        stream = Stream(chunk(content="Hi"), 1000.0)
        parts = endpoint(stream).answer(ChatRequest(HELLO))
        assert await anext(parts) == TextPart("Hi")
        await parts.aclose()
        assert stream.closed

    run(test)
