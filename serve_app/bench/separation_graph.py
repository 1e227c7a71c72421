"""The separation graph: a fast and a slow hardware class together, two replicas, many recordings at once, one of hours, and
what the graph itself costs. All but the replicas are measured with the engine that changes nothing."""

from __future__ import annotations

import http.client
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from deployments.audio.encode import open_encoder
from deployments.engines.protocols import Samples
from deployments.errors import fail
from serve_app.bench.frame import Figure, Sheet, at_least, at_most, interleaved, ratio, spread
from serve_app.bench.http_client import form_of
from serve_app.bench.live_dictation import cpu_seconds
from serve_app.bench.memory_peaks import memory_peaks, title_of
from serve_app.bench.running_service import RunningProgram
from serve_app.bench.serve_service import service_of
from serve_app.cli.processes import descendants
from serve_app.config import DEFAULT_MODELS

IDENTITY, FAST, SLOW, BOTH = "identity", "fast", "slow", "fast-and-slow"
ONE, TWO = "one-replica", "two-replicas"
FAST_MS, SLOW_MS = 60.0, 240.0
"""What a chunk takes on each class."""
RATE = 44_100
TIMEOUT_S = 3600.0
SHORT_S = 120.0
BLOCK_S = 10.0
MANY = 200
MANY_S = 15.0
PCM_BYTES = 2

CLASSES = "a fast and a slow class together, over the sum of their speeds"
REPLICAS = "two replicas over one, deepfilternet, one recording"
UNFAIR = f"{MANY} recordings at once, the slowest over the median"
FAILED = f"{MANY} recordings at once, failed"
MANY_GROWTH = f"{MANY} recordings at once, growth of the largest process"


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """How much is measured: rounds, the recordings of the classes and of the replicas in seconds (0 leaves the replicas out),
    whether many are sent at once, and the longest recording in seconds."""

    rounds: int
    classes_s: float
    replicas_s: float
    many: bool
    long_s: float


def figures(plan: GraphPlan) -> list[Figure]:
    """What is measured."""
    length = _in_words(plan.long_s)
    many = (
        Figure(FAILED, "recordings", at_most(0)),
        Figure(UNFAIR, "x", at_most(2)),
        Figure(MANY_GROWTH, "MB"),
    )
    return [
        Figure(CLASSES, "x", at_least(0.9)),
        *((Figure(REPLICAS, "x", at_least(1.8)),) if plan.replicas_s else ()),
        *(many if plan.many else ()),
        Figure(_wrong(length), "samples", at_most(0)),
        Figure(_growth(length), "MB", at_most(200)),
        Figure(_cost(length), "% of real time", at_most(1)),
        Figure(_speed(length), "x real time"),
    ]


def measure_graph(sheet: Sheet, plan: GraphPlan, speech: Samples, rate: int) -> None:
    """Fills the figures in. The replicas hear mono (n,) `speech`."""
    with service_of(_paced_service()) as program:
        pids = [process.pid for process in descendants(os.getpid())]
        with sheet.measuring("a fast and a slow class together"):
            _measure_classes(sheet, program, plan)
        if plan.many:
            with sheet.measuring(f"{MANY} recordings at once"):
                _measure_many(sheet, program)
        with sheet.measuring(f"a recording of {_in_words(plan.long_s)}"):
            _measure_long(sheet, program, pids, plan.long_s)
    if plan.replicas_s:
        with sheet.measuring("two replicas beside one"), service_of(_replicas_service()) as program:
            _measure_replicas(sheet, program, plan, speech, rate)


def _paced_service() -> dict[str, Any]:
    """The engine that changes nothing: as it is, as fast as a card, as slow as a CPU, and both."""
    slow = {"hardware": {"kind": "cpu", "cpus": 0.1}, "options": {"chunk_ms": SLOW_MS}}
    fast = {"hardware": {"kind": "mlx", "cpus": 0.1, "share": 0.5}, "options": {"chunk_ms": FAST_MS}}
    placements = {IDENTITY: [slow | {"options": {}}], FAST: [fast], SLOW: [slow], BOTH: [fast, slow]}
    return {
        "models": {name: {"engine": "identity", "placements": placed} for name, placed in placements.items()},
        "separation": {"max_wait_s": TIMEOUT_S},
        "recordings": {"max_sessions": MANY},
    }


def _replicas_service() -> dict[str, Any]:
    """The default model on one replica of one thread, and once more on two."""
    model = DEFAULT_MODELS["deepfilternet"].model_dump(mode="json") | {"aliases": []}
    hardware = {"kind": "cpu", "cpus": 0.3, "threads": 1}
    return {
        "models": {
            name: model | {"placements": [{"hardware": hardware, "replicas": count}]}
            for name, count in ((ONE, 1), (TWO, 2))
        }
    }


def _measure_classes(sheet: Sheet, program: RunningProgram, plan: GraphPlan) -> None:
    recording = _encoded(_tone(plan.classes_s))
    speeds = _speeds(program, {name: name for name in (FAST, SLOW, BOTH)}, recording, plan.classes_s, plan.rounds)
    fast, slow, both = (spread(speeds[name]).p50 for name in (FAST, SLOW, BOTH))
    note = f"{fast:.0f} and {slow:.0f} x real time, {both:.0f} together; {plan.rounds} rounds of {plan.classes_s:g} s"
    sheet.put(CLASSES, both / (fast + slow), note)


