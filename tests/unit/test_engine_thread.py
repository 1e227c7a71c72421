"""An engine's calls run one after another on one thread, and a stuck call is detected."""

from __future__ import annotations

import asyncio
import threading

import pytest

from deployments.errors import MotetError
from deployments.replica.engine_thread import EngineThread


async def test_calls_run_in_order_on_one_thread() -> None:
    thread = EngineThread("test")
    seen: list[tuple[int, int]] = []

    def note(number: int) -> None:
        seen.append((number, threading.get_ident()))

    await asyncio.gather(*(thread.run(note, number) for number in range(20)))
    assert [number for number, _ in seen] == list(range(20))
    assert len({ident for _, ident in seen}) == 1
    assert seen[0][1] != threading.get_ident()
    thread.stop()


async def test_what_a_call_raises_reaches_its_caller_only() -> None:
    thread = EngineThread("test")
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 // 0)
    assert await thread.run(lambda: "still here") == "still here"
    thread.stop()


async def test_a_call_that_nobody_waits_for_fails_in_the_log_only(logged: pytest.LogCaptureFixture) -> None:
    thread = EngineThread("test")

    def close() -> None:
        raise ValueError("The slot is not in use.")

    thread.submit(close)
    assert await thread.run(lambda: "still here") == "still here"
    assert "close" in logged.text and "Traceback" in logged.text and "The slot is not in use." in logged.text
    thread.stop()


async def test_a_stuck_call_fails_the_health_check() -> None:
    now = 100.0
    thread = EngineThread("test", clock=lambda: now)
    started, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        started.set()
        go_on.wait()

    call = asyncio.create_task(thread.run(hang))
    await asyncio.to_thread(started.wait)
    thread.check(60.0)
    now = 161.0
    with pytest.raises(MotetError, match="61 s"):
        thread.check(60.0)
    go_on.set()
    await call
    thread.check(60.0)
    assert thread.busy_seconds == 0.0
    thread.stop()
