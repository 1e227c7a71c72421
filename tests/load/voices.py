"""Voices at full size beside their own packages: the same weights, text, sampling and machine, turn by turn.

The packages serve one stream at a time; our engine steps many as one batch. Both run in this process, without HTTP, each
with the settings that suit it best here. Weights are seeded random numbers where none can be had: speed does not depend on
what a network says, so every stream is given the same length. Only then are onset gates bypassed, on both sides.
"""

from __future__ import annotations

import gc
import importlib
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from deployments.audio.test_tone import hum
from deployments.engines.graphs import WITHIN, Bucket, CapturedStep, backend_for, relative_error
from deployments.engines.protocols import (
    AudioChunk,
    LimitsStreams,
    Samples,
    SpeechEngine,
    SpeechRequest,
    VoiceReference,
)
from deployments.errors import fail
from deployments.replica.malloc_trim import Allocator, MallocTrim, keep_freed_memory
from serve_app.bench.frame import Figure, Report, Sheet, at_least, at_most, carry_out, interleaved, ratio, spread
from serve_app.bench.sentences import SENTENCES
from tests.load.product_rates import ProductCount, counting_products, least_seconds
from tests.load.speakers import Speakers

if TYPE_CHECKING:
    from tests.load.listeners import Listening

CONCURRENCIES = (1, 2, 4, 8, 16)
THREADS = (1, 2)
LIMITED_STREAMS = 8
PACKAGE_TARGET, LIMIT_TARGET = 5.0, 0.9
"""How many times the package's best setting, or which share of what the products allow: one of the two is to be reached."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A way in which a package can be run, and how to turn it on: `speak(number)` then gives one stream's chunks."""

    name: str
    speak: Callable[[int], Iterator[Samples]]


class Contest(Speakers, Protocol):
    """One model, ours and its package's."""

    @property
    def package(self) -> Sequence[Setting]:
        """The settings of the package that might be its best."""

    def steps(self, buckets: Sequence[Bucket]) -> Iterator[tuple[Bucket, Callable[[], Any], Callable[[], Any], float]]:
        """For each bucket the plain step, the captured one, and how far `apart` both are; nothing when it has none."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a run of several streams came to. Times are seconds."""

    seconds_of_audio: float
    seconds: float
    first_audio: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Seconds of audio made in a second."""
        return self.seconds_of_audio / self.seconds


class SoproContest:
    """Sopro v2 at full size with random weights and a clip of ten seconds."""

    def __init__(self, folder: Path, seconds: float, shape: Mapping[str, Any] | None = None) -> None:
        """`shape` is for a smaller model."""
        from deployments.engines.protocols import EngineSpec
        from deployments.engines.sopro import load
        from tests.load.sopro_package import load_package, write_random_model

        shape = shape or {}
        generation = {**shape.get("generation", {}), "max_seconds": seconds, "min_seconds": seconds}
        write_random_model(folder, {**shape, "generation": generation}, SENTENCES)
        self._module = load_package()
        self._packages = {
            kind: self._module.SoproTTS.from_pretrained(str(folder), quantization=kind) for kind in (None, "int8")
        }
        options = {"precision": "int8", "trim_silence": False}
        self.engine = load(EngineSpec("sopro", str(folder), "cpu", torch.get_num_threads(), options))
        self._clip = VoiceReference("bench", hum(24_000, 10.0), 24_000)
        clip = torch.from_numpy(self._clip.samples)[None]
        # Eight-bit weights are in the package's decoder only, so one reference serves both.
        self._voice = self._packages[None].prepare_reference(ref_audio=clip, sample_rate=24_000, stream=True)

    @property
    def package(self) -> list[Setting]:
        """One thread or two, float32 or its eight-bit weights."""
        return [
            Setting(f"{kind or 'float32'}, {threads} threads", partial(self._speak, kind, threads))
            for kind in self._packages
            for threads in THREADS
        ]

    def _speak(self, kind: str | None, threads: int, number: int) -> Iterator[Samples]:
        with using_threads(threads), _without_gates(self._module):
            for chunk in self._packages[kind].stream(_text(number), ref=self._voice):
                yield chunk.numpy()

    def request(self, number: int) -> SpeechRequest:
        """One piece of text, spoken like the clip."""
        return SpeechRequest((_text(number),), self._clip.id, seed=number, reference=self._clip)

    def steps(self, buckets: Sequence[Bucket]) -> Iterator[tuple[Bucket, Callable[[], Any], Callable[[], Any], float]]:
        """The decoder's step: sixteen of them make a chunk. Compared are the logits before a token is drawn of them."""
        captured = self.engine.captured
        captured.backend = backend_for("cpu")
        captured.batches, captured.lengths = [bucket.batch for bucket in buckets], [buckets[0].length]
        logits = logits_step(self.engine, captured)
        for bucket in captured.buckets:
            for each in (captured, logits):
                if not each.capture(bucket):
                    raise RuntimeError(each.counts.last_failure)
            inputs = {
                "tokens": torch.arange(bucket.batch),
                "positions": torch.arange(bucket.batch) + bucket.length - bucket.batch - 1,
                "may_end": torch.zeros(bucket.batch, dtype=torch.bool),
                "draws": torch.linspace(0.1, 0.9, bucket.batch),
            }
            plain = partial(captured.step, inputs, bucket.length)
            replayed = partial(captured, inputs, bucket.length)
            with torch.no_grad():
                yield (
                    bucket,
                    plain,
                    replayed,
                    relative_error(logits(inputs, bucket.length), logits.step(inputs, bucket.length)),
                )


