"""How the service behaves with many listeners: batching, saturation, overload, clients that vanish, requests that fail.

One real service with simulated engines (50 ms a step for any batch), for what must not depend on how fast a model is, and
with hibari. All requests come over HTTP from this process, to one model at a time.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from deployments.audio.encode import open_encoder
from deployments.engines.simulated.engine import POISON, tone
from deployments.errors import fail
from serve_app import profiles
from serve_app.bench.all_cores import measure_cores, texts
from serve_app.bench.fast_clients import measure_fast
from serve_app.bench.frame import Figure, Report, Sheet, at_least, at_most, carry_out, interleaved, spread
from serve_app.bench.load import (
    SAMPLE_RATE,
    Ask,
    Heard,
    Summary,
    all_at_once,
    closed_loop,
    complete,
    listen,
    open_loop,
    quantile,
    ready_report,
    steps_of,
    summary,
)
from serve_app.bench.running_service import RunningProgram, running_service
from serve_app.bench.sentences import SENTENCES
from serve_app.config import DEFAULT_MODELS
from serve_app.gateway.settings import PRESETS

PICTURE = Path("out/bench-serve.png")
GATE, NO_GATE, ONE = "simulated", "simulated-no-gate", "simulated-batch-1"
PATIENT = "hibari-default"
"""hibari with the default settings, whose clients are not refused in a test of how long they wait."""
CHARACTER_MS = 60.0
"""Of sound in simulated speech."""
CHUNK_MS = 320.0
"""Of sound that a step of a simulated engine brings."""
GATE_CHARACTERS = 100
APART_S = 0.037
"""No multiple or part of a step, so that streams do not fall into step by chance."""
SATURATED = 16
VANISHING = 100
ALL_AT_ONCE = 200
IDLE_WATCH_S = 1.5
MAX_WAIT_S = 0.07
"""How long an accepted request's first sound may be predicted to wait in the overload test."""
SPARE = 1.2
"""More requests at 70 % than streams that must be heard: such a short bound on the wait refuses some of a burst."""
SHARE, OVERLOAD = 0.7, 3.0
SHORT_SENTENCES = [sentence for sentence in SENTENCES if len(sentence) < 85]
"""Of two to six seconds, so that a short run does not depend on which sentence comes last."""
PRESET_S = 3.0

