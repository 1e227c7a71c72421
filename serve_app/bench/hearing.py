"""How fast and how well the service transcribes: beside faster-whisper, with two replicas, over hours, and without speech;
and how well it tells speakers apart.

The recordings are made with the embedded voices (`hearing_corpus.py`), so what is said, and when, is known exactly. One
service runs the default model on two replicas with one thread each, and for the part `replicas` once more on one replica.
Everything comes over HTTP. Each part runs by its name, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from cluster.hardware import CpuClass
from deployments.errors import fail
from serve_app.bench import (
    hearing_footprint,
    hearing_long,
    hearing_replicas,
    hearing_speakers,
    hearing_speed,
    hearing_words,
)
from serve_app.bench.frame import Figure, Report, Sheet, carry_out
from serve_app.bench.hearing_corpus import Corpus, corpus
from serve_app.bench.hearing_service import THREADS, HearingModel, default_model, hearing_service
from serve_app.bench.running_service import RunningProgram


@dataclass(frozen=True, slots=True)
class HearingPlan:
    """How much is measured: the parts that run unless others are named, seconds of the recording, of its part for repeated
    rounds, of the recording for one and two replicas, of a clip and of the long recording, rounds, files without speech, and
    mixtures of voices."""

    parts: tuple[str, ...]
    corpus_s: float
    part_s: float
    replicas_s: float
    clip_s: float
    long_s: float
    rounds: int
    files: int
    mixtures: int
    two_voices: bool


QUICK = HearingPlan(
    parts=("speed", "words", "speakers"),
    corpus_s=40.0,
    part_s=40.0,
    replicas_s=240.0,
    clip_s=8.0,
    long_s=150.0,
    rounds=1,
    files=10,
    mixtures=2,
    two_voices=False,
)
FULL = HearingPlan(
    parts=("speed", "replicas", "words", "long", "speakers", "footprint"),
    corpus_s=1800.0,
    part_s=600.0,
    replicas_s=900.0,
    clip_s=28.0,
    long_s=7200.0,
    rounds=3,
    files=60,
    mixtures=10,
    two_voices=True,
)


@dataclass(frozen=True, slots=True)
class Listening:
    """What the parts that ask a service share."""

    sheet: Sheet
    plan: HearingPlan
    model: HearingModel
    service: RunningProgram
    recording: Corpus


def _speed(at: Listening) -> None:
    plan = at.plan
    hearing_speed.measure_speed(at.sheet, at.service, at.model, at.recording, plan.rounds, plan.part_s, plan.clip_s)


def _replicas(at: Listening) -> None:
    hearing_replicas.measure_replicas(at.sheet, at.service, at.model, at.recording, at.plan.replicas_s, at.plan.rounds)


OVER_HTTP: Mapping[str, Callable[[Listening], None]] = {
    "speed": _speed,
    "replicas": _replicas,
    "words": lambda at: hearing_words.measure_words(at.sheet, at.service, at.recording, at.plan.files),
    "long": lambda at: hearing_long.measure_long(at.sheet, at.service, at.recording, at.plan.long_s),
}
"""The parts that share one service."""


def run(quick: bool, parts: tuple[str, ...] = ()) -> Report:
    """Measures everything, or only some `parts`; `quick` takes a short recording by one voice, once.

    Raises `MotetError` (not_found) for a part that is unknown.
    """
    # Libraries read these variables when they are imported: faster-whisper's threads wait for each other like those of a
    # replica, and the service, which inherits them, has one thread a process.
    os.environ |= CpuClass(cpus=THREADS, threads=THREADS).environment() | {"OMP_NUM_THREADS": "1"}
    plan = QUICK if quick else FULL
    chosen = _checked(parts) or plan.parts

    def measure(sheet: Sheet) -> None:
        model = default_model()
        if "speakers" in chosen:
            hearing_speakers.measure_speakers(sheet, plan.mixtures, kokoro=plan.two_voices)
        if asked := [part for part in OVER_HTTP if part in chosen]:
            _listen(sheet, plan, model, asked)
        if "footprint" in chosen:
            hearing_footprint.measure_footprints(sheet, model)

    return carry_out("hearing", _figures(plan, chosen), measure, quick=quick)


def _listen(sheet: Sheet, plan: HearingPlan, model: HearingModel, parts: Collection[str]) -> None:
    recording = corpus(plan.corpus_s, two_voices=plan.two_voices)
    sheet.put(RECORDING, recording.seconds, f"{recording.voices}; {len(recording.text.split())} words")
    with (
        sheet.measuring("starting the service"),
        hearing_service(model, also_one_replica="replicas" in parts) as service,
    ):
        for part in parts:
            OVER_HTTP[part](Listening(sheet, plan, model, service, recording))


def _checked(parts: tuple[str, ...]) -> tuple[str, ...]:
    for part in parts:
        if part not in FULL.parts:
            near = get_close_matches(part, FULL.parts, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Parts: {', '.join(FULL.parts)}."
            raise fail("not_found", f"The benchmark 'hearing' has no part {part!r}.", hint, param="parts")
    return parts


RECORDING = "the recording"


def _figures(plan: HearingPlan, parts: Collection[str]) -> list[Figure]:
    declared: Mapping[str, Callable[[], list[Figure]]] = {
        "speed": hearing_speed.figures,
        "replicas": hearing_replicas.figures,
        "words": lambda: hearing_words.figures(plan.files),
        "long": lambda: hearing_long.figures(plan.long_s),
        "speakers": lambda: hearing_speakers.figures(plan.mixtures),
        "footprint": hearing_footprint.figures,
    }
    own = [Figure(RECORDING, "s")] if set(parts) & set(OVER_HTTP) else []
    return [*own, *(figure for part, figures in declared.items() if part in parts for figure in figures())]
