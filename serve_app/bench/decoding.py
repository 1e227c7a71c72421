"""What recordings from anywhere do to the decoders: damaged files, bombs, and what a process of its own costs."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import numpy as np
import psutil

from deployments.audio.decode import AudioDecoder
from deployments.audio.encode import open_encoder
from deployments.audio.formats import AudioFormat
from deployments.audio.isolated_decode import DecoderProcesses
from deployments.audio.sound_decoder import OpenDecoder
from deployments.engines.protocols import RecognitionOptions
from deployments.errors import MotetError
from deployments.settings import DecoderSettings, WindowSettings
from deployments.tasks.transcription import TranscriptionTask
from serve_app.bench.decoding_bombs import bombs
from serve_app.bench.frame import (
    Figure,
    Report,
    Sheet,
    at_least,
    at_most,
    carry_out,
    difference,
    interleaved,
    ratio,
    spread,
)
from serve_app.bench.mutated_files import mutated, seeds

FULL_FILES, QUICK_FILES = 10_000, 60
"""Damaged files of each container."""
FULL_LONGEST_S, QUICK_LONGEST_S = 4 * 3600.0, 600.0
"""Seconds of sound of a bomb that are decoded; the first is the service's default."""
LOOK_EVERY_S = 0.02
FUZZ_LONGEST_S = 60.0

FILES, FAULTS, CONTAINED, SLOWEST = (
    "damaged files of each container",
    "answers that are neither sound nor a refusal",
    "refusals because a decoder crashed or did not end",
    "the slowest answer to a damaged file",
)
COST_LONG = "processor time to cut a minute of MP3, own process over the same"
COST_SHORT = "processor time that the own process adds to a WAV of 3 s"
ACCEPTED_KINDS = ("invalid", "too_large")
DECODER_CODES = ("decoder_crashed", "decoder_too_slow", "decoder_out_of_memory")
ROUNDS, LONG_TIMES, SHORT_TIMES = 5, 1, 10


@dataclass(slots=True)
class DecodedFiles:
    """What damaged files were answered with."""

    tried: Counter[str] = field(default_factory=Counter)
    """Files of each container and codec that were given to a decoder."""
    codes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


def run(quick: bool) -> Report:
    """Runs the benchmark. A full run takes about an hour."""
    return carry_out("decoding", figures(quick), lambda sheet: _measure(sheet, quick), quick=quick)


def figures(quick: bool) -> list[Figure]:
    """What is measured."""
    return [
        Figure(FILES, "files", at_least(QUICK_FILES if quick else FULL_FILES)),
        Figure(FAULTS, "files", at_most(0)),
        Figure(CONTAINED, "files"),
        Figure(SLOWEST, "s", at_most(5)),
        *(Figure(_memory_of(name), "MB", at_most(200)) for name in bombs()),
        Figure(COST_LONG, "x", at_most(1.25)),
        Figure(COST_SHORT, "ms", at_most(50)),
    ]


def _memory_of(bomb: str) -> str:
    return f"memory for {bomb}"


def _measure(sheet: Sheet, quick: bool) -> None:
    with closing(DecoderProcesses(DecoderSettings())) as processes:
        processes.start()
        with sheet.measuring("damaged files"):
            _measure_damaged(sheet, processes, QUICK_FILES if quick else FULL_FILES)
        for name, make in bombs().items():
            with sheet.measuring(name):
                _measure_bomb(sheet, processes, name, make(), QUICK_LONGEST_S if quick else FULL_LONGEST_S)
        with sheet.measuring("what a process of its own costs"):
            _measure_cost(sheet, processes)


def _measure_damaged(sheet: Sheet, processes: DecoderProcesses, count: int) -> None:
    found, recordings = DecodedFiles(), seeds()
    others = list(recordings.values())
    for number, (name, seed) in enumerate(recordings.items()):
        generator = np.random.default_rng(number)
        for _ in range(count):
            data = mutated(seed, name.split()[0], others[generator.integers(len(others))], generator)
            try_file(found, name, data, processes.open)
    put_damaged(sheet, found, list(recordings))