def _measure_replicas(sheet: Sheet, program: RunningProgram, plan: GraphPlan, speech: Samples, rate: int) -> None:
    repeats = max(1, round(plan.replicas_s * rate / len(speech)))
    recording = _encoded(iter([np.tile(speech, repeats)[np.newaxis]]), rate)
    seconds = repeats * len(speech) / rate
    speeds = _speeds(program, {name: name for name in (ONE, TWO)}, recording, seconds, plan.rounds, stem="speech")
    gain = ratio(speeds[TWO], speeds[ONE])
    one, two = (spread(speeds[name]).p50 for name in (ONE, TWO))
    sheet.put(REPLICAS, gain.p50, f"{two:.1f} and {one:.1f} x real time, {seconds:.0f} s of speech; {gain}")


def _speeds(
    program: RunningProgram,
    models: Mapping[str, str],
    recording: bytes,
    seconds: float,
    rounds: int,
    stem: str = "audio",
) -> dict[str, list[float]]:
    """Seconds of sound a second, of each model in turn; a first round is not counted."""

    def speed(model: str) -> float:
        started = time.perf_counter()
        _separate(program, recording, model, stem)
        return seconds / (time.perf_counter() - started)

    variants: dict[str, Callable[[], float]] = {name: partial(speed, model) for name, model in models.items()}
    for variant in variants.values():
        variant()
    return interleaved(variants, rounds)


def _measure_many(sheet: Sheet, program: RunningProgram) -> None:
    recording = _encoded(_tone(MANY_S))

    def seconds(_: int) -> float | None:
        started = time.perf_counter()
        try:
            size = _separate(program, recording, IDENTITY, "audio")
        except Exception:
            return None
        return time.perf_counter() - started if size == _pcm_bytes(MANY_S) else None

    with memory_peaks(program) as before:
        seconds(0)
        time.sleep(1)
    with memory_peaks(program) as after, ThreadPoolExecutor(MANY) as clients:
        times = list(clients.map(seconds, range(MANY)))
    done = [each for each in times if each is not None]
    sheet.put(FAILED, MANY - len(done), f"of {MANY_S:g} s each, through one gateway")
    sheet.put(UNFAIR, max(done) / statistics.median(done), f"{max(done):.1f} s and {statistics.median(done):.1f} s")
    growth = {process: peak - before.get(process, 0) for process, peak in after.items()}
    most = max(growth, key=lambda process: growth[process])
    sheet.put(MANY_GROWTH, growth[most] / 1e6, title_of(most))


def _measure_long(sheet: Sheet, program: RunningProgram, pids: list[int], seconds: float) -> None:
    short, long = _encoded(_tone(SHORT_S)), _encoded(_tone(seconds))
    with memory_peaks(program) as before:
        _separate(program, short, IDENTITY, "audio")
    busy, started = cpu_seconds(pids), time.perf_counter()
    with memory_peaks(program) as after:
        size = _separate(program, long, IDENTITY, "audio")
    took, busy = time.perf_counter() - started, cpu_seconds(pids) - busy
    length = _in_words(seconds)
    sheet.put(_wrong(length), abs(size - _pcm_bytes(seconds)) / (2 * PCM_BYTES), "stereo, 44.1 kHz, FLAC in, PCM out")
    growth = {process: peak - before.get(process, 0) for process, peak in after.items()}
    most = max(growth, key=lambda process: growth[process])
    note = f"{title_of(most)}: {before.get(most, 0) / 1e6:.0f} MB, then {after[most] / 1e6:.0f} MB; PSS, peaks"
    sheet.put(_growth(length), growth[most] / 1e6, note)
    sheet.put(_cost(length), 100 * busy / seconds, f"{busy:.1f} s of CPU of all processes, decoding included")
    sheet.put(_speed(length), seconds / took)


def _pcm_bytes(seconds: float) -> int:
    return round(seconds * RATE) * 2 * PCM_BYTES


def _separate(program: RunningProgram, recording: bytes, model: str, stem: str) -> int:
    """The bytes of one stem as PCM, which are counted and dropped. Raises `MotetError`."""
    body, content_type = form_of(recording, {"model": model, "stems": stem, "response_format": "pcm"})
    with closing(http.client.HTTPConnection(program.host, program.port, timeout=TIMEOUT_S)) as connection:
        connection.request("POST", "/v1/audio/separations", body, {"content-type": content_type})
        response = connection.getresponse()
        if response.status != 200:
            raise fail(
                "engine", f"The service answered {response.status}: {response.read(300).decode(errors='replace')}"
            )
        size = 0
        while block := response.read(1 << 20):
            size += len(block)
        return size


def _tone(seconds: float) -> Iterator[Samples]:
    """Stereo, in blocks: a tone on each side that swells, so that a FLAC file of hours stays small."""
    total, block = round(seconds * RATE), int(BLOCK_S * RATE)
    for start in range(0, total, block):
        times = np.arange(start, min(start + block, total)) / RATE
        swell = 0.2 + 0.1 * np.sin(2 * np.pi * 0.3 * times)
        yield np.stack([swell * np.sin(2 * np.pi * hertz * times) for hertz in (220.0, 330.0)]).astype(np.float32)


def _encoded(blocks: Iterator[Samples], rate: int = RATE) -> bytes:
    """A FLAC file of blocks (channels, n)."""
    first = next(blocks)
    encoder = open_encoder("flac", rate, len(first))
    with closing(encoder):
        return b"".join([encoder.encode(first), *map(encoder.encode, blocks), encoder.finish()])


def _in_words(seconds: float) -> str:
    return f"{seconds / 3600:g} hours" if seconds >= 3600 else f"{seconds / 60:g} minutes (two hours in the full run)"


def _wrong(length: str) -> str:
    return f"{length} of stereo: samples too many or too few"


def _growth(length: str) -> str:
    return f"{length} of stereo: growth of the largest process over two minutes"


def _cost(length: str) -> str:
    return f"{length} of stereo: the graph's own cost"


def _speed(length: str) -> str:
    return f"{length} of stereo: speed with the engine that changes nothing"