def logits_step(engine: Any, like: CapturedStep) -> CapturedStep:
    """The decoder's step of a Sopro engine up to its logits (batch, vocabulary), to be recorded as another is."""

    def step(inputs: Mapping[str, Tensor], length: int) -> Tensor:
        logits: Tensor = engine.networks.decoder.logits(inputs["tokens"], inputs["positions"], engine.cache, length)
        return logits

    return CapturedStep(step, like.inputs, like.batches, like.lengths, like.backend)


CONTESTS: Mapping[str, Callable[[Path, float], Contest]] = {"sopro": SoproContest}
OWN_CONTESTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "indextts": ("tests.load.voices_indextts", ()),
    "kokoro": ("tests.load.voices_kokoro", ()),
    "pocket-tts": ("tests.load.voices_pocket", ()),
    "vibevoice": ("tests.load.voices_vibevoice", ("streams", "captured", "device")),
}
"""Models that are measured in another way: modules with `run(quick, soak_minutes, ...)`, and what else they may be told."""
CARD_CONTESTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "sopro": ("tests.load.voices_sopro_card", ("streams", "captured", "device")),
}
"""Models that are measured in another way on a card."""


def _text(number: int) -> str:
    return SENTENCES[number % len(SENTENCES)]


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """torch's own, inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _without_gates(module: Any) -> Iterator[None]:
    """Random weights never say anything that sounds like the onset of speech."""
    kept = {name: getattr(module.audio_ops, name) for name in ("speech_onset", "energy_onset", "trim_trail")}
    module.audio_ops.speech_onset = lambda wav, rate: 0
    module.audio_ops.energy_onset = lambda wav, rate: None
    module.audio_ops.trim_trail = lambda wav, rate: wav
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(module.audio_ops, name, function)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. `seconds` is how long each stream speaks; each setting has so many `tries` to be the best. A
    listener listens for `listening_seconds`; without it there are none."""

    seconds: float
    tries: int
    rounds: int
    concurrencies: tuple[int, ...]
    buckets: tuple[Bucket, ...]
    listening_seconds: float | None


QUICK = Plan(2.1, 1, 2, (1, 4, 8), (Bucket(8, 320),), None)
FULL = Plan(5.4, 2, 3, CONCURRENCIES, tuple(Bucket(batch, 384) for batch in (1, 4, 8, 16)), 16.0)


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

