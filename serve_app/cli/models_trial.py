"""A model, loaded and tried once in this process: that it works, how fast it is, and what it takes."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
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
from serve_app.cli import local
from serve_app.config import DEFAULT_MODELS

SENTENCE = "The quick brown fox jumps over the lazy dog, and then it sleeps under a tree."
PROBE_S = 5.0
"""The length of noise to separate."""


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
    work = TRIALS[model.task]
    work(engine)
    began = time.perf_counter()
    audio_seconds, about = work(engine)
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


def _speak(engine: Any) -> tuple[float, str]:
    traits = engine.traits
    clip = None if traits.default_voice else _clip()
    request = SpeechRequest((SENTENCE,), clip.id if clip else traits.default_voice, reference=clip)
    seconds = sum(chunk.seconds for chunk in speak_here(request, engine))
    assert seconds > 0, "the model made no sound"
    return seconds, f"it spoke for {seconds:.1f} s, {len(traits.voices)} voices"


def _transcribe(engine: Any) -> tuple[float, str]:
    from deployments.audio.resample import resample

    spoken, rate = _spoken()
    samples = resample(spoken, rate, engine.traits.sample_rate)
    transcript = _value(engine.transcribe([Window(samples, RecognitionOptions())])[0])
    heard = " ".join(segment.text.strip() for segment in transcript.segments)
    return len(spoken) / rate, f"it heard {heard!r}"


def _separate(engine: Any) -> tuple[float, str]:
    rate = engine.traits.sample_rates[0]
    noise = np.random.default_rng(0).standard_normal((1, int(PROBE_S * rate))).astype(np.float32) * 0.1
    _value(engine.separate([Chunk(noise, rate, 0)])[0])
    return PROBE_S, f"stems: {', '.join(engine.traits.stems)}"


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


TRIALS: Mapping[Task, Callable[[Any], tuple[float, str]]] = {
    "speech": _speak,
    "transcription": _transcribe,
    "separation": _separate,
}
"""What a model of each task does when it is tried: the seconds of audio, and a sentence about the result."""
