"""Spectrograms of a recording and its stems: what they show, and that they take no more memory for a longer sound."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from deployments.audio.decode import decode_all
from deployments.engines.protocols import Chunk, Samples, Stems
from deployments.errors import MotetError
from deployments.tasks.separation import separate_here
from serve_app.cli.separation_picture import COLUMNS, FFT, HOP, INPUT, SeparationPicture, Spectrogram, WithInput
from tests.unit.test_decode import make
from tests.unit.test_separation import RATE, TASK, Halves


def tone(hertz: float, seconds: float, channels: int = 1) -> Samples:
    time = np.arange(int(seconds * RATE)) / RATE
    return np.tile((0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32), (channels, 1))


def levels_of(samples: Samples, blocks: int = 1) -> Samples:
    spectrogram = Spectrogram(RATE)
    for block in np.array_split(samples, blocks, axis=1):
        spectrogram.push(block)
    return spectrogram.levels().astype(np.float32)


def test_a_tone_is_a_line_and_higher_tones_lie_higher() -> None:
    low, high = levels_of(tone(300, 1)), levels_of(tone(3000, 1))
    for levels in (low, high):
        assert np.ptp(levels.argmax(axis=0)) == 0
        assert levels[:, 3].max() - np.median(levels[:, 3]) > 40
    assert low.argmax(axis=0)[0] < high.argmax(axis=0)[0]


def test_the_blocks_do_not_matter_and_channels_in_opposite_phase_are_seen() -> None:
    sound = tone(440, 1.3, channels=2)
    whole = levels_of(sound)
    np.testing.assert_allclose(levels_of(sound, blocks=37), whole, rtol=0, atol=1e-3)
    opposite = np.stack((sound[0], -sound[1]))
    np.testing.assert_allclose(levels_of(opposite), whole, rtol=0, atol=1e-3)


def test_a_sound_shorter_than_a_frame_is_seen() -> None:
    assert levels_of(tone(440, 0.01)).shape[1] == 1
    assert levels_of(tone(440, 0.01)).max() > -60


def test_a_long_sound_has_no_more_columns_and_keeps_its_shape() -> None:
    """What comes in the second half is seen there."""
    seconds = 4 * COLUMNS * HOP / RATE
    sound = np.concatenate((np.zeros((1, int(seconds * RATE / 2)), np.float32), tone(1000, seconds / 2)), axis=1)
    levels = levels_of(sound, blocks=50)
    assert COLUMNS <= levels.shape[1] <= 2 * COLUMNS
    loud = levels.max(axis=0) > -20
    assert abs(float(loud.argmax()) / len(loud) - 0.5) < 0.01
    assert loud[loud.argmax() :].all()
    assert FFT > HOP


def test_the_recording_is_rebuilt_beside_its_stems() -> None:
    """The chunks, joined as the stems are, to 1e-6."""
    recording, engine = make("wav16", seconds=3.3), WithInput(Halves())
    parts = list(separate_here(io.BytesIO(recording), TASK, engine, max_audio_s=10))
    assert list(parts[0].stems) == [INPUT, *engine.traits.stems]
    joined = np.concatenate([part.stems[INPUT] for part in parts], axis=1)
    whole = decode_all(recording, sample_rate=RATE, mono=False, max_seconds=10)
    np.testing.assert_allclose(joined, whole, rtol=0, atol=1e-6)


def test_errors_of_an_engine_stay_errors() -> None:
    chunks = [Chunk(np.zeros((1, 10), np.float32), RATE, index) for index in range(2)]
    good, bad = WithInput(Halves(failing=1)).separate(chunks)
    assert isinstance(good, Stems) and isinstance(bad, ValueError)


def test_the_picture_has_a_part_for_each_sound() -> None:
    picture = SeparationPicture()
    for _ in range(3):
        picture.push(
            {"input": tone(300, 1), "speech": tone(300, 1), "background": np.zeros((1, RATE), np.float32)}, RATE
        )
    file = io.BytesIO()
    picture.save(file)
    image = Image.open(file)
    assert image.format == "PNG"
    pixels = np.asarray(image.convert("RGB"), np.float32)
    bright = (pixels[:, 200:900].min(axis=(1, 2)) > 250).sum()
    assert 0 < bright < image.height, "white between dark parts"


def test_without_the_library_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MotetError, match=r"motet\[bench\]") as caught:
        SeparationPicture()
    assert caught.value.failure.kind == "unavailable"