SOAK = [
    Figure("streams at a time", ""),
    Figure("memory once warm", "MB"),
    Figure("memory at the end", "MB"),
    Figure("growth", "%", at_most(5)),
    Figure("most memory", "MB"),
    Figure("slots taken when all have left", "", at_most(0)),
    Figure("utterances", ""),
    Figure("of them left early", ""),
]


def _wanted(model: str, plan: Plan) -> list[Figure]:
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
        figures.append(Figure(f"captured step apart from plain, {_name(bucket)}", "of spread", at_most(WITHIN["int8"])))
    return figures


def _first_audio(streams: str) -> str:
    return f"first audio, p95 of {streams} against 1"


def _name(bucket: Bucket) -> str:
    return f"{bucket.batch} rows, {bucket.length} positions"


def _measure(sheet: Sheet, contest: Contest, plan: Plan) -> None:
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


def _measure_steps(sheet: Sheet, contest: Contest, plan: Plan) -> None:
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
    """The one that speaks one stream's beginning fastest, of so many tries each; before, each is warmed up."""
    settings = {setting.name: setting for setting in contest.package}

    def rate(setting: Setting) -> float:
        return run_package(setting, 0, seconds=0.5).rate

    for setting in settings.values():
        rate(setting)
    rates = interleaved({name: partial(rate, setting) for name, setting in settings.items()}, tries)
    return settings[max(rates, key=lambda name: max(rates[name]))]


def _best_threads(contest: Contest, tries: int) -> int:
    """How many make the first chunk of eight streams fastest, without captured steps, of so many tries each."""

    def rate(threads: int) -> float:
        with using_threads(threads):
            return run_together(contest, 8, chunks=1).rate

    rates = interleaved({f"{threads}": partial(rate, threads) for threads in THREADS}, tries)
    return max(THREADS, key=lambda threads: max(rates[f"{threads}"]))


