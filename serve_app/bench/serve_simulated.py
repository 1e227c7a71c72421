"""What must not depend on the speed of a model, with simulated engines: batches, saturation, poison, clients that leave."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping

import numpy as np

from deployments.audio.encode import open_encoder
from deployments.engines.simulated.engine import POISON, tone
from deployments.errors import fail
from serve_app.bench.frame import Figure, Sheet, at_least, at_most, interleaved, spread
from serve_app.bench.load import (
    SAMPLE_RATE,
    LoadSummary,
    StreamRequest,
    all_at_once,
    closed_loop,
    complete,
    listen,
    ready_report,
    steps_of,
)
from serve_app.bench.running_service import RunningProgram
from serve_app.bench.serve_service import (
    ALL_AT_ONCE,
    CHARACTER_MS,
    CHUNK_MS,
    GATE,
    NO_GATE,
    ONE,
    RequestSource,
    ServePlan,
    summed,
)

GATE_CHARACTERS = 100
APART_S = 0.037
"""Neither a multiple nor a divisor of a step, so that streams do not start in step by chance."""
SATURATED = 16
VANISHING = 100
IDLE_WATCH_S = 1.5

MEAN_GATE, MEAN_NO_GATE = "mean batch, 8 streams apart, gate on", "mean batch, 8 streams apart, gate off"
RATIO_GOOD = "goodput under saturation, batch 8 over batch 1"
RATIO_DONE = "streams completed under saturation, batch 8 over batch 1"
RATIO_FIRST = "first sound p95 under saturation, batch 8 over batch 1"
IDLE = "last step, open utterance, place in the queue or task after 100 clients vanished"
LEAKED = "refused of 200 new clients after 100 vanished"
POISONED, MIXED = "streams changed by a poison beside them", "streams with another's sound, of 200 at once"
FIGURES = (
    Figure(MEAN_GATE, "items", at_least(6)),
    Figure(MEAN_NO_GATE, "items", at_most(2.5)),
    Figure(RATIO_DONE, "x", at_least(5)),
    Figure(RATIO_GOOD, "x", at_least(5)),
    Figure(RATIO_FIRST, "x", at_most(1)),
    Figure(IDLE, "s", at_most(1)),
    Figure(LEAKED, "streams", at_most(0)),
    Figure(POISONED, "of 15", at_most(0)),
    Figure(MIXED, "of 200", at_most(0)),
)


def measure_simulated(sheet: Sheet, plan: ServePlan, service: RunningProgram) -> None:
    """Measures `FIGURES`."""
    asks = RequestSource()
    with sheet.measuring("batches with the gate and without"):
        _measure_gate(sheet, plan, service, asks)
    with sheet.measuring("saturation with batches and without"):
        _measure_saturation(sheet, plan, service, asks)
    with sheet.measuring("a poison among sixteen"):
        asyncio.run(_measure_poison(sheet, service, asks))
    with sheet.measuring("clients that vanish"):
        asyncio.run(_measure_vanishing(sheet, service, asks))
    with sheet.measuring("200 different requests at once, after those that vanished"):
        asyncio.run(_measure_mixing(sheet, service, asks))


def _measure_gate(sheet: Sheet, plan: ServePlan, service: RunningProgram, asks: RequestSource) -> None:
    variants = {model: lambda model=model: asyncio.run(_mean_batch(service, model, asks)) for model in (GATE, NO_GATE)}
    means = interleaved(variants, plan.gate_rounds)
    steps = math.ceil(GATE_CHARACTERS * CHARACTER_MS / CHUNK_MS)
    for name, model in ((MEAN_GATE, GATE), (MEAN_NO_GATE, NO_GATE)):
        each = spread(means[model])
        sheet.put(
            name, each.p50, f"{steps:.0f} steps each, {APART_S * 1000:.0f} ms apart; {plan.gate_rounds} rounds, {each}"
        )


async def _mean_batch(service: RunningProgram, model: str, asks: RequestSource) -> float:
    before = await steps_of(service, model)
    complete(await all_at_once(service, [asks.simulated(model, GATE_CHARACTERS) for _ in range(8)], apart_s=APART_S))
    return _batch_between(before, await steps_of(service, model))


def _batch_between(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    return (after["items"] - before["items"]) / (after["steps"] - before["steps"])


def _measure_saturation(sheet: Sheet, plan: ServePlan, service: RunningProgram, asks: RequestSource) -> None:
    before = asyncio.run(steps_of(service, GATE))
    eight = _saturated(service, plan, lambda: asks.simulated(GATE, 16))
    batch = _batch_between(before, asyncio.run(steps_of(service, GATE)))
    one = _saturated(service, plan, lambda: asks.simulated(ONE, 16))
    done = (eight.completed / eight.seconds) / (one.completed / one.seconds)
    sheet.put(RATIO_DONE, done, f"{SATURATED} clients, mean batch {batch:.1f}: {eight}")
    # Without batches hardly any stream is in time. Counting at least one gives a lower bound of the ratio.
    good = eight.goodput / (max(1, one.good) / one.seconds)
    sheet.put(RATIO_GOOD, good, f"at least; batch 1 had {one.good} without underrun: {one}")
    first = eight.first_ms[1] / one.first_ms[1]
    sheet.put(RATIO_FIRST, first, f"{eight.first_ms[1]:.0f} ms over {one.first_ms[1]:.0f} ms")


def _saturated(service: RunningProgram, plan: ServePlan, next_ask: Callable[[], StreamRequest]) -> LoadSummary:
    return summed(closed_loop(service, SATURATED, plan.saturation_s, next_ask))


async def _measure_poison(sheet: Sheet, service: RunningProgram, asks: RequestSource) -> None:
    clean = [asks.simulated(GATE, 16) for _ in range(16)]
    # Other seeds bypass the cache; the simulated engine makes the same audio for every seed.
    again = [StreamRequest(ask.model, ask.text, ask.seed + 1_000_000) for ask in clean]
    again[7] = StreamRequest(GATE, f"This is {POISON}.", 7)
    without = await all_at_once(service, clean)
    beside = await all_at_once(service, again)
    complete(without)
    if beside[7].complete:
        raise fail("engine", "the poison did not fail")
    pairs = [pair for number, pair in enumerate(zip(without, beside, strict=True)) if number != 7]
    changed = sum(a.pcm != b.pcm for a, b in pairs)
    sheet.put(POISONED, changed, f"byte for byte; the poison itself got status {beside[7].status}")


async def _measure_mixing(sheet: Sheet, service: RunningProgram, asks: RequestSource) -> None:
    """Fails if the clients that left before still hold a place in the replica or seconds of audio in the queue."""
    results = await all_at_once(service, [asks.simulated(GATE, 16) for _ in range(ALL_AT_ONCE)])
    note = f"the replica takes {ALL_AT_ONCE + 1} at once; 850 s of audio may be queued, of which those had 800 s"
    sheet.put(LEAKED, sum(heard.status != 200 for heard in results), note)
    wrong = sum(not same_sound(bytes(heard.pcm), expected_pcm(heard.ask.text)) for heard in complete(results))
    sheet.put(MIXED, wrong, "each compared with the tone of its text")


async def _measure_vanishing(sheet: Sheet, service: RunningProgram, asks: RequestSource) -> None:
    tasks = (await ready_report(service))["gateway"]["tasks"]
    wanted = [asks.simulated(GATE, 120) for _ in range(VANISHING)]
    gone = await asyncio.gather(*(listen(service, ask, leave_after_chunks=2) for ask in wanted))
    left = time.monotonic()
    complete(gone)
    last_busy, last_items = 0.0, -1
    while (now := time.monotonic() - left) < IDLE_WATCH_S:
        report = await ready_report(service)
        replica, queue, gateway = report["models"][GATE], report["queues"][f"{GATE}@cpu"], report["gateway"]
        items, busy = replica["steps"]["items"], replica["open_streams"] or queue["open"] or gateway["tasks"] > tasks
        if items != last_items or busy:
            last_busy, last_items = now, items
        await asyncio.sleep(0.02)
    made = sum(heard.audio_seconds for heard in gone)
    whole = sum(len(heard.ask.text) for heard in gone) * CHARACTER_MS / 1000
    sheet.put(IDLE, last_busy, f"watched for {IDLE_WATCH_S:.0f} s; they had heard {made:.0f} of {whole:.0f} s")


def expected_pcm(text: str) -> bytes:
    """The PCM that the simulated engine makes of a text of one piece."""
    length = int(len(text) * int(CHARACTER_MS / 1000 * SAMPLE_RATE))
    return open_encoder("pcm", SAMPLE_RATE).encode(tone(text, 0, length))


def same_sound(one: bytes, other: bytes) -> bool:
    """Whether two PCM strings differ by at most 1 of 32768, because a sine may be rounded differently."""
    if len(one) != len(other):
        return False
    a, b = (np.frombuffer(pcm, "<i2").astype(np.int32) for pcm in (one, other))
    return int(np.abs(a - b).max(initial=0)) <= 1
