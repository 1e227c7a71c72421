"""The load generator against a scripted server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from serve_app.bench import load_curve
from serve_app.bench.load import BYTES_PER_SECOND, StreamRequest, closed_loop, listen, open_loop, ready_report, summary
from serve_app.bench.running_service import RunningProgram

STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}"
ASK = StreamRequest("m", "Hello.", 1)


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@asynccontextmanager
async def server(answer: Callable[[int], list[bytes | float]]) -> AsyncIterator[RunningProgram]:
    """Answers its n-th connection with bytes and pauses (in seconds)."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        number, count = count, count + 1
        await reader.readuntil(b"\r\n\r\n")
        for part in answer(number):
            if isinstance(part, float):
                await asyncio.sleep(part)
            else:
                writer.write(part)
                await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield RunningProgram("127.0.0.1", listening.sockets[0].getsockname()[1], 0.0)


async def test_the_sound_comes_out_whole_with_its_times() -> None:
    sound = bytes(BYTES_PER_SECOND)
    async with server(lambda _: [STREAM, 0.05, chunk(sound), 0.05, chunk(sound), chunk(b"")]) as service:
        heard = await listen(service, ASK)
    assert heard.good and heard.pcm == 2 * sound
    assert heard.first_s is not None and heard.first_s >= 0.05
    assert heard.audio_seconds == 2.0 and len(heard.gaps_s) == 1


async def test_a_player_that_ran_dry_is_told_and_is_not_good() -> None:
    short = bytes(BYTES_PER_SECOND // 50)
    async with server(lambda _: [STREAM, chunk(short), 0.1, chunk(short), chunk(b"")]) as service:
        heard = await listen(service, ASK)
    assert heard.complete and not heard.good
    assert heard.listener.underruns == 1


@pytest.mark.parametrize("parts", [[STREAM, chunk(b"ab")], [STREAM, b"10\r\nab"], [b"HTTP/1.1 2"], [STREAM]])
async def test_a_stream_that_breaks_off_is_not_complete(parts: list[bytes | float]) -> None:
    async with server(lambda _: parts) as service:
        heard = await listen(service, ASK)
    assert not heard.complete and heard.error
    assert summary([heard], 0.0).failed == 1


async def test_who_vanishes_hears_no_more() -> None:
    async with server(lambda _: [STREAM, chunk(b"ab"), chunk(b"cd"), 60.0]) as service:
        heard = await listen(service, ASK, leave_after_chunks=2)
    assert heard.pcm == b"abcd"


async def test_a_client_that_is_refused_tries_again_and_its_wait_counts_from_the_first_attempt() -> None:
    good: list[bytes | float] = [STREAM, chunk(b"ab"), chunk(b"")]
    started = time.monotonic()
    async with server(lambda number: [BUSY] if number == 0 else good) as service:
        heard = await closed_loop(service, 1, 0.06, lambda: ASK)
    assert [one.status for one in heard[:2]] == [429, 200]
    assert heard[1].first_s is not None and heard[1].first_s >= 0.05
    total = summary(heard, started)
    assert (total.refused, total.failed, total.completed) == (1, 0, len(heard) - 1)


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    async with server(lambda _: [0.3, STREAM, chunk(b"ab"), chunk(b"")]) as service:
        started = time.monotonic()
        heard = await open_loop(service, [ASK] * 20, 1000.0, seed=1)
        assert time.monotonic() - started < 3.0
    assert all(one.complete for one in heard)


async def test_the_report_of_readiness_is_read() -> None:
    body = b'HTTP/1.1 200 OK\r\n\r\n{"status": "ready", "models": {"m": {"ready": true}}}'
    async with server(lambda _: [body]) as service:
        assert (await ready_report(service))["models"] == {"m": {"ready": True}}


async def test_quantiles_of_nothing_are_no_numbers() -> None:
    async with server(lambda _: [BUSY]) as service:
        total = summary([await listen(service, ASK)], 0.0)
    assert total.refused == 1 and total.first_ms[1] != total.first_ms[1]


@pytest.mark.parametrize(("streams_per_second", "verdict"), [(11.9, "met"), (6.0, "not met")])
def test_a_service_that_lost_half_of_its_capacity_does_not_meet_the_targets(
    streams_per_second: float, verdict: str
) -> None:
    (capacity,) = (figure for figure in load_curve.FIGURES if figure.name == load_curve.CAPACITY)
    assert replace(capacity, value=streams_per_second).verdict == verdict
    assert pytest.approx(8 / 0.6) == load_curve.FULL_BATCHES  # four steps of 150 ms
