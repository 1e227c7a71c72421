"""How fast and how well the service transcribes: beside faster-whisper, with two replicas, over hours, and without speech;
and how well it tells speakers apart.

The recordings are made with the embedded voices (`hearing_corpus.py`), so what is said, and when, is known exactly. One
service runs the default model twice, on two replicas and on one, each with one thread, and everything comes over HTTP.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from cluster.hardware import CpuClass
from serve_app.bench import hearing_footprint, hearing_long, hearing_speakers, hearing_speed, hearing_words
from serve_app.bench.frame import Figure, Report, Sheet, carry_out
from serve_app.bench.hearing_corpus import corpus
from serve_app.bench.hearing_service import THREADS, default_model, hearing_service


@dataclass(frozen=True, slots=True)
class HearingPlan:
    """How much is measured: seconds of the recording, of a clip and of the long recording, rounds, files without speech, and
    mixtures of voices."""

    corpus_s: float
    clip_s: float
    long_s: float
    rounds: int
    files: int
    mixtures: int
    two_voices: bool
    footprints: bool


QUICK = HearingPlan(
    corpus_s=60.0, clip_s=8.0, long_s=150.0, rounds=1, files=10, mixtures=2, two_voices=False, footprints=False
)
FULL = HearingPlan(
    corpus_s=1800.0, clip_s=28.0, long_s=7200.0, rounds=3, files=60, mixtures=10, two_voices=True, footprints=True
)


def run(quick: bool) -> Report:
    """Measures everything; `quick` takes a short recording by one voice, once."""
    # Libraries read these variables when they are imported: faster-whisper's threads wait for each other like those of a
    # replica, and the service, which inherits them, has one thread a process.
    os.environ |= CpuClass(cpus=THREADS, threads=THREADS).environment() | {"OMP_NUM_THREADS": "1"}
    plan = QUICK if quick else FULL

    def measure(sheet: Sheet) -> None:
        model = default_model()
        recording = corpus(plan.corpus_s, two_voices=plan.two_voices)
        sheet.put(RECORDING, recording.seconds, f"{recording.voices}; {len(recording.text.split())} words")
        hearing_speakers.measure_speakers(sheet, plan.mixtures, kokoro=plan.two_voices)
        with sheet.measuring("starting the service"), hearing_service(model) as service:
            hearing_speed.measure_speed(sheet, service, model, recording, plan.rounds, plan.clip_s)
            hearing_words.measure_words(sheet, service, recording, plan.files)
            hearing_long.measure_long(sheet, service, recording, plan.long_s)
        if plan.footprints:
            hearing_footprint.measure_footprints(sheet, model)

    return carry_out("hearing", _figures(plan), measure, quick=quick)


RECORDING = "the recording"


def _figures(plan: HearingPlan) -> list[Figure]:
    return [
        Figure(RECORDING, "s"),
        *hearing_speed.figures(),
        *hearing_words.figures(plan.files),
        *hearing_long.figures(plan.long_s),
        *hearing_speakers.figures(plan.mixtures),
        *(hearing_footprint.figures() if plan.footprints else ()),
    ]
