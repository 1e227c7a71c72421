"""Speech events as simple clients read them: line by line with a limit, or split at `data: `."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx
import pytest

from tests.e2e.conftest import PANGRAM, Float, Service, from_int16

TEXT = f"{PANGRAM} {PANGRAM}"
BODY = {"model": "tts-1", "voice": "alloy", "input": TEXT, "response_format": "pcm", "stream_format": "sse"}
READER_LIMIT = 64 * 1024
"""Bytes of a line at which aiohttp, requests of several agents and asyncio's streams stop."""


async def lines(service: Service, **headers: str) -> AsyncIterator[str]:
    """The lines of an answer, read with the limit."""
    async with (
        aiohttp.ClientSession(read_bufsize=READER_LIMIT // 2) as session,  # aiohttp's limit is twice that
        session.post(f"{service.url}/v1/audio/speech", json=BODY, headers=headers) as answer,
    ):
        while line := await answer.content.readline():
            yield line.decode().rstrip("\n")


def sound_of(events: list[dict[str, Any]]) -> bytes:
    return b"".join(base64.b64decode(event.get("audio", "")) for event in events)


@pytest.fixture(scope="module")
def whole(http: httpx.Client) -> bytes:
    """The sound without events."""
    return http.post("/v1/audio/speech", json={**BODY, "stream_format": "audio"}).content


async def test_a_reader_of_lines_with_a_limit_hears_everything(service: Service, whole: bytes) -> None:
    events = [json.loads(line[6:]) async for line in lines(service) if line.startswith("data: ")]
    assert events[-1]["type"] == "speech.audio.done"
    assert sound_of(events) == whole


def test_a_client_that_splits_at_data_hears_everything(http: httpx.Client, whole: bytes, pangram: Float) -> None:
    parts = http.post("/v1/audio/speech", json=BODY).text.split("data: ")[1:]
    events = [json.loads(part.split("\n")[0]) for part in parts]
    assert sound_of(events) == whole
    assert len(from_int16(whole)) > 1.5 * len(pangram)


async def test_a_client_resumes_exactly_after_any_event(service: Service, whole: bytes) -> None:
    first = [line async for line in lines(service)]
    ids = [number for number, line in enumerate(first) if line.startswith("id: ")]
    assert len(ids) > 10
    for number in (ids[0], ids[len(ids) // 2], ids[-1]):
        before = first[: number + 1]
        again = [line async for line in lines(service, **{"Last-Event-ID": first[number].removeprefix("id: ")})]
        events = [json.loads(line[6:]) for line in [*before, *again] if line.startswith("data: ")]
        assert sound_of(events) == whole