MEAN_GATE, MEAN_NO_GATE = "mean batch, 8 streams apart, gate on", "mean batch, 8 streams apart, gate off"
RATIO_GOOD = "goodput under saturation, batch 8 over batch 1"
RATIO_DONE = "streams completed under saturation, batch 8 over batch 1"
RATIO_FIRST = "first sound p95 under saturation, batch 8 over batch 1"
FAST_8 = "hibari, first byte p95, 8 clients as fast as they can over 1"
ALL_CORES = "hibari, capacity with all cores over one thread"
FIRST_8 = "hibari, first sound p95, 8 listeners over 1"
CAPACITY = "hibari, capacity, 8 clients without a pause"
UNDERRUNS = "hibari, underruns at 70 % of capacity"
FIRST_70, FIRST_3X = "hibari, first sound p95 at 70 %", "hibari, first sound p95 of accepted, 3x over 70 %"
HEARD_70 = "hibari, streams heard to the end at 70 %"
REFUSED_70 = "hibari, refused with 429 at 70 %"
REFUSED, FAILED = "hibari, refused with 429 at 3x", "hibari, neither answered nor refused, 70 % and 3x"
PRESET_FIGURES: tuple[tuple[Callable[[str], str], str], ...] = (
    ("pacing {}, first sound p95".format, "ms"),
    ("pacing {}, underruns".format, "in all"),
    ("pacing {}, ahead of playback at most".format, "s of sound"),
)
IDLE = "last step, open utterance, place in the queue or task after 100 clients vanished"
LEAKED = "refused of 200 new clients after 100 vanished"
POISONED, MIXED = "streams changed by a poison beside them", "streams with another's sound, of 200 at once"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. Times in seconds."""

    gate_rounds: int
    core_rounds: int
    core_s: float
    fast_rounds: int
    fast_s: float
    saturation_s: float
    single_streams: int
    listeners_s: float
    capacity_s: float
    streams: int
    overload_s: float
    preset_rounds: int
    curve: tuple[float, ...]


QUICK = Plan(1, 3, 0.6, 1, 4.0, 1.5, 10, 1.0, 1.5, 30, 2.0, 0, ())
FULL = Plan(3, 7, 2.0, 3, 10.0, 6.0, 60, 25.0, 6.0, 200, 6.0, 3, (0.4, 0.9, 1.5))


def run(quick: bool, compare: bool = False) -> Report:
    """Measures everything; `quick` takes fewer streams, compares the presets only when told to, and draws no curve."""
    plan = replace(QUICK, preset_rounds=1) if quick and compare else QUICK if quick else FULL

    def measure(sheet: Sheet) -> None:
        with sheet.measuring("all cores and one thread"):
            measure_cores(sheet, ALL_CORES, plan.core_rounds, plan.core_s)
        with sheet.measuring("starting the service"), service_of(config()) as service:
            _measure_simulated(sheet, plan, service)
            _measure_hibari(sheet, plan, service)

    return carry_out("serve", _wanted(plan), measure, quick=quick)


def _wanted(plan: Plan) -> list[Figure]:
    return [
        Figure(MEAN_GATE, "items", at_least(6)),
        Figure(MEAN_NO_GATE, "items", at_most(2.5)),
        Figure(RATIO_DONE, "x", at_least(5)),
        Figure(RATIO_GOOD, "x", at_least(5)),
        Figure(RATIO_FIRST, "x", at_most(1)),
        Figure(ALL_CORES, "x", at_least(1.8)),
        Figure(FAST_8, "x", at_most(3)),
        Figure(FIRST_8, "x", at_most(3)),
        Figure(CAPACITY, "x real time"),
        Figure(HEARD_70, "streams", at_least(plan.streams)),
        Figure(UNDERRUNS, "in all of them", at_most(0)),
        Figure(FIRST_70, "ms"),
        Figure(REFUSED_70, "%"),
        Figure(FIRST_3X, "x", at_most(1.5)),
        Figure(REFUSED, "%", at_least(1)),
        Figure(FAILED, "streams", at_most(0)),
        Figure(IDLE, "s", at_most(1)),
        Figure(LEAKED, "streams", at_most(0)),
        Figure(POISONED, "of 15", at_most(0)),
        Figure(MIXED, "of 200", at_most(0)),
        *(Figure(name(preset), unit) for preset in PRESETS if plan.preset_rounds for name, unit in PRESET_FIGURES),
    ]


# The service


def config() -> dict[str, Any]:
    """The default voice as it is and with a bound on the wait, and three simulated models: the usual one, one without the
    gate, and one without batches."""
    default = DEFAULT_MODELS["hibari"].model_dump(mode="json")
    return {
        "models": {
            PATIENT: default | {"aliases": []},
            "hibari": DEFAULT_MODELS["hibari"].model_dump(mode="json") | {"max_wait_s": MAX_WAIT_S},
            GATE: _simulated(max_batch_size=8),
            NO_GATE: _simulated(max_batch_size=8, gate=False),
            ONE: _simulated(max_batch_size=1),
        },
        # Enough for the 100 that vanish; not for the 200 after them on top, should those still be in the books.
        "speech": {"admission": {"max_queued_seconds_of_audio": 850.0}},
    }


def _simulated(**steps: object) -> dict[str, Any]:
    # Places for the 200 at once and one for a report, so that one that leaks is missed. On its way to a replica every
    # request counts as queued for a moment.
    places = {"max_ongoing_requests": ALL_AT_ONCE + 1, "max_queued_requests": ALL_AT_ONCE}
    placement = {"hardware": {"kind": "cpu", "cpus": 0.1}, **places}
    options = {"step_ms": 50, "chunk_ms": CHUNK_MS, "character_ms": CHARACTER_MS}
    return {
        "engine": "simulated",
        "options": options,
        "steps": steps,
        "max_wait_s": 600.0,
        "placements": [placement],
    }


@contextmanager
def service_of(arguments: Mapping[str, Any]) -> Iterator[RunningProgram]:
    """The real service with these arguments, for as long as the context."""
    document = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "applications": [
            {"name": "motet", "route_prefix": "/", "import_path": "serve_app.app:build", "args": dict(arguments)}
        ],
    }
    with tempfile.TemporaryDirectory(prefix="motet-bench-") as folder:
        file = Path(folder) / "serve_config.yaml"
        file.write_text(yaml.safe_dump(document))
        with running_service(profiles.default_profile(), file) as service:
            yield service


# Texts


class Asks:
    """Requests that are all different, the same ones in every run."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._paragraphs = texts(seed=2)

    def simulated(self, model: str, characters: int) -> Ask:
        """One piece of so many characters, with words of its own."""
        number = next(self._numbers)
        return Ask(model, f"Tone {number} ".ljust(characters - 1, "a") + ".", number)

    def paragraph(self) -> Ask:
        """400 to 700 characters of English for hibari with the default settings."""
        return Ask(PATIENT, next(self._paragraphs), next(self._numbers))

    def sentence(self, pacing: str = "fast") -> Ask:
        """An English sentence for hibari."""
        number = next(self._numbers)
        return Ask("hibari", SHORT_SENTENCES[number % len(SHORT_SENTENCES)], number, pacing)