def _measure_streams(sheet: Sheet, contest: Contest, plan: Plan, best: Setting) -> None:
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
    """Each listens for so many `seconds`. `alone_ms` is the first audio of a stream alone; `rate` the most audio seconds a
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


def run_package(setting: Setting, number: int, seconds: float = float("inf")) -> Run:
    """One stream of the package, or its beginning."""
    started = time.perf_counter()
    samples, first = 0, 0.0
    for chunk in setting.speak(number):
        first = first or time.perf_counter() - started
        samples += len(chunk)
        if samples / 24_000 >= seconds:
            break
    return Run(samples / 24_000, time.perf_counter() - started, (first,))


def run_together(contest: Speakers, streams: int, *, chunks: int | None = None) -> Run:
    """So many streams of ours, begun together, or the first `chunks` of each. Who has the least sound goes first."""
    engine = contest.engine
    started = time.perf_counter()
    utterances = [engine.open(contest.request(number)) for number in range(streams)]
    made, first, heard = [0.0] * streams, [0.0] * streams, [0] * streams
    while live := [number for number in range(streams) if not utterances[number].finished and heard[number] != chunks]:
        live.sort(key=lambda number: made[number])
        results = engine.step([utterances[number] for number in live])
        now = time.perf_counter() - started
        for number, chunk in zip(live, map(_good, results), strict=True):
            first[number] = first[number] or (now if chunk.seconds else 0.0)
            made[number] += chunk.seconds
            heard[number] += not chunk.pending
    for utterance in utterances:
        engine.close(utterance)
    return Run(sum(made), time.perf_counter() - started, tuple(first))


def _good(result: AudioChunk | Exception) -> AudioChunk:
    if isinstance(result, Exception):
        raise result
    return result


def soak(sheet: Sheet, contest: Speakers, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
    """As many streams at a time as the engine has places, or eight; at one step in four, one is left in the middle.

    As in a replica, freed memory goes back to the system now and then. What is compared is what stays when all have left: at
    the end, and once the engine was warm, which is after a tenth of the time and when every place was taken twice. A slow
    machine takes longer than it was given: as long again as it took to be warm.
    """
    engine, random, allocator = contest.engine, np.random.default_rng(0), keep_freed_memory()
    streams = engine.max_streams if isinstance(engine, LimitsStreams) else 8
    step, started = MallocTrim(allocator).watched(engine.step), clock()
    free = _free_slots(engine)
    live: list[Any] = []
    opened = left = 0
    early: float | None = None
    elapsed = warm = 0.0
    while early is None or elapsed < max(minutes * 60, 2 * warm):
        while len(live) < streams:
            live.append(engine.open(contest.request(opened)))
            opened += 1
        for result in step(live):
            _good(result)
        if random.random() < 0.25:
            engine.close(live.pop(int(random.integers(len(live)))))
            left += 1
        live = [utterance for utterance in live if not utterance.finished]
        elapsed = clock() - started
        if early is None and elapsed > minutes * 6 and opened >= 2 * streams:
            left += _all_leave(engine, live)
            early, warm = _megabytes(allocator), elapsed
    left += _all_leave(engine, live)
    late = _megabytes(allocator)
    sheet.put("streams at a time", streams)
    sheet.put("memory once warm", early, f"after {warm:.0f} s")
    sheet.put("memory at the end", late)
    sheet.put("growth", 100 * (late / early - 1), f"in {elapsed / 60:.1f} minutes")
    sheet.put("most memory", most_megabytes())
    sheet.put("slots taken when all have left", free - _free_slots(engine))
    sheet.put("utterances", opened)
    sheet.put("of them left early", left)


def _all_leave(engine: SpeechEngine[Any], live: list[Any]) -> int:
    """How many did."""
    count = len(live)
    while live:
        engine.close(live.pop())
    return count


def _free_slots(engine: SpeechEngine[Any]) -> int:
    """0 for an engine that says a whole piece at a step, which needs none."""
    cache = getattr(engine, "cache", None)
    return int(cache.free) if cache else 0


def _megabytes(allocator: Allocator | None) -> float:
    """Resident, without what was freed."""
    import psutil

    gc.collect()
    if allocator:
        allocator.give_back()
    return float(psutil.Process().memory_info().rss) / 1e6


def most_megabytes() -> float:
    """The most memory that this process has had."""
    unit = 1e6 if sys.platform == "darwin" else 1e3  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def draw(report: Report, file: Path) -> None:
    """Speed and first sound by the number of streams, as a picture; nothing for a report that does not have them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    speeds = series_of(report, " streams", "audio s/s")
    firsts = series_of(report, " streams, first audio p95", "ms")
    if not speeds:
        return
    picture, (speed, first) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for name, points in speeds.items():
        speed.plot(*zip(*points, strict=True), "o-", label=name or "Motet")
    best = next((figure.value for figure in report.figures if figure.name == "package, best setting"), None)
    if best is not None:
        speed.axhline(best, color="gray", linestyle="--", label="the package")
    streams = [count for count, _ in next(iter(speeds.values()))]
    speed.plot(streams, streams, color="lightgray", label="real time for all")
    speed.set(xlabel="streams", ylabel="seconds of audio per second", ylim=(0, None))
    speed.legend()
    for name, points in firsts.items():
        first.plot(*zip(*points, strict=True), "o-", label=name or "Motet")
    first.set(xlabel="streams", ylabel="first audio, p95 (ms)", ylim=(0, None))
    picture.suptitle(f"motet bench {report.name}")
    picture.savefig(file, dpi=120)
    pyplot.close(picture)


def series_of(report: Report, ending: str, unit: str) -> dict[str, list[tuple[int, float]]]:
    """Figures in `unit` named `[<who>, ]<streams><ending>`: for each who, the numbers of streams and the values."""
    series: dict[str, list[tuple[int, float]]] = {}
    for figure in report.figures:
        who, _, count = figure.name.removesuffix(ending).rpartition(", ")
        fits = figure.name.endswith(ending) and figure.unit == unit and count.isdecimal()
        if fits and figure.value is not None:
            series.setdefault(who, []).append((int(count), figure.value))
    return series
