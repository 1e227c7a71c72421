"""Two replicas beside one for one long recording; two processes beside one without the service: what the processor allows.

The processes load the same engine with the settings of a replica and transcribe the same windows, in steps of a replica's
size. Their ratio is what two replicas can reach if decoding, voice activity and the gateway cost nothing.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from multiprocessing import get_context

from deployments.engines.protocols import RecognitionEngine, RecognitionOptions, Window
from deployments.replica.base import load_engine
from deployments.settings import WindowSettings
from deployments.tasks.transcription import TranscriptionTask
from serve_app.bench.bare_server import first_replica_of
from serve_app.bench.frame import Figure, Sheet, at_least, interleaved, ratio, spread
from serve_app.bench.hearing_corpus import CORPUS_RATE, Corpus
from serve_app.bench.hearing_service import ONE_REPLICA, TWO_REPLICAS, HearingModel, transcribe
from serve_app.bench.running_service import RunningProgram
from serve_app.config import AppConfig

REPLICAS = "two replicas over one, one recording"
PROCESSES = "two processes over one, same windows, without the service"
WINDOW_S = 30.0
ONE_PROCESS, TWO_PROCESSES = "one process", "two processes"
EngineProcess = Callable[[Sequence[Window]], Future[int]]
"""Starts to transcribe windows in another process; gives the number of transcripts."""


def figures() -> list[Figure]:
    """What is measured."""
    return [Figure(REPLICAS, "x", at_least(1.7)), Figure(PROCESSES, "x")]


def measure_replicas(
    sheet: Sheet, service: RunningProgram, model: HearingModel, corpus: Corpus, seconds: float, rounds: int
) -> None:
    """Fills the figures in, with about `seconds` of the recording."""
    with sheet.measuring("two replicas beside one"), _engine_processes(model) as processes:
        recording = _long(corpus, seconds)
        windows = list(_windows(recording))
        variants: dict[str, Callable[[], object]] = {
            TWO_REPLICAS: lambda: transcribe(service, recording, TWO_REPLICAS),
            ONE_REPLICA: lambda: transcribe(service, recording, ONE_REPLICA),
            TWO_PROCESSES: lambda: _transcribe(windows, processes),
            ONE_PROCESS: lambda: _transcribe(windows, processes[:1]),
        }
        times = interleaved({name: _timed(work) for name, work in variants.items()}, rounds)
        for figure, one, two in ((REPLICAS, ONE_REPLICA, TWO_REPLICAS), (PROCESSES, ONE_PROCESS, TWO_PROCESSES)):
            gain = ratio(times[one], times[two])
            note = f"{spread(times[one]).p50:.1f} s and {spread(times[two]).p50:.1f} s, {len(windows)} windows; {gain}"
            sheet.put(figure, gain.p50, note)


def _long(corpus: Corpus, seconds: float) -> bytes:
    part = corpus.of_length(seconds)
    return part.encoded("flac", max(1, round(seconds / part.seconds)))


def _timed(work: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return seconds


def _windows(recording: bytes) -> Iterator[Window]:
    task = TranscriptionTask(CORPUS_RATE, RecognitionOptions(language="en"), WINDOW_S)
    return (window for _, window in task.cut(io.BytesIO(recording), WindowSettings()) if window)


@contextmanager
def _engine_processes(model: HearingModel) -> Iterator[list[EngineProcess]]:
    """Two processes that have loaded the model. They inherit the environment of this one."""
    config = _one_thread_config(model).model_dump_json()
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for _ in range(2)]
        processes = [_started_by(pool, model.name, config) for pool in pools]
        _transcribe((), processes)
        yield processes


def _started_by(pool: ProcessPoolExecutor, name: str, config: str) -> EngineProcess:
    return lambda windows: pool.submit(_hear, name, config, windows)


def _one_thread_config(model: HearingModel) -> AppConfig:
    """A configuration with the model on one replica of one thread."""
    placement = {"hardware": {"kind": "cpu", "cpus": 0.5, "threads": 1}}
    return AppConfig.model_validate(
        {"models": {model.name: model.model.model_dump(mode="json") | {"placements": [placement]}}}
    )


def _transcribe(windows: Sequence[Window], processes: Sequence[EngineProcess]) -> int:
    """Each process transcribes its share at the same time. Returns the number of transcripts."""
    count = len(processes)
    return sum(done.result() for done in [process(windows[at::count]) for at, process in enumerate(processes)])


def _hear(name: str, config: str, windows: Sequence[Window]) -> int:
    """In a process of its own: transcribes in steps as a replica does."""
    engine = _engine(name, config)
    most = engine.traits.batch_windows
    return sum(len(engine.transcribe(windows[at : at + most])) for at in range(0, len(windows), most))


@cache
def _engine(name: str, config: str) -> RecognitionEngine:
    engine: RecognitionEngine = load_engine(first_replica_of(name, AppConfig.model_validate_json(config)))
    return engine
