"""How a model of each task is tried in this process: that it works, how fast it is, and what it takes."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from cluster.models import Model
from deployments.catalogue.installed import Trial
from deployments.engines.protocols import (
    Chunk,
    RecognitionOptions,
    Samples,
    SpeechRequest,
    VoiceReference,
    Window,
)
from deployments.engines.registry import Task
from deployments.tasks.in_process_speech import speak_here
from deployments.tasks.transcription import probe_window
from serve_app.cli import local
from serve_app.config import DEFAULT_MODELS

SENTENCE = "The quick brown fox jumps over the lazy dog, and then it sleeps under a tree."
BRIEF_SENTENCE = "Ready."
PROBE_S, BRIEF_PROBE_S = 5.0, 1.0
"""The length of noise to separate."""
MOST_NAMES = 8


@dataclass(frozen=True, slots=True)
class TaskTrial:
    """How models of a task are tried. `work` takes an engine and whether the trial is brief, and returns the seconds of audio
    and what came of it; it raises what the engine raises. `traits` says what an engine offers."""

    work: Callable[[Any, bool], tuple[float, str]]
    traits: Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """The figures of a trial, and what came of it in words."""

    trial: Trial
    about: str


def trial_of(name: str, model: Model) -> TrialOutcome:
    """Loads a model on its first placement, and lets it work twice: the second time counts.

    Raises `MotetError` if it does not load, and what the engine raises if it does not work.
    """
    placement = model.placements[0]
    process, started = psutil.Process(), time.perf_counter()
    before = process.memory_info().rss
    engine = local.load_engine(name, model.on(placement), placement.hardware)
    loaded = time.perf_counter()
    work = TRIALS[model.task].work
    work(engine, False)
    began = time.perf_counter()
    audio_seconds, about = work(engine, False)
    ended = time.perf_counter()
    trial = Trial(
        date=datetime.now(UTC).date().isoformat(),
        machine=f"{_processor()}, {local.usable_cores()} cores",
        load_seconds=loaded - started,
        audio_seconds=audio_seconds,
        wall_seconds=ended - began,
        memory_bytes=max(process.memory_info().rss - before, 0) or None,
    )
    return TrialOutcome(trial, about)


def _processor() -> str:
    """The name of the processor, where the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _speak(engine: Any, brief: bool) -> tuple[float, str]:
    traits = engine.traits
    clip = None if traits.default_voice else _clip()
    text = BRIEF_SENTENCE if brief else SENTENCE
    request = SpeechRequest((text,), clip.id if clip else traits.default_voice, reference=clip)
    seconds = sum(chunk.seconds for chunk in speak_here(request, engine))
    assert seconds > 0, "the model made no sound"
    return seconds, f"it spoke for {seconds:.1f} s, {len(traits.voices)} voices"


def _transcribe(engine: Any, brief: bool) -> tuple[float, str]:
    from deployments.audio.resample import resample

    rate = engine.traits.sample_rate
    window = probe_window(rate) if brief else Window(resample(*_spoken(), rate), RecognitionOptions())
    transcript = _value(engine.transcribe([window])[0])
    heard = " ".join(segment.text.strip() for segment in transcript.segments)
    return len(window.samples) / rate, f"it heard {heard!r}"


def _separate(engine: Any, brief: bool) -> tuple[float, str]:
    rate, seconds = engine.traits.sample_rates[0], BRIEF_PROBE_S if brief else PROBE_S
    noise = np.random.default_rng(0).standard_normal((1, int(seconds * rate))).astype(np.float32) * 0.1
    _value(engine.separate([Chunk(noise, rate, 0)])[0])
    return seconds, f"stems: {', '.join(engine.traits.stems)}"


@cache
def _spoken() -> tuple[Samples, int]:
    """The sentence, spoken by the default voice: mono float32 (n,), and its sample rate."""
    model = DEFAULT_MODELS["hibari"]
    engine = local.load_engine("hibari", model, model.placements[0].hardware)
    chunks = list(speak_here(SpeechRequest((SENTENCE,), engine.traits.default_voice), engine))
    return np.concatenate([chunk.samples for chunk in chunks]), engine.traits.sample_rate


def _clip() -> VoiceReference:
    samples, rate = _spoken()
    return VoiceReference("trial", samples, rate, SENTENCE)


def _value(result: Any) -> Any:
    if isinstance(result, Exception):
        raise result
    return result


def _few(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _voices(engine: Any) -> str:
    return f"voices: {_few([voice.id for voice in engine.traits.voices])}; {engine.traits.sample_rate} Hz"


def _languages(engine: Any) -> str:
    return f"languages: {_few(engine.traits.languages) or 'any'}"


def _stems(engine: Any) -> str:
    return f"stems: {_few(engine.traits.stems)}"


TRIALS: Mapping[Task, TaskTrial] = {
    "speech": TaskTrial(_speak, _voices),
    "transcription": TaskTrial(_transcribe, _languages),
    "separation": TaskTrial(_separate, _stems),
}
