"""How a model is tried: briefly by `motet doctor`, and with figures by `motet models add`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.models import Model
from deployments.engines.protocols import SpeechRequest, VoiceReference
from serve_app.cli import doctor_models, local, models_trial

CLIP = VoiceReference("trial", np.zeros(10, np.float32), 24_000, models_trial.SENTENCE)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[SpeechRequest]:
    """What an engine with no voice of its own is asked to speak."""
    requests: list[SpeechRequest] = []

    def speak_here(request: SpeechRequest, engine: Any) -> list[Any]:
        requests.append(request)
        return [SimpleNamespace(seconds=1.0)]

    traits = SimpleNamespace(default_voice=None, voices=(), sample_rate=24_000)
    monkeypatch.setattr(local, "load_engine", lambda *_: SimpleNamespace(traits=traits))
    monkeypatch.setattr(models_trial, "speak_here", speak_here)
    monkeypatch.setattr(models_trial, "_clip", lambda: CLIP)
    return requests


def test_the_doctor_tries_a_model_without_a_voice_with_a_clip(asked: list[SpeechRequest]) -> None:
    (found,) = doctor_models.model_findings("clone", Model(engine="simulated"), {"cpu"})
    assert found.state == "ok" and "voices: ; 24000 Hz" in found.detail
    assert [(request.pieces, request.reference) for request in asked] == [((models_trial.BRIEF_SENTENCE,), CLIP)]


def test_a_trial_counts_the_second_time_of_a_whole_sentence(asked: list[SpeechRequest]) -> None:
    outcome = models_trial.trial_of("clone", Model(engine="simulated"))
    assert outcome.trial.audio_seconds == 1.0 and outcome.about.startswith("it spoke for 1.0 s")
    assert [request.pieces for request in asked] == [(models_trial.SENTENCE,)] * 2