def expected_pcm(text: str) -> bytes:
    """What the simulated engine says to a text of one piece."""
    length = int(len(text) * int(CHARACTER_MS / 1000 * SAMPLE_RATE))
    return open_encoder("pcm", SAMPLE_RATE).encode(tone(text, 0, length))


def same_sound(one: bytes, other: bytes) -> bool:
    """Equal to a step of 16 bits, by which a sine may be rounded otherwise."""
    if len(one) != len(other):
        return False
    a, b = (np.frombuffer(pcm, "<i2").astype(np.int32) for pcm in (one, other))
    return int(np.abs(a - b).max(initial=0)) <= 1


# Simulated engines


def _measure_simulated(sheet: Sheet, plan: Plan, service: RunningProgram) -> None:
    asks = Asks()
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


def _measure_gate(sheet: Sheet, plan: Plan, service: RunningProgram, asks: Asks) -> None:
    variants = {model: lambda model=model: asyncio.run(_mean_batch(service, model, asks)) for model in (GATE, NO_GATE)}
    means = interleaved(variants, plan.gate_rounds)
    steps = math.ceil(GATE_CHARACTERS * CHARACTER_MS / CHUNK_MS)
    for name, model in ((MEAN_GATE, GATE), (MEAN_NO_GATE, NO_GATE)):
        each = spread(means[model])
        sheet.put(
            name, each.p50, f"{steps:.0f} steps each, {APART_S * 1000:.0f} ms apart; {plan.gate_rounds} rounds, {each}"
        )


async def _mean_batch(service: RunningProgram, model: str, asks: Asks) -> float:
    before = await steps_of(service, model)
    complete(await all_at_once(service, [asks.simulated(model, GATE_CHARACTERS) for _ in range(8)], apart_s=APART_S))
    return _batch_between(before, await steps_of(service, model))


