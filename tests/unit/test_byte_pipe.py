"""The pipe between the event loop and a decoder is bounded and ordered, and no side waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from deployments.audio.byte_pipe import BytePipe
from deployments.errors import MotetError

TIMEOUT_SECONDS = 20.0


def read_all(pipe: BytePipe, size: int) -> bytes:
    data = b""
    while block := pipe.read(size):
        assert len(block) <= size
        data += block
    return data


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
async def test_bytes_arrive_in_order(size: int) -> None:
    pipe = BytePipe(64, TIMEOUT_SECONDS)
    sent = [bytes([number]) * (number + 1) for number in range(60)]
    reader = asyncio.create_task(asyncio.to_thread(read_all, pipe, size))
    for block in sent:
        await pipe.write(block)
    pipe.end()
    assert await reader == b"".join(sent)


async def test_a_writer_waits_for_room() -> None:
    pipe = BytePipe(10, TIMEOUT_SECONDS)
    await pipe.write(b"0123456789")
    waiting = asyncio.create_task(pipe.write(b"more"))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await asyncio.to_thread(pipe.read, 10) == b"0123456789"
    await waiting
    pipe.end()
    assert await asyncio.to_thread(read_all, pipe, 10) == b"more"


async def test_abort_wakes_both_sides() -> None:
    pipe = BytePipe(4, TIMEOUT_SECONDS)
    reader = asyncio.create_task(asyncio.to_thread(pipe.read, 10))
    pipe.abort()
    with pytest.raises(MotetError, match="stopped"):
        await reader
    full = BytePipe(4, TIMEOUT_SECONDS)
    await full.write(b"full")
    writer = asyncio.create_task(full.write(b"blocked"))
    full.abort()
    await writer
    with pytest.raises(MotetError):
        full.read(1)


async def test_a_silent_writer_is_not_waited_for_for_ever() -> None:
    pipe = BytePipe(4, read_timeout_seconds=0.0)
    with pytest.raises(MotetError, match="stopped before its end"):
        pipe.read(1)
