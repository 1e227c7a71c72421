"""Voices at full size beside their own packages: the same weights, text, sampling and machine, in turn.

The packages serve one stream at a time; our engine steps many as one batch. Both run in this process, without HTTP, each
with the settings that suit it best here. Weights are seeded random numbers where none can be had: speed does not depend on
what a network says, so every stream is given the same length. Only then are onset gates bypassed, on both sides.
"""

from __future__ import annotations

import importlib
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from deployments.engines.graphs import TOLERANCE, Bucket
from deployments.engines.limits import LimitsStreams
from deployments.errors import fail
from deployments.replica.malloc_trim import keep_freed_memory
from serve_app.bench.frame import Figure, Report, Sheet, at_least, at_most, carry_out, interleaved, ratio, spread
from tests.load.product_rates import ProductCount, counting_products, least_seconds

if TYPE_CHECKING:
    from tests.load.listeners import Listening

from tests.load.voice_runs import Contest, Run, Setting, run_package, run_together, using_threads
from tests.load.voices_picture import draw
from tests.load.voices_soak import SOAK, soak
from tests.load.voices_sopro import THREADS, SoproContest

__all__ = ["draw", "run"]

CONCURRENCIES = (1, 2, 4, 8, 16)
LIMITED_STREAMS = 8
PACKAGE_TARGET, LIMIT_TARGET = 5.0, 0.9
"""The target is one of the two: a multiple of the package's best setting, or a share of the limit by matrix products."""


CONTESTS: Mapping[str, Callable[[Path, float], Contest]] = {"sopro": SoproContest}
OWN_CONTESTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "indextts": ("tests.load.voices_indextts", ()),
    "kokoro": ("tests.load.voices_kokoro", ()),
    "pocket-tts": ("tests.load.voices_pocket", ()),
    "vibevoice": ("tests.load.voices_vibevoice", ("streams", "captured", "device")),
    "vibevoice-realtime": ("tests.load.voices_vibevoice_realtime", ("streams", "captured", "device")),
}
"""Models that are measured in another way: modules with `run(quick, soak_minutes, ...)`, and their further options."""
CARD_CONTESTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "sopro": ("tests.load.voices_sopro_card", ("streams", "captured", "device")),
}
"""Models that are measured in another way on a card."""


@dataclass(frozen=True, slots=True)
class VoicesPlan:
    """How much is measured. `seconds` is the length of each stream; each setting is tried `tries` times. A listener listens for
    `listening_seconds`; None: no listeners."""

    seconds: float
    tries: int
    rounds: int
    concurrencies: tuple[int, ...]
    buckets: tuple[Bucket, ...]
    listening_seconds: float | None


QUICK = VoicesPlan(2.1, 1, 2, (1, 4, 8), (Bucket(8, 320),), None)
FULL = VoicesPlan(5.4, 2, 3, CONCURRENCIES, tuple(Bucket(batch, 384) for batch in (1, 4, 8, 16)), 16.0)


def run(quick: bool, model: str = "sopro", soak_minutes: float = 0.0, **more: Any) -> Report:
    """Measures one model; with `soak_minutes`, only how its memory grows under load for so long.

    `more` are options that only some models' contests have. Raises `MotetError` for a contest that is not here.
    """
    keep_freed_memory()  # this and the next as in a replica
    torch.set_flush_denormal(True)
    if model not in {*CONTESTS, *OWN_CONTESTS}:
        known = ", ".join([*CONTESTS, *OWN_CONTESTS])
        raise fail("not_found", f"There is no contest for {model!r}.", f"Models: {known}.", param="model")
    contests = OWN_CONTESTS if more.get("device", "cpu") == "cpu" else {**OWN_CONTESTS, **CARD_CONTESTS}
    module, options = contests.get(model, ("", ()))
    if foreign := sorted(set(more) - set(options)):
        cause = f"The contest of {model!r} has no option {foreign[0]!r}."
        raise fail("invalid", cause, "Leave it out.", param=foreign[0])
    if module:
        report: Report = importlib.import_module(module).run(quick, soak_minutes, **more)
        return report
    plan = QUICK if quick else FULL

    def measure(sheet: Sheet) -> None:
        with tempfile.TemporaryDirectory() as folder:
            contest = CONTESTS[model](Path(folder) / model, plan.seconds)
            if soak_minutes:
                soak(sheet, contest, soak_minutes)
            else:
                _measure(sheet, contest, plan)

    wanted = SOAK if soak_minutes else _wanted(model, plan)
    return carry_out(f"voices of {model}", wanted, measure, quick=quick)


TOGETHER = {"4 streams": 2, "8 streams": 3}
ARRIVING = {"4 listeners": 2, "8 listeners": 3}
"""How many times as late as a stream alone each may have its first audio, at most."""


