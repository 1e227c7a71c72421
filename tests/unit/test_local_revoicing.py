"""`motet revoice` with stand-ins for its models: whose voice the phrases are spoken with."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cluster.models import Model
from deployments.engines.protocols import (
    RecognitionTraits,
    Segment,
    SpeechRequest,
    SpeechTraits,
    Transcript,
    Window,
    Word,
)
from deployments.engines.registry import Task
from deployments.errors import MotetError
from deployments.settings import VoiceActivitySettings, WindowSettings
from serve_app.cli import local_revoicing
from serve_app.cli.local import LoadedModel
from serve_app.cli.local_revoicing import LocalRevoicing, RevoicingChoices
from serve_app.config import AppConfig
from serve_app.gateway.settings import VoiceSettings
from serve_app.gateway.voice_store import EVERYONE, VoiceStore
from tests.unit.fakes import TRAITS, ToneEngine, ToneUtterance

RATE = 16_000
ALL_IS_SPEECH = WindowSettings(voice_activity=VoiceActivitySettings(enabled=False))


class Ear:
    """Hears two words in every window."""

    traits = RecognitionTraits(RATE, (), False, 30.0, word_times=True)

    def transcribe(self, windows: Sequence[Window]) -> list[Transcript | Exception]:
        words = (Word(" Hello", 0.2, 0.6, 1.0), Word(" there.", 0.6, 1.0, 1.0))
        return [Transcript((Segment(" Hello there.", 0.2, 1.0, 0.0, 0.0, words=words),), "en") for _ in windows]


class Speaker(ToneEngine):
    """Keeps what it was asked for."""

    def __init__(self, clones: bool) -> None:
        super().__init__()
        self.clones = clones
        self.asked: list[SpeechRequest] = []

    @property
    def traits(self) -> SpeechTraits:
        return replace(TRAITS, clones=self.clones)

    def open(self, request: SpeechRequest) -> ToneUtterance:
        self.asked.append(request)
        return super().open(request)


def recording(seconds: float = 2.0) -> io.BytesIO:
    file = io.BytesIO()
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * RATE))
    soundfile.write(file, samples, RATE, format="WAV")
    file.seek(0)
    return file


def use(speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes it the speech model."""

    def load(app: AppConfig, wanted: str | None, task: Task) -> LoadedModel:
        return LoadedModel("tone", Model(engine="simulated"), "cpu", speaker if task == "speech" else Ear(), 0.0)

    monkeypatch.setattr(local_revoicing, "load_model", load)


def test_a_stored_clip_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speaker = Speaker(clones=True)
    use(speaker, monkeypatch)
    app = AppConfig(voices=VoiceSettings(folder=str(tmp_path)), windows=ALL_IS_SPEECH)
    ada = VoiceStore(app.voices).add(EVERYONE, recording().read(), "Ada", "I agree.", None)
    parts = list(LocalRevoicing(app, RevoicingChoices(voice=ada.id), None).parts(recording(), None))
    assert sum(part.samples.shape[-1] for part in parts) > 0
    assert speaker.asked
    for request in speaker.asked:
        assert request.reference is not None
        assert (request.voice, request.reference.id) == (ada.id, ada.id)


def test_a_stored_clip_needs_a_model_that_speaks_like_one(monkeypatch: pytest.MonkeyPatch) -> None:
    use(Speaker(clones=False), monkeypatch)
    with pytest.raises(MotetError, match="'tone' does not speak like a clip"):
        LocalRevoicing(AppConfig(), RevoicingChoices(voice="voice_" + "0" * 32), None)


def test_a_voice_of_the_model_has_no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    speaker = Speaker(clones=True)
    use(speaker, monkeypatch)
    app = AppConfig(windows=ALL_IS_SPEECH)
    list(LocalRevoicing(app, RevoicingChoices(voice="bo"), None).parts(recording(), None))
    assert {(request.voice, request.reference) for request in speaker.asked} == {("bo", None)}
