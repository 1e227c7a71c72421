"""Live sessions: how far text is behind the speech, how soon a conversation answers, and what bad connections leave behind.

The recordings are made with the embedded voices, so it is known when each word is said. Sessions are fed in real time by a
process of their own, and everything comes over WebSockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.bench import live_answers, live_curve, live_disturbance
from serve_app.bench.frame import Figure, Report, Sheet, carry_out
from serve_app.bench.hearing_corpus import Corpus, corpus
from serve_app.bench.live_chat_model import chat_model
from serve_app.bench.live_client_processes import ClientProcesses
from serve_app.bench.live_points import Stage
from serve_app.bench.live_recordings import LONGEST_SENTENCE, LiveRecording, dictations, utterances
from serve_app.bench.live_service import BASE, TINY, live_service


@dataclass(frozen=True, slots=True)
class LivePlan:
    """How much is measured: models, sessions, seconds of each session, conversations at once and their turns,
    interruptions, bad connections and the seconds within which they come. `compared`: also with each session by itself.
    Without `turns` the one conversation is that with the interruptions."""

    models: tuple[str, ...]
    counts: tuple[int, ...]
    session_s: float
    compared: bool
    conversations: tuple[int, ...]
    turns: int
    interruptions: int
    bad: int
    bad_s: float

    @property
    def corpus_s(self) -> float:
        """Seconds of the recording from which all sessions hear parts."""
        return max(max(self.counts) * self.session_s, LEAST_CORPUS_S)


LEAST_CORPUS_S = 64.0
"""Long enough for some utterances without a pause."""
QUICK = LivePlan((TINY,), (live_disturbance.GOOD,), 6.0, False, (1,), 0, 2, 30, 4.0)
FULL = LivePlan((TINY, BASE), (1, 2, 4, 8, 16), 40.0, True, (1, 4), 8, 10, 200, 20.0)


def run(quick: bool) -> Report:
    """Measures everything; `quick` takes one small model, two sessions and one conversation, once."""
    plan = QUICK if quick else FULL

    def measure(sheet: Sheet) -> None:
        recording = corpus(plan.corpus_s, two_voices=False, longest=LONGEST_SENTENCE)
        sheet.put(RECORDING, recording.seconds, _described(recording))
        with (
            chat_model() as chat_url,
            ClientProcesses() as clients,
            sheet.measuring("starting the service"),
            live_service(plan.models, chat_url, compared=plan.compared) as service,
        ):
            stage = Stage(service, clients, dictations(recording, max(plan.counts), plan.session_s))
            _measure_all(sheet, stage, plan, [*utterances(recording)])

    return carry_out("live", _figures(plan), measure, quick=quick)


def _measure_all(sheet: Sheet, stage: Stage, plan: LivePlan, said: Sequence[LiveRecording]) -> None:
    live_answers.measure_answers(sheet, stage, TINY, said, plan.conversations, plan.turns, plan.interruptions)
    curves = [
        live_curve.measure_curve(sheet, stage, model, plan.counts, compared=plan.compared) for model in plan.models
    ]
    calm = None if plan.compared else curves[0].get(live_disturbance.GOOD)
    live_disturbance.measure_disturbance(sheet, stage, TINY, said[0].samples, plan.bad, plan.bad_s, calm)


RECORDING = "the recording"


def _described(recording: Corpus) -> str:
    silent = sum(end - start for start, end in recording.silences)
    return f"{recording.voices}; {len(recording.text.split())} words; {1 - silent / recording.seconds:.0%} is speech"


def _figures(plan: LivePlan) -> list[Figure]:
    return [
        Figure(RECORDING, "s"),
        *live_curve.figures(plan.models, plan.counts, compared=plan.compared),
        *live_answers.figures(plan.conversations),
        *live_disturbance.figures(plan.bad),
    ]