def put_damaged(sheet: Sheet, found: DecodedFiles, names: Sequence[str]) -> None:
    """Fills in what became of the damaged files of the containers with these `names`."""
    contained = {code: found.codes[code] for code in DECODER_CODES if found.codes[code]}
    listed = ", ".join(f"{code} {times:,}" for code, times in found.codes.most_common(8))
    sheet.put(
        FILES, min(found.tried[name] for name in names), f"{len(names)} containers and codecs: {', '.join(names)}"
    )
    sheet.put(FAULTS, len(found.faults), "; ".join(found.faults[:3]) or listed)
    sheet.put(CONTAINED, sum(contained.values()), ", ".join(f"{code} {times}" for code, times in contained.items()))
    sheet.put(SLOWEST, found.slowest_s)


def try_file(found: DecodedFiles, name: str, data: bytes, open_decoder: OpenDecoder) -> None:
    """Decodes one damaged file and notes the answer."""
    began = time.perf_counter()
    found.tried[name] += 1
    try:
        found.codes[outcome_of(data, open_decoder, FUZZ_LONGEST_S)] += 1
    except Exception as error:
        found.faults.append(f"{name}: {type(error).__name__}: {error}")
    found.slowest_s = max(found.slowest_s, time.perf_counter() - began)


def outcome_of(data: bytes, open_decoder: OpenDecoder, longest_s: float) -> str:
    """`decoded`, or the code of the refusal. Raises what is neither."""
    try:
        with closing(open_decoder(data, mono=False, max_seconds=longest_s)) as decoder:
            for block in decoder:
                if not np.isfinite(block).all():
                    raise ValueError("samples that are not finite")
    except MotetError as error:
        if error.failure.kind not in ACCEPTED_KINDS or not error.failure.remedy:
            raise
        return str(error.failure.code)
    return "decoded"


def _measure_bomb(sheet: Sheet, processes: DecoderProcesses, name: str, data: bytes, longest_s: float) -> None:
    began = time.perf_counter()
    with _peak_of(processes) as peak:
        outcome = outcome_of(data, processes.open, longest_s)
    took_s = time.perf_counter() - began
    sheet.put(_memory_of(name), peak[0] / 1e6, f"{len(data) / 1e6:.2f} MB, {outcome} after {took_s:.1f} s")


@contextmanager
def _peak_of(processes: DecoderProcesses) -> Iterator[list[int]]:
    """The most memory that a decoder's process and this one took beside what they had, in bytes, seen every 20 ms."""
    server, over, peak = psutil.Process(processes.server_pid), threading.Event(), [0]
    before = psutil.Process().memory_info().rss

    def look() -> None:
        while not over.wait(LOOK_EVERY_S):
            with contextlib.suppress(psutil.Error):
                own = sum(child.memory_full_info().uss for child in server.children())
                peak[0] = max(peak[0], own + psutil.Process().memory_info().rss - before)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def _measure_cost(sheet: Sheet, processes: DecoderProcesses) -> None:
    server = psutil.Process(processes.server_pid)

    def cutting(data: bytes, times: int, open_decoder: OpenDecoder) -> Callable[[], float]:
        task = TranscriptionTask(16_000, RecognitionOptions(), 30.0)

        def cpu_seconds() -> float:
            began = _cpu_seconds(server)
            for _ in range(times):
                for _ in task.cut(io.BytesIO(data), WindowSettings(), open_decoder):
                    pass
            return (_cpu_seconds(server) - began) / times

        return cpu_seconds

    same, own = "the same process", "its own process"
    for name, data, times in (
        (COST_LONG, _recording("mp3", 60), LONG_TIMES),
        (COST_SHORT, _recording("wav", 3), SHORT_TIMES),
    ):
        both = {same: cutting(data, times, AudioDecoder), own: cutting(data, times, processes.open)}
        took = interleaved(both, ROUNDS)
        note = f"{spread(took[same]).p50 * 1000:.0f} ms of processor time in the same process"
        if name == COST_LONG:
            sheet.put(name, ratio(took[own], took[same]).p50, note)
        else:
            sheet.put(name, difference(took[own], took[same]).p50 * 1000, note)


def _cpu_seconds(server: psutil.Process) -> float:
    """Processor time of this process, of the server, and of the decoders that have ended."""
    times = server.cpu_times()
    return float(time.process_time() + times.user + times.system + times.children_user + times.children_system)


def _recording(form: AudioFormat, seconds: int) -> bytes:
    generator = np.random.default_rng(0)
    noise = (0.1 * generator.standard_normal(seconds * 24_000)).astype(np.float32)
    encoder = open_encoder(form, 24_000, 1)
    return encoder.encode(noise) + encoder.finish()