def _wanted(model: str, plan: VoicesPlan) -> list[Figure]:
    figures = [
        Figure("threads of ours", ""),
        Figure("package, best setting", "audio s/s"),
        Figure("package, first audio", "ms"),
        Figure("ours against the package, 8 streams", "x"),
        Figure("products of a second of audio, 8 streams", "GOP"),
        Figure("least time of these products", "ms"),
        Figure("share of the products' limit, 8 streams", "%"),
        Figure("5x of the package or 90 % of the limit, 8 streams", "x of the nearer", at_least(1)),
        *(Figure(_first_audio(name), "x", at_most(limit)) for name, limit in TOGETHER.items()),
    ]
    for streams in plan.concurrencies:
        figures.append(Figure(f"{streams} streams", "audio s/s"))
        figures.append(Figure(f"{streams} streams, first audio p95", "ms"))
    if plan.listening_seconds is not None:
        figures += [Figure(_first_audio(name), "x", at_most(limit)) for name, limit in ARRIVING.items()]
        figures.append(Figure("most listeners without an underrun", ""))
        figures.append(Figure("listeners for each audio second a second", "", at_least(0.8)))
    for bucket in plan.buckets:
        figures.append(Figure(f"captured step, {_name(bucket)}", "x", at_least(1.22) if bucket.batch == 8 else None))
        figures.append(
            Figure(f"captured step apart from plain, {_name(bucket)}", "of spread", at_most(TOLERANCE["int8"]))
        )
    return figures


def _first_audio(streams: str) -> str:
    return f"first audio, p95 of {streams} against 1"


def _name(bucket: Bucket) -> str:
    return f"{bucket.batch} rows, {bucket.length} positions"


def _measure(sheet: Sheet, contest: Contest, plan: VoicesPlan) -> None:
    with sheet.measuring("the settings of both sides"):
        counted = _count_products(contest)  # first, because it warms up too
        best = _best_setting(contest, plan.tries)
        threads = _best_threads(contest, plan.tries)
        sheet.put("threads of ours", threads)
    limit = float("nan")
    with using_threads(threads):
        with sheet.measuring("the products' least time"):
            limit = _measure_products(sheet, counted)
        with sheet.measuring("the captured step"):
            _measure_steps(sheet, contest, plan)
        with sheet.measuring("streams side by side"):
            _measure_streams(sheet, contest, plan, best)
        with sheet.measuring("the share of the limit"):
            _measure_share(sheet, limit)


@dataclass(frozen=True, slots=True)
class _CountedProducts:
    """What eight streams multiply for `seconds_of_audio`."""

    products: ProductCount
    seconds_of_audio: float


def _count_products(contest: Contest) -> _CountedProducts:
    with counting_products() as counting:
        run = run_together(contest, LIMITED_STREAMS)
    return _CountedProducts(counting.count, run.seconds_of_audio)


def _measure_products(sheet: Sheet, counted: _CountedProducts) -> float:
    """The most audio seconds a second that these products allow."""
    seconds = least_seconds(counted.products) / counted.seconds_of_audio
    sheet.put("products of a second of audio, 8 streams", counted.products.total / counted.seconds_of_audio / 1e9)
    sheet.put(
        "least time of these products", 1000 * seconds, "each by itself with its fastest kernel; nothing else counts"
    )
    return 1 / seconds


def _measure_share(sheet: Sheet, limit: float) -> None:
    gain, rate = sheet.value("ours against the package, 8 streams"), sheet.value(f"{LIMITED_STREAMS} streams")
    share = rate / limit
    sheet.put("share of the products' limit, 8 streams", 100 * share, f"{rate:.3g} of {limit:.3g} audio s/s")
    nearer = max(gain / PACKAGE_TARGET, share / LIMIT_TARGET)
    words = f"{gain:.2f}x of the package, {100 * share:.0f} % of the limit"
    sheet.put("5x of the package or 90 % of the limit, 8 streams", nearer, words)


def _measure_steps(sheet: Sheet, contest: Contest, plan: VoicesPlan) -> None:
    for bucket, plain, captured, distance in contest.steps(plan.buckets):
        times = interleaved({"plain": partial(_seconds, plain), "captured": partial(_seconds, captured)}, rounds=30)
        gain = ratio(times["plain"], times["captured"])
        milliseconds = [1000 * spread(times[name]).p50 for name in ("plain", "captured")]
        sheet.put(
            f"captured step, {_name(bucket)}", gain.p50, "{:.1f} ms plain, {:.1f} ms captured".format(*milliseconds)
        )
        sheet.put(f"captured step apart from plain, {_name(bucket)}", distance)


