"""The embeddings of hibari's voice, as it is and with the pitch and formants of others."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soxr
from hibari import SAMPLE_RATE as HIBARI_RATE
from hibari import Hibari

from deployments.audio import speaker_embedding
from deployments.audio.mel_filters import mel_filters
from deployments.audio.speaker_embedding import SAMPLE_RATE, Embeddings, mel_energies, shared_encoder
from deployments.engines.protocols import Samples
from deployments.errors import MotetError

TEXTS = ("The meeting was moved from the morning to the afternoon.", "She sells sea shells by the sea shore every day.")


@cache
def voice() -> Hibari:
    return Hibari()


@cache
def said(text: str, pitch: float = 1.0) -> Samples:
    """A text by hibari at 16 kHz, with pitch and formants scaled."""
    samples = np.asarray(voice()(text), np.float32)
    scaled: Samples = soxr.resample(samples, HIBARI_RATE * pitch, SAMPLE_RATE).astype(np.float32)
    return scaled


def similarity(one: Embeddings, other: Embeddings) -> float:
    return float(one @ other)


def test_one_voice_is_similar_and_others_are_not() -> None:
    encoder = shared_encoder()
    here, there = (encoder.embed(said(text)) for text in TEXTS)
    low, high = (encoder.embed(said(TEXTS[1], pitch)) for pitch in (0.8, 1.25))
    assert similarity(here, there) > 0.8
    assert max(similarity(here, low), similarity(here, high), similarity(low, high)) < 0.7


@pytest.mark.parametrize("gain", [0.01, 0.1, 3.0])
def test_the_level_does_not_matter(gain: float) -> None:
    encoder = shared_encoder()
    assert similarity(encoder.embed(said(TEXTS[0])), encoder.embed(said(TEXTS[0]) * np.float32(gain))) > 0.99


@pytest.mark.parametrize(("seconds", "count"), [(0.05, 1), (0.5, 1), (0.83, 1), (1.3, 2), (2.9, 6)])
def test_there_is_a_window_every_two_fifths_of_a_second(seconds: float, count: int) -> None:
    rows = shared_encoder().windows(said(TEXTS[0])[: int(seconds * SAMPLE_RATE)])
    assert rows.shape == (count, 256)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_a_window_does_not_depend_on_its_batch() -> None:
    """Apart from the rounding of int8, whose scale is that of the batch."""
    long = np.tile(said(TEXTS[1]), 6)
    rows = shared_encoder().windows(long)
    assert len(rows) > speaker_embedding.BATCH
    for at in (0, 7, len(rows) - 1):
        first = int(at * speaker_embedding.HOP_S * SAMPLE_RATE)
        assert similarity(rows[at], shared_encoder().windows(long[first : first + 13200])[0]) > 0.98


def test_silence_has_a_finite_embedding() -> None:
    assert np.isfinite(shared_encoder().embed(np.zeros(16000, np.float32))).all()
    assert np.isfinite(shared_encoder().embed(np.zeros(0, np.float32))).all()


def test_the_mel_filters_are_those_of_librosa() -> None:
    """The sums and peaks of `librosa.filters.mel(sr=16000, n_fft=512, n_mels=40)`, to which all values are equal to 1e-9."""
    filters = mel_filters(SAMPLE_RATE, 512, 40)
    assert filters.argmax(axis=0)[[0, 10, 20, 39]].tolist() == [2, 26, 56, 237]
    assert filters.sum(axis=0)[:3] == pytest.approx([0.03127547, 0.03163768, 0.03295854], abs=1e-7)
    assert [filters.sum(), np.square(filters).sum()] == pytest.approx([1.2793331, 0.0069933957], rel=1e-5)


def test_a_tone_is_in_the_filters_around_its_frequency() -> None:
    moments = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    energies = mel_energies(np.sin(2 * np.pi * 1000 * moments).astype(np.float32))
    assert energies.shape == (97, 40)
    assert set(energies.argmax(axis=1)) == {int(mel_filters(SAMPLE_RATE, 512, 40)[32].argmax())}


def test_a_file_with_other_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker_embedding, "SHA256", "0" * 64)
    with pytest.raises(MotetError, match="does not contain the expected file") as caught:
        shared_encoder.__wrapped__()
    assert caught.value.failure.code == "checksum_mismatch"


def test_a_missing_wheel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker_embedding, "WHEEL", "no-such-wheel")
    with pytest.raises(MotetError, match="'no-such-wheel' is not installed") as caught:
        shared_encoder.__wrapped__()
    assert caught.value.failure.code == "wheel_missing"
