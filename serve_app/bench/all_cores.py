"""The capacity of a voice on all cores of the machine, and on one thread.

The engine runs in this process, without HTTP and Ray: on a small machine the gateway and the clients would use a part of the
same cores. `serve_hibari.py` measures the capacity of the whole service.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from deployments.engines.limits import StepsConcurrently
from deployments.engines.protocols import (
    SpeechEngine,
    SpeechRequest,
)
from deployments.replica.base import load_engine
from deployments.settings import PieceSettings
from deployments.text.sample_sentences import LONG_TEXT, SENTENCES
from deployments.text.segmentation import cut_into_pieces
from serve_app.bench.frame import Sheet, interleaved, ratio, spread
from serve_app.config import AppConfig
from serve_app.replica_settings import replica_settings

STREAMS = 8
SHORTEST, LONGEST = 400, 700
"""Characters of a text: the shortest and the longest."""
ALL, ONE = "all cores", "one thread"


def texts(seed: int) -> Iterator[str]:
    """Different English paragraphs of 400 to 700 characters, always the same ones for a seed."""
    random = np.random.default_rng(seed)
    sentences = [*SENTENCES, *cut_into_pieces(LONG_TEXT, PieceSettings())]
    for number in itertools.count(1):
        text, wanted = f"This is text number {number}.", random.integers(SHORTEST, LONGEST - 60)
        while len(text) < wanted:
            text += " " + sentences[random.integers(len(sentences))]
        yield text[:LONGEST]


@dataclass(frozen=True, slots=True)
class Capacity:
    """Seconds of audio a second, round by round, and the number of threads on all cores."""

    threads: int
    all_cores: list[float]
    one_thread: list[float]


def measure_cores(sheet: Sheet, name: str, rounds: int, seconds: float) -> None:
    """Measures `name`: the capacity of hibari on all cores over that on one thread."""
    found = measured_capacity("hibari", rounds, seconds)
    each = ratio(found.all_cores, found.one_thread)
    speeds = f"{spread(found.all_cores).p50:.0f} and {spread(found.one_thread).p50:.0f} audio s/s"
    note = f"{found.threads} threads, {speeds}, the engine alone, {STREAMS} streams; {rounds} rounds, {each}"
    sheet.put(name, each.p50, note)


def measured_capacity(model: str, rounds: int, seconds: float) -> Capacity:
    """The capacity of a model's engine with the default threads and with one, in turn, each `seconds` a round."""
    app = AppConfig()
    found = app.models[model]
    settings = replica_settings(model, found, found.placements[0], app.models)
    engines: Mapping[str, SpeechEngine[Any]] = {
        ALL: load_engine(settings),
        ONE: load_engine(settings.model_copy(update={"threads": 1})),
    }
    source = texts(seed=1)
    variants: dict[str, Callable[[], float]] = {
        name: partial(_speed, engine, source, seconds) for name, engine in engines.items()
    }
    for speak in variants.values():
        speak()  # warm
    speeds = interleaved(variants, rounds)
    return Capacity(_lanes(engines[ALL]), speeds[ALL], speeds[ONE])


def _speed(engine: SpeechEngine[Any], source: Iterator[str], seconds: float) -> float:
    """Seconds of audio a second, of streams without pauses. Like a replica, it first steps streams without audio, then those
    with the least audio."""
    width = _lanes(engine)
    made: dict[Any, float] = {}
    began, sound = time.perf_counter(), 0.0
    while (elapsed := time.perf_counter() - began) < seconds:
        made |= {_open(engine, source): 0.0 for _ in range(STREAMS - len(made))}
        chosen = sorted(made, key=lambda utterance: made[utterance])[:width]
        for utterance, chunk in zip(chosen, engine.step(chosen), strict=True):
            if isinstance(chunk, Exception):
                raise chunk
            sound += chunk.seconds
            seconds_made = max(made[utterance], 0.0) + chunk.seconds
            made[utterance] = -math.inf if chunk.pending else seconds_made
            if utterance.finished:
                del made[utterance]
    for utterance in made:
        engine.close(utterance)
    return sound / elapsed


def _lanes(engine: object) -> int:
    return engine.concurrency if isinstance(engine, StepsConcurrently) else 1


def _open(engine: SpeechEngine[Any], source: Iterator[str]) -> Any:
    pieces = cut_into_pieces(next(source), PieceSettings())
    return engine.open(SpeechRequest(pieces, engine.traits.default_voice))