def _batch_between(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    return (after["items"] - before["items"]) / (after["steps"] - before["steps"])


def _measure_saturation(sheet: Sheet, plan: Plan, service: RunningProgram, asks: Asks) -> None:
    before = asyncio.run(steps_of(service, GATE))
    eight = _saturated(service, plan, lambda: asks.simulated(GATE, 16))
    batch = _batch_between(before, asyncio.run(steps_of(service, GATE)))
    one = _saturated(service, plan, lambda: asks.simulated(ONE, 16))
    done = (eight.completed / eight.seconds) / (one.completed / one.seconds)
    sheet.put(RATIO_DONE, done, f"{SATURATED} clients, mean batch {batch:.1f}: {eight}")
    # Without batches hardly a stream comes in time. Counted as one at least, the ratio is what is certain.
    good = eight.goodput / (max(1, one.good) / one.seconds)
    sheet.put(RATIO_GOOD, good, f"at least; batch 1 had {one.good} without underrun: {one}")
    first = eight.first_ms[1] / one.first_ms[1]
    sheet.put(RATIO_FIRST, first, f"{eight.first_ms[1]:.0f} ms over {one.first_ms[1]:.0f} ms")


def _saturated(service: RunningProgram, plan: Plan, next_ask: Callable[[], Ask]) -> Summary:
    return _summed(closed_loop(service, SATURATED, plan.saturation_s, next_ask))


def _summed(load: Awaitable[list[Heard]]) -> Summary:
    async def heard() -> Summary:
        started = time.monotonic()
        return summary(await load, started)

    return asyncio.run(heard())


async def _measure_poison(sheet: Sheet, service: RunningProgram, asks: Asks) -> None:
    clean = [asks.simulated(GATE, 16) for _ in range(16)]
    # Other seeds, so that nothing comes from the cache; the simulated engine makes the same of every seed.
    again = [Ask(ask.model, ask.text, ask.seed + 1_000_000) for ask in clean]
    again[7] = Ask(GATE, f"This is {POISON}.", 7)
    without = await all_at_once(service, clean)
    beside = await all_at_once(service, again)
    complete(without)
    if beside[7].complete:
        raise fail("engine", "the poison did not fail")
    pairs = [pair for number, pair in enumerate(zip(without, beside, strict=True)) if number != 7]
    changed = sum(a.pcm != b.pcm for a, b in pairs)
    sheet.put(POISONED, changed, f"byte for byte; the poison itself got status {beside[7].status}")


async def _measure_mixing(sheet: Sheet, service: RunningProgram, asks: Asks) -> None:
    """A place that was not given back, of the replica's or in the queue's seconds of audio, is missed here."""
    results = await all_at_once(service, [asks.simulated(GATE, 16) for _ in range(ALL_AT_ONCE)])
    note = f"the replica takes {ALL_AT_ONCE + 1} at once; 850 s of audio may be queued, of which those had 800 s"
    sheet.put(LEAKED, sum(heard.status != 200 for heard in results), note)
    wrong = sum(not same_sound(bytes(heard.pcm), expected_pcm(heard.ask.text)) for heard in complete(results))
    sheet.put(MIXED, wrong, "each compared with the tone of its text")


async def _measure_vanishing(sheet: Sheet, service: RunningProgram, asks: Asks) -> None:
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


# hibari


def _measure_hibari(sheet: Sheet, plan: Plan, service: RunningProgram) -> None:
    asks = Asks()
    with sheet.measuring("one client that reads as fast as it can, and eight"):
        measure_fast(sheet, FAST_8, service, asks.paragraph, plan.fast_rounds, plan.fast_s)
    with sheet.measuring("one listener and eight"):
        _measure_listeners(sheet, plan, service, asks)
    with sheet.measuring("capacity, 70 % of it, and three times as much"):
        _measure_rates(sheet, plan, service, asks)
    if plan.preset_rounds:
        with sheet.measuring("the presets of pacing"):
            _measure_presets(sheet, plan, service, asks)


def _measure_listeners(sheet: Sheet, plan: Plan, service: RunningProgram, asks: Asks) -> None:
    async def one_after_another() -> list[Heard]:
        return [await listen(service, asks.sentence()) for _ in range(plan.single_streams)]

    one = _summed(one_after_another())
    eight = _summed(
        closed_loop(
            service, 8, plan.listeners_s, lambda: asks.sentence("played"), hear_out=True, apart_s=plan.listeners_s / 8
        )
    )
    note = f"{eight.first_ms[1]:.0f} ms over {one.first_ms[1]:.0f} ms; each hears its sound out: {eight}"
    sheet.put(FIRST_8, eight.first_ms[1] / one.first_ms[1], note)


def _measure_rates(sheet: Sheet, plan: Plan, service: RunningProgram, asks: Asks) -> None:
    full = _summed(closed_loop(service, 8, plan.capacity_s, asks.sentence))
    sheet.put(CAPACITY, full.audio_seconds / full.seconds, str(full))
    capacity = full.completed / full.seconds
    usual = _at_rate(service, asks, capacity * SHARE, math.ceil(plan.streams * SPARE))
    sheet.put(HEARD_70, usual.completed, str(usual))
    sheet.put(UNDERRUNS, usual.underruns)
    sheet.put(FIRST_70, usual.first_ms[1], f"{capacity * SHARE:.1f} requests/s, Poisson")
    sheet.put(REFUSED_70, 100 * usual.refused / usual.asked, f"{usual.refused} of {usual.asked}; these made no sound")
    over = _at_rate(service, asks, capacity * OVERLOAD, int(capacity * OVERLOAD * plan.overload_s))
    sheet.put(FIRST_3X, over.first_ms[1] / usual.first_ms[1], f"max_wait_s {MAX_WAIT_S}; {over}")
    sheet.put(REFUSED, 100 * over.refused / over.asked, f"{over.refused} of {over.asked}")
    sheet.put(FAILED, over.failed + usual.failed)
    if plan.curve:
        _draw(service, plan, asks, capacity, {SHARE: usual, OVERLOAD: over})


def _measure_presets(sheet: Sheet, plan: Plan, service: RunningProgram, asks: Asks) -> None:
    """Eight listeners who hear their sound out, with one preset after the other, in rounds."""
    heard: dict[str, list[Heard]] = {preset: [] for preset in PRESETS}

    def listeners(preset: str) -> float:
        load = closed_loop(service, 8, PRESET_S, lambda: asks.sentence(preset), hear_out=True, apart_s=0.1)
        heard[preset] += (results := asyncio.run(load))
        return float(len(results))

    interleaved({preset: partial(listeners, preset) for preset in PRESETS}, plan.preset_rounds)
    for preset, results in heard.items():
        firsts = [each.first_s * 1000 for each in complete(results) if each.first_s is not None]
        values = (
            quantile(firsts, 0.95),
            sum(each.playout.underruns for each in results),
            max(each.most_ahead_s for each in results),
        )
        for (name, _), value in zip(PRESET_FIGURES, values, strict=True):
            sheet.put(name(preset), value, f"{len(results)} streams, 8 at once, {plan.preset_rounds} rounds")


def _at_rate(service: RunningProgram, asks: Asks, per_second: float, count: int) -> Summary:
    return _summed(open_loop(service, [asks.sentence() for _ in range(count)], per_second, seed=count))


def _draw(service: RunningProgram, plan: Plan, asks: Asks, capacity: float, known: Mapping[float, Summary]) -> None:
    """First sound and goodput by rate, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    count = {share: int(capacity * share * plan.overload_s) for share in plan.curve}
    points = {share: _at_rate(service, asks, capacity * share, count[share]) for share in plan.curve} | dict(known)
    shares = sorted(points)
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 6))
    above.plot(shares, [points[share].first_ms[1] for share in shares], "o-")
    above.set_ylim(bottom=0)
    above.set_ylabel("first sound p95 of accepted, ms")
    below.plot(shares, [points[share].goodput for share in shares], "o-", label="without underrun")
    below.plot(
        shares, [points[share].refused / points[share].seconds for share in shares], "o--", label="refused (429)"
    )
    below.set_ylabel("streams per second")
    below.set_xlabel(f"requests, as a share of the capacity of {capacity:.1f} per second")
    below.legend()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=120)
    pyplot.close(figure)
