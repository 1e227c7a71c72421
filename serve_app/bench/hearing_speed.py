"""Speed and word errors of the service beside faster-whisper, with the same weights, threads and beam, by turns."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import cycle, islice
from typing import Any

from faster_whisper import BatchedInferencePipeline, WhisperModel

from deployments.text.word_error_rate import errors
from serve_app.bench.frame import Figure, Sheet, at_least, at_most, interleaved, ratio, spread
from serve_app.bench.hearing_corpus import Corpus
from serve_app.bench.hearing_service import (
    BEAM,
    ONE_REPLICA,
    THREADS,
    HearingModel,
    at_once,
    transcribe,
)
from serve_app.bench.running_service import RunningProgram

BATCH = 16
OURS, ALONE = "the service", "the service, one replica"
SEQUENTIAL, BATCHED = "faster-whisper's transcribe", f"faster-whisper's batches of {BATCH}"
COMPARED = (OURS, SEQUENTIAL, BATCHED)
SPEED, RATIO, ERRORS = "speed, {}", "speed of the service over {}", "word error rate, {}"
WORSE = "word error rate above the better of faster-whisper's"
TOGETHER = "{} clips at once over one by one"
REPLICAS = "two replicas over one, one recording"
CLIPS = 8


def figures() -> list[Figure]:
    """What is measured."""
    return [
        *(Figure(SPEED.format(name), "x real time") for name in COMPARED),
        Figure(RATIO.format(SEQUENTIAL), "x", at_least(2.5)),
        Figure(RATIO.format(BATCHED), "x", at_least(1.0)),
        *(Figure(ERRORS.format(name), "%") for name in COMPARED),
        Figure(WORSE, "points", at_most(0.2)),
        Figure(TOGETHER.format(CLIPS), "x", at_least(1.5)),
        Figure(REPLICAS, "x", at_least(1.7)),
    ]


def measure_speed(
    sheet: Sheet, service: RunningProgram, model: HearingModel, corpus: Corpus, rounds: int, clip_s: float
) -> None:
    """Fills the figures in. A clip has at most `clip_s`, so it is one window."""
    recording = corpus.encoded("flac")
    with sheet.measuring("the service beside faster-whisper"):
        _beside_faster_whisper(sheet, service, model, corpus, recording, rounds)
    with sheet.measuring("clips at once"):
        _clips(sheet, service, corpus, rounds, clip_s)


def _beside_faster_whisper(
    sheet: Sheet, service: RunningProgram, model: HearingModel, corpus: Corpus, recording: bytes, rounds: int
) -> None:
    whisper = WhisperModel(model.folder, device="cpu", compute_type="int8", cpu_threads=THREADS, local_files_only=True)
    batches = BatchedInferencePipeline(whisper)
    texts: dict[str, str] = {}

    def timed(name: str, listen: Callable[[], str]) -> float:
        started = time.perf_counter()
        texts[name] = listen()
        return time.perf_counter() - started

    listeners: Mapping[str, Callable[[], str]] = {
        OURS: lambda: transcribe(service, recording).body.decode(),
        ALONE: lambda: transcribe(service, recording, ONE_REPLICA).body.decode(),
        SEQUENTIAL: lambda: _text(whisper.transcribe, recording),
        BATCHED: lambda: _text(batches.transcribe, recording, batch_size=BATCH),
    }
    times = interleaved({name: partial(timed, name, listen) for name, listen in listeners.items()}, rounds)
    rates = {name: errors([corpus.text], [text]).rate * 100 for name, text in texts.items()}
    for name in COMPARED:
        speeds = spread([corpus.seconds / seconds for seconds in times[name]])
        sheet.put(SPEED.format(name), speeds.p50, f"{THREADS} threads, beam {BEAM}, {rounds} rounds; {speeds}")
        sheet.put(ERRORS.format(name), rates[name], f"{len(corpus.text.split())} words")
    for figure, other in (*((RATIO.format(name), name) for name in (SEQUENTIAL, BATCHED)), (REPLICAS, ALONE)):
        gain = ratio(times[other], times[OURS])
        sheet.put(figure, gain.p50, str(gain))
    sheet.put(WORSE, rates[OURS] - min(rates[SEQUENTIAL], rates[BATCHED]))


def _text(listen: Callable[..., Any], recording: bytes, **options: int) -> str:
    segments, _ = listen(io.BytesIO(recording), beam_size=BEAM, language="en", **options)
    return " ".join(segment.text for segment in segments)


def _clips(sheet: Sheet, service: RunningProgram, corpus: Corpus, rounds: int, clip_s: float) -> None:
    spans = [*islice(cycle(corpus.clips(clip_s)), CLIPS)]
    clips = [corpus.part(start, end) for start, end in spans]
    seconds = sum(end - start for start, end in spans)

    def one_by_one() -> None:
        for clip in clips:
            transcribe(service, clip)

    calls = {"once": partial(_seconds, at_once, service, clips), "each": partial(_seconds, one_by_one)}
    times = interleaved(calls, rounds)
    gain = ratio(times["each"], times["once"])
    note = (
        f"{len(clips)} clips, {seconds:.0f} s of audio, {seconds / spread(times['once']).p50:.1f} x real time; {gain}"
    )
    sheet.put(TOGETHER.format(CLIPS), gain.p50, note)


def _seconds(work: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started
