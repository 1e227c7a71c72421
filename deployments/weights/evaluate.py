"""Measures one engine with one folder of weights, in a process of its own so that its memory can be measured.

`python -m deployments.weights.evaluate` reads an `EvaluationJob` as JSON from standard input and writes an `EvaluationResult`
as JSON to standard output.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from deployments.engines import registry
from deployments.engines.protocols import EngineSpec, RecognitionOptions, Samples, SpeechRequest, Window
from deployments.errors import fail
from deployments.weights.quantize import EvaluationTarget, weight_files

EVALUATION_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """The work for the engine: transcribe the recordings in `sounds` (files of float32 (n,) at `sample_rate` Hz, each at most
    a window long), or speak the `texts` into these files, at the engine's sample rate."""

    task: str
    engine: str
    device: str
    folder: str
    sounds: tuple[str, ...]
    sample_rate: int
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The measurements, as in `quantize.Evaluation`, and the transcripts, or the sample rate of the speech."""

    memory_bytes: int
    peak_bytes: int
    load_seconds: float
    speed: float
    heard: tuple[str, ...]
    sample_rate: int


def run(target: EvaluationTarget, sounds: Sequence[Path], sample_rate: int, texts: Sequence[str]) -> EvaluationResult:
    """Runs the evaluation in a new process. If it fails, raises `MotetError` with its last line of output."""
    work = EvaluationJob(
        target.task,
        target.engine,
        target.device,
        str(target.folder),
        tuple(map(str, sounds)),
        sample_rate,
        tuple(texts),
    )
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(asdict(work)),
        capture_output=True,
        text=True,
        timeout=EVALUATION_TIMEOUT_S,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise fail(
            "engine",
            f"The model in {target.folder} does not work: {last}",
            "Run motet doctor, which checks this machine.",
        )
    facts = json.loads(done.stdout.splitlines()[-1])
    return EvaluationResult(**{**facts, "heard": tuple(facts["heard"])})


def disk_bytes(folder: Path) -> int:
    """The size of a folder's weight files."""
    return sum(file.stat().st_size for file in weight_files(folder))


def _evaluate(work: EvaluationJob) -> EvaluationResult:
    importlib.import_module(registry.find(work.engine).module)
    empty = psutil.Process().memory_info().rss
    started = time.perf_counter()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    engine = registry.load(work.engine, EngineSpec("evaluated", work.folder, work.device, threads))
    loaded = time.perf_counter()
    held = engine.memory().active_bytes if hasattr(engine, "memory") else psutil.Process().memory_info().rss - empty
    working = time.perf_counter()
    heard, seconds, rate = _WORKERS[work.task](engine, work)
    took = time.perf_counter() - working
    peak = engine.memory().peak_bytes if hasattr(engine, "memory") else _peak_of_process()
    return EvaluationResult(held, peak, loaded - started, seconds / took, heard, rate)


def _transcribe(engine: Any, work: EvaluationJob) -> tuple[tuple[str, ...], float, int]:
    heard, seconds = [], 0.0
    for sound in work.sounds:
        samples: Samples = np.load(sound)
        (result,) = engine.transcribe([Window(samples, RecognitionOptions(language="en"))])
        if isinstance(result, Exception):
            raise result
        heard.append(result.text)
        seconds += len(samples) / work.sample_rate
    return tuple(heard), seconds, work.sample_rate


def _speak(engine: Any, work: EvaluationJob) -> tuple[tuple[str, ...], float, int]:
    traits, seconds = engine.traits, 0.0
    for text, sound in zip(work.texts, work.sounds, strict=True):
        utterance, chunks = engine.open(SpeechRequest((text,), traits.default_voice)), []
        while not utterance.finished:
            (result,) = engine.step([utterance])
            if isinstance(result, Exception):
                raise result
            chunks.append(result.samples)
        engine.close(utterance)
        samples = np.concatenate(chunks)
        np.save(sound, samples)
        seconds += len(samples) / traits.sample_rate
    return (), seconds, traits.sample_rate


_WORKERS = {"transcription": _transcribe, "speech": _speak}


def _peak_of_process() -> int:
    """The peak of resident memory, in bytes. On Linux `getrusage` also counts the parent process before the exec; VmHWM does
    not."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    answer = _evaluate(EvaluationJob(**json.loads(sys.stdin.read())))
    sys.stdout.write("\n" + json.dumps(asdict(answer)) + "\n")
