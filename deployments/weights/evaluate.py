"""Loads one engine with one folder of weights in a process of its own, and measures it: so its memory is only its own.

`python -m deployments.weights.evaluate` reads an `EvaluationJob` as JSON from standard input and writes an
`EvaluationResult` as JSON to standard output.
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

TRIAL_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """What the engine shall do: hear the recordings in `sounds` (files of float32 (n,) at `sample_rate` Hz, each at most a
    window long), or say the `texts` into such files of the same names, at whatever rate it speaks."""

    task: str
    engine: str
    device: str
    folder: str
    sounds: tuple[str, ...]
    sample_rate: int
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What it took, as in `quantize.Evaluation`; what was heard, or the rate of what was said."""

    memory_bytes: int
    peak_bytes: int
    load_seconds: float
    speed: float
    heard: tuple[str, ...]
    sample_rate: int


def run(trial: EvaluationTarget, sounds: Sequence[Path], sample_rate: int, texts: Sequence[str]) -> EvaluationResult:
    """Carries the trial out in a new process. Raises `MotetError` with what it said last when it fails."""
    work = EvaluationJob(
        trial.task,
        trial.engine,
        trial.device,
        str(trial.folder),
        tuple(map(str, sounds)),
        sample_rate,
        tuple(texts),
    )
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(asdict(work)),
        capture_output=True,
        text=True,
        timeout=TRIAL_TIMEOUT_S,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise fail("engine", f"The model in {trial.folder} does not work: {last}", "See also: motet doctor")
    facts = json.loads(done.stdout.splitlines()[-1])
    return EvaluationResult(**{**facts, "heard": tuple(facts["heard"])})


def disk_bytes(folder: Path) -> int:
    """The size of a folder's weight files."""
    return sum(file.stat().st_size for file in weight_files(folder))


def _carry_out(work: EvaluationJob) -> EvaluationResult:
    importlib.import_module(registry.find(work.engine).module)
    empty = psutil.Process().memory_info().rss
    started = time.perf_counter()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    engine = registry.load(work.engine, EngineSpec("trial", work.folder, work.device, threads))
    loaded = time.perf_counter()
    held = engine.memory().active_bytes if hasattr(engine, "memory") else psutil.Process().memory_info().rss - empty
    working = time.perf_counter()
    heard, seconds, rate = _WORKERS[work.task](engine, work)
    took = time.perf_counter() - working
    peak = engine.memory().peak_bytes if hasattr(engine, "memory") else _peak_of_process()
    return EvaluationResult(held, peak, loaded - started, seconds / took, heard, rate)


def _hear(engine: Any, work: EvaluationJob) -> tuple[tuple[str, ...], float, int]:
    heard, seconds = [], 0.0
    for sound in work.sounds:
        samples: Samples = np.load(sound)
        (result,) = engine.transcribe([Window(samples, 0.0, RecognitionOptions(language="en"))])
        if isinstance(result, Exception):
            raise result
        heard.append(result.text)
        seconds += len(samples) / work.sample_rate
    return tuple(heard), seconds, work.sample_rate


def _say(engine: Any, work: EvaluationJob) -> tuple[tuple[str, ...], float, int]:
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


_WORKERS = {"transcription": _hear, "speech": _say}


def _peak_of_process() -> int:
    """The most memory that was resident, in bytes. Linux keeps it for the program; what `getrusage` says there began with
    the program that started this one."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    answer = _carry_out(EvaluationJob(**json.loads(sys.stdin.read())))
    sys.stdout.write("\n" + json.dumps(asdict(answer)) + "\n")
