"""The stream of `/chat/completions`: from server-sent events to parts of an answer."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from deployments.errors import clipped, fail
from deployments.json_text import from_json_text

MAX_LINE_BYTES = 256 * 1024
"""The longest line of a stream."""
MAX_CALLS = 32
"""The most function calls of one answer."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """More of the text."""

    text: str

    @property
    def length(self) -> int:
        """Characters."""
        return len(self.text)


@dataclass(frozen=True, slots=True)
class CallPart:
    """More of the arguments of the function call number `index`. Its first part has the name and id."""

    index: int
    call_id: str
    name: str
    arguments: str

    @property
    def length(self) -> int:
        """Characters."""
        return len(self.arguments)


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """The end of an answer: "stop", "tool_calls", "length", "content_filter" or another word of the server; its tokens, where
    the server counts them."""

    reason: str
    input_tokens: int = 0
    output_tokens: int = 0


AnswerPart = TextPart | CallPart | AnswerEnd


async def answer_parts(stream: AsyncIterable[bytes]) -> AsyncGenerator[AnswerPart]:
    """The parts of an answer. Raises `MotetError` (unavailable) for a stream that is not one of chat completions."""
    assembly = _Assembly()
    async with aclosing(_data_lines(stream)) as lines:
        async for line in lines:
            if line == "[DONE]":
                break
            for part in assembly.take(_object(line)):
                yield part
    yield assembly.end()


async def _data_lines(stream: AsyncIterable[bytes]) -> AsyncGenerator[str]:
    """What follows `data:` in each line of server-sent events."""
    held = b""
    async for block in stream:
        *lines, held = (held + block).split(b"\n")
        if len(held) > MAX_LINE_BYTES or any(len(line) > MAX_LINE_BYTES for line in lines):
            raise _unreadable(f"a line of more than {MAX_LINE_BYTES:,} bytes")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip().decode(errors="replace")
    if held.startswith(b"data:"):
        yield held[5:].strip().decode(errors="replace")


def _object(line: str) -> Mapping[str, Any]:
    try:
        found = from_json_text(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _unreadable(f"{clipped(line)!r}")
    if found.get("error"):
        raise _unreadable(f"an error: {clipped(json.dumps(found['error'], ensure_ascii=False))}")
    return found


@dataclass(slots=True)
class _Assembly:
    """What an answer has had so far."""

    reason: str = "stop"
    usage: Mapping[str, Any] = field(default_factory=dict)
    ids: dict[int, str] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    arguments: dict[int, str] = field(default_factory=dict)

    def take(self, chunk: Mapping[str, Any]) -> Iterator[AnswerPart]:
        """The parts in a chunk. Unknown fields are ignored, such as a model's reasoning."""
        self.usage = _mapping(chunk.get("usage")) or self.usage
        for choice in _mappings(chunk.get("choices"))[:1]:
            delta = _mapping(choice.get("delta"))
            if isinstance(text := delta.get("content"), str) and text:
                yield TextPart(text)
            for call in _mappings(delta.get("tool_calls")):
                yield self._call(call)
            self.reason = str(choice.get("finish_reason") or self.reason)

    def end(self) -> AnswerEnd:
        """The end of the answer."""
        counts = (self.usage.get(name) for name in ("prompt_tokens", "completion_tokens"))
        return AnswerEnd(self.reason, *(count if isinstance(count, int) else 0 for count in counts))

    def _call(self, call: Mapping[str, Any]) -> CallPart:
        function = _mapping(call.get("function"))
        call_id, index = str(call.get("id") or ""), call.get("index")
        name, arguments = str(function.get("name") or ""), function.get("arguments") or ""
        if not isinstance(index, int):  # as some servers send calls, whole or in parts
            index = self._index_of(call_id, name)
        if index not in self.ids and len(self.ids) == MAX_CALLS:
            raise _unreadable(f"more than {MAX_CALLS} function calls")
        if index not in self.ids and not name:
            raise _unreadable("a function call without a name")
        self.ids.setdefault(index, call_id)
        self.names.setdefault(index, name)
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        self.arguments[index] = self.arguments.get(index, "") + text
        return CallPart(index, self.ids[index], name, text)

    def _index_of(self, call_id: str, name: str) -> int:
        """The number of a call without one: that of the last call with its id, or without an id of the last call, unless
        another begins. That has a name, and either it is a different one or the arguments of the last call are complete."""
        last = max((number for number, id in self.ids.items() if call_id in ("", id)), default=None)
        begins = last is None or (name and (name != self.names[last] or _is_whole_object(self.arguments[last])))
        return max(self.ids, default=-1) + 1 if last is None or begins else last


def _is_whole_object(text: str) -> bool:
    if not text.rstrip().endswith("}"):
        return False
    try:
        return isinstance(from_json_text(text), dict)
    except (ValueError, RecursionError):
        return False


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _unreadable(what: str) -> Exception:
    cause = f"The chat model's stream has {what}."
    return fail("unavailable", cause, "Check the chat model's log.", code="chat_unreadable")
