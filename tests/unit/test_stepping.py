"""The gate: whoever comes while a step runs is let in together when it ends."""

from __future__ import annotations

import asyncio

import pytest

from deployments.stepping import StepGate


async def test_an_idle_gate_is_open() -> None:
    await asyncio.wait_for(StepGate().wait_until_idle(), 1)


async def test_callers_wait_for_the_step_to_end_and_leave_together() -> None:
    gate = StepGate()
    through: list[int] = []

    async def caller(number: int) -> None:
        await gate.wait_until_idle()
        through.append(number)

    async with gate.step():
        callers = [asyncio.create_task(caller(number)) for number in range(8)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert through == []
    await asyncio.gather(*callers)
    assert through == list(range(8))


async def test_a_step_that_fails_opens_the_gate() -> None:
    gate = StepGate()
    with pytest.raises(RuntimeError):
        async with gate.step():
            raise RuntimeError
    await asyncio.wait_for(gate.wait_until_idle(), 1)
