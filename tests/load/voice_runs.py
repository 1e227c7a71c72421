"""Runs of streams, of our engine and of a package, and their times."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from deployments.engines.graphs import Bucket
from deployments.engines.protocols import (
    AudioChunk,
    Samples,
)
from tests.load.speakers import Speakers

if TYPE_CHECKING:
    pass


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Sets torch's number of threads inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of a package; `speak(number)` gives the chunks of one stream with it."""

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
    """The result of a run of several streams. Times are in seconds."""

    seconds_of_audio: float
    seconds: float
    first_audio: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Seconds of audio a second."""
        return self.seconds_of_audio / self.seconds


def run_package(setting: Setting, number: int, seconds: float = float("inf")) -> Run:
    """Runs one stream of the package, or its first `seconds`."""
    started = time.perf_counter()
    samples, first = 0, 0.0
    for chunk in setting.speak(number):
        first = first or time.perf_counter() - started
        samples += len(chunk)
        if samples / 24_000 >= seconds:
            break
    return Run(samples / 24_000, time.perf_counter() - started, (first,))


def run_together(contest: Speakers, streams: int, *, chunks: int | None = None) -> Run:
    """Runs `streams` streams of our engine that start together, or the first `chunks` of each. Those with the least audio step
    first."""
    engine = contest.engine
    started = time.perf_counter()
    utterances = [engine.open(contest.request(number)) for number in range(streams)]
    made, first, heard = [0.0] * streams, [0.0] * streams, [0] * streams
    while live := [number for number in range(streams) if not utterances[number].finished and heard[number] != chunks]:
        live.sort(key=lambda number: made[number])
        results = engine.step([utterances[number] for number in live])
        now = time.perf_counter() - started
        for number, chunk in zip(live, map(good, results), strict=True):
            first[number] = first[number] or (now if chunk.seconds else 0.0)
            made[number] += chunk.seconds
            heard[number] += not chunk.pending
    for utterance in utterances:
        engine.close(utterance)
    return Run(sum(made), time.perf_counter() - started, tuple(first))


def good(result: AudioChunk | Exception) -> AudioChunk:
    """The chunk. Raises the exception that came in its place."""
    if isinstance(result, Exception):
        raise result
    return result
