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
    THREADS,
    HearingModel,
    at_once,
    transcribe,
)
from serve_app.bench.running_service import RunningProgram

BATCH = 16
OURS = "the service"
SEQUENTIAL, BATCHED = "faster-whisper's transcribe", f"faster-whisper's batches of {BATCH}"
COMPARED = (OURS, SEQUENTIAL, BATCHED)
SPEED, RATIO, ERRORS = "speed, {}", "speed of the service over {}", "word error rate, {}"
WORSE = "word error rate above the better of faster-whisper's"
TOGETHER = "{} clips at once over one by one"
CLIPS = 8
Listener = Callable[[bytes], str]
"""Gives the text of a recording."""


def figures() -> list[Figure]:
    """What is measured."""
    return [
        *(Figure(SPEED.format(name), "x real time") for name in COMPARED),
        Figure(RATIO.format(SEQUENTIAL), "x", at_least(2.5)),
        Figure(RATIO.format(BATCHED), "x", at_least(1.0)),
        *(Figure(ERRORS.format(name), "%") for name in COMPARED),
        Figure(WORSE, "points", at_most(0.2)),
        Figure(TOGETHER.format(CLIPS), "x", at_least(1.5)),
    ]


def measure_speed(
    sheet: Sheet,
    service: RunningProgram,
    model: HearingModel,
    corpus: Corpus,
    rounds: int,
    part_s: float,
    clip_s: float,
) -> None:
    """Fills the figures in. Rounds after the first take the first `part_s` of the recording; word errors are counted in the
    whole. A clip has at most `clip_s`, so it is one window."""
    with sheet.measuring("the service beside faster-whisper"):
        _beside_faster_whisper(sheet, service, model, corpus, rounds, part_s)
    with sheet.measuring("clips at once"):
        _clips(sheet, service, corpus, rounds, clip_s)


def _beside_faster_whisper(
    sheet: Sheet, service: RunningProgram, model: HearingModel, corpus: Corpus, rounds: int, part_s: float
) -> None:
    whisper = WhisperModel(model.folder, device="cpu", compute_type="int8", cpu_threads=THREADS, local_files_only=True)
    batches = BatchedInferencePipeline(whisper)
    listeners: Mapping[str, Listener] = {
        OURS: lambda recording: transcribe(service, recording).body.decode(),
        SEQUENTIAL: lambda recording: _text(whisper.transcribe, recording),
        BATCHED: lambda recording: _text(batches.transcribe, recording, batch_size=BATCH),
    }
    texts, times = _listened(listeners, corpus, 1, seed=0)
    rates = {name: errors([corpus.text], [text]).rate * 100 for name, text in texts.items()}
    if rounds > 1:
        _, more = _listened(listeners, corpus.of_length(part_s), rounds - 1, seed=1)
        times = {name: times[name] + more[name] for name in listeners}
    for name in COMPARED:
        speeds = spread([1 / seconds for seconds in times[name]])
        sheet.put(SPEED.format(name), speeds.p50, f"{THREADS} threads, beam {BEAM}, {rounds} rounds; {speeds}")
        sheet.put(ERRORS.format(name), rates[name], f"{len(corpus.text.split())} words")
    for name in (SEQUENTIAL, BATCHED):
        gain = ratio(times[name], times[OURS])
        sheet.put(RATIO.format(name), gain.p50, str(gain))
    sheet.put(WORSE, rates[OURS] - min(rates[SEQUENTIAL], rates[BATCHED]))


def _listened(
    listeners: Mapping[str, Listener], corpus: Corpus, rounds: int, seed: int
) -> tuple[dict[str, str], dict[str, list[float]]]:
    """The last text of each listener, and its times in seconds for a second of the recording, by round."""
    recording, texts = corpus.encoded("flac"), dict[str, str]()

    def timed(name: str) -> float:
        started = time.perf_counter()
        texts[name] = listeners[name](recording)
        return (time.perf_counter() - started) / corpus.seconds

    times = interleaved({name: partial(timed, name) for name in listeners}, rounds, seed=seed)
    return texts, times


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