def _seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    with torch.no_grad():
        function()
    return time.perf_counter() - started


def _best_setting(contest: Contest, tries: int) -> Setting:
    """The setting that makes the start of one stream fastest, of `tries` tries each after a warm-up."""
    settings = {setting.name: setting for setting in contest.package}

    def rate(setting: Setting) -> float:
        return run_package(setting, 0, seconds=0.5).rate

    for setting in settings.values():
        rate(setting)
    rates = interleaved({name: partial(rate, setting) for name, setting in settings.items()}, tries)
    return settings[max(rates, key=lambda name: max(rates[name]))]


def _best_threads(contest: Contest, tries: int) -> int:
    """The number of threads that makes the first chunk of eight streams fastest, without captured steps, of `tries` tries each."""

    def rate(threads: int) -> float:
        with using_threads(threads):
            return run_together(contest, 8, chunks=1).rate

    rates = interleaved({f"{threads}": partial(rate, threads) for threads in THREADS}, tries)
    return max(THREADS, key=lambda threads: max(rates[f"{threads}"]))


def _measure_streams(sheet: Sheet, contest: Contest, plan: VoicesPlan, best: Setting) -> None:
    runs: dict[str, list[Run]] = {}

    def kept(name: str, function: Callable[[], Run]) -> float:
        runs.setdefault(name, []).append(function())
        return runs[name][-1].rate

    variants: dict[str, Callable[[], float]] = {
        f"{streams}": partial(kept, f"{streams}", partial(run_together, contest, streams))
        for streams in plan.concurrencies
    }
    variants["package"] = partial(kept, "package", partial(run_package, best, 0))
    rates = interleaved(variants, plan.rounds)
    sheet.put("package, best setting", spread(rates["package"]).p50, best.name)
    firsts = {name: [1000 * first for run in of for first in run.first_audio] for name, of in runs.items()}
    sheet.put("package, first audio", spread(firsts["package"]).p50)
    for streams in plan.concurrencies:
        sheet.put(f"{streams} streams", spread(rates[f"{streams}"]).p50)
        sheet.put(f"{streams} streams, first audio p95", spread(firsts[f"{streams}"]).p95)
    gain = ratio(rates["8"], rates["package"])
    sheet.put("ours against the package, 8 streams", gain.p50, f"{gain}; the package one after another")
    alone = spread(firsts["1"]).p95
    for streams in (4, 8):
        sheet.put(_first_audio(f"{streams} streams"), spread(firsts[f"{streams}"]).p95 / alone, "started together")
    if plan.listening_seconds is not None:
        rate = max(spread(rates[f"{n}"]).p50 for n in plan.concurrencies)
        _measure_listeners(sheet, contest, plan.listening_seconds, plan.seconds, alone, rate)


def _measure_listeners(
    sheet: Sheet, contest: Contest, seconds: float, piece_seconds: float, alone_ms: float, rate: float
) -> None:
    """Each listens for `seconds`. `alone_ms` is the first audio of a stream alone; `rate` the most audio seconds a
    second of streams started together."""
    # Imported here: it stands on the service's settings, which a machine with a card need not have.
    from tests.load.listeners import ARRIVAL_SECONDS, HEAD_START_SECONDS, most_without_gap, run_listeners

    seen: dict[int, Listening] = {}

    def heard_by(count: int) -> Listening:
        if count not in seen:
            seen[count] = run_listeners(contest, count, seconds=seconds, piece_seconds=piece_seconds)
        return seen[count]

    for count in (4, 8):
        first_ms = 1000 * spread(heard_by(count).first_audio).p95
        note = f"{first_ms:.0f} ms; they come at random within {ARRIVAL_SECONDS:g} s"
        sheet.put(_first_audio(f"{count} listeners"), first_ms / alone_ms, note)
    most = most_without_gap(lambda count: bool(heard_by(count).gaps), _most_listeners(contest, rate))
    gaps = ", ".join(f"{count}: {len(seen[count].gaps)}" for count in sorted(seen))
    head_start_ms = 1000 * HEAD_START_SECONDS
    note = f"players start {head_start_ms:.0f} ms after the first sound, and any gap counts; gaps of {gaps}"
    sheet.put("most listeners without an underrun", most, note)
    sheet.put("listeners for each audio second a second", most / rate, f"of {rate:.3g} audio s/s")


def _most_listeners(contest: Contest, rate: float) -> int:
    """More than a quarter above what the machine can make in real time need not be tried, nor more than there is room for."""
    places = contest.engine.max_streams if isinstance(contest.engine, LimitsStreams) else 64
    return min(math.ceil(1.25 * rate) + 1, places)
