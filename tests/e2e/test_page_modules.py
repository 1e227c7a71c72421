"""Modules of the Studio, each called alone in a real browser. They need no service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .browser import Browsers, Studio, studio_with
from .scripted_service import scripted_service

WORDS = "[['Good', 0, 0.3], ['morning.', 0.3, 0.9], ['Then', 3, 3.2], ['come', 3.2, 3.4]]"
TONE = """({ powerSpectrum, WINDOW }) => {
  const samples = Float32Array.from({ length: 2 * WINDOW }, (_, i) => Math.sin((2 * Math.PI * 100 * i) / WINDOW));
  const power = [...powerSpectrum(samples, 500)];
  const loudest = power.indexOf(Math.max(...power));
  return [power.length, loudest, power[loudest], power[loudest + 3]];
}"""


@pytest.fixture(scope="module")
def studio(browsers: Browsers) -> Iterator[Studio]:
    with scripted_service() as service, studio_with(browsers.get(), service) as opened:
        yield opened


def called(studio: Studio, module: str, function: str) -> Any:
    """What a function of JavaScript returns, which gets the module."""
    return studio.value(f"import('/page/{module}').then({function})")


def cues(studio: Studio, words: str, form: str) -> str:
    function = f"({{ cuesOf, {form} }}) => {form}(cuesOf({words}))"
    return str(called(studio, "text/subtitles.js", function))


def test_subtitles_end_where_the_speaker_pauses(studio: Studio) -> None:
    words = f"{WORDS}.map(([text, start, end]) => ({{ text, start, end }}))"
    assert cues(studio, words, "srt") == (
        "1\n00:00:00,000 --> 00:00:00,900\nGood morning.\n\n2\n00:00:03,000 --> 00:00:03,400\nThen come\n"
    )


def test_subtitles_name_a_new_speaker_and_escape_markup(studio: Studio) -> None:
    words = (
        "[['<b>', 0, 1, 'A'], ['yes', 1, 2, 'B']].map(([text, start, end, speaker]) => ({ text, start, end, speaker }))"
    )
    assert cues(studio, words, "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n<v A>&lt;b&gt;\n\n00:00:01.000 --> 00:00:02.000\n<v B>yes\n"
    )


def test_subtitles_have_two_short_lines_and_words_without_spaces_stay_together(studio: Studio) -> None:
    many = "Array.from({ length: 40 }, (_, i) => ({ text: 'wording', start: i / 10, end: (i + 1) / 10 }))"
    lines = [line for line in cues(studio, many, "srt").splitlines() if "wording" in line]
    assert max(map(len, lines)) <= 42
    assert sum(line.count("wording") for line in lines) == 40
    attached = "[{ text: '你', start: 0, end: 1 }, { text: '好', start: 1, end: 2, attached: true }]"
    assert "你好" in cues(studio, attached, "srt")


def test_the_spectrum_of_a_tone_has_its_power_at_its_frequency(studio: Studio) -> None:
    bins, loudest, power, beside = called(studio, "sound/fourier.js", TONE)
    assert (bins, loudest) == (1025, 100)
    assert power == pytest.approx(1.0, abs=1e-3)
    assert beside < 1e-6


def test_samples_survive_the_way_to_bytes_and_back(studio: Studio) -> None:
    function = """({ Take, toBytes, toFloats }) => {
      const bytes = toBytes(Float32Array.of(0, 0.5, -0.5, 2, -2));
      const take = new Take(10);
      take.append(bytes.subarray(0, 3));
      take.append(bytes.subarray(3));
      take.finish();
      return take.pieces.flatMap((piece) => [...toFloats(piece)]);
    }"""
    assert called(studio, "sound/take.js", function) == pytest.approx([0, 0.5, -0.5, 1, -1], abs=1e-3)
