"""The live panels of the page in a real browser, whose microphone plays a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from deployments.audio.resample import resample

from .browser import AGREE, DENY, FAKE_MICROPHONE, WAIT_S, Studio, studio_with
from .conftest import OUT, PANGRAM, Float, Service, encoded, word_errors

RATE = 48_000


@contextmanager
def live_page(service: Service, *flags: str) -> Iterator[Studio]:
    with studio_with(service, FAKE_MICROPHONE, *flags, view="live") as studio:
        for panel in ("captions", "converse"):
            studio.until(f"document.getElementById('{panel}-button')?.disabled === false")
        yield studio


def microphone(folder: Path, *parts: Float | float) -> str:
    """The flag of a microphone that plays sounds at 24 kHz and seconds of silence, and then stays silent."""
    sounds = [
        np.zeros(round(part * RATE), np.float32) if isinstance(part, float) else resample(part, 24_000, RATE)
        for part in parts
    ]
    file = folder / "microphone.wav"
    file.write_bytes(encoded(np.concatenate(sounds), RATE, "WAV", "PCM_16"))
    return f"--use-file-for-fake-audio-capture={file}%noloop"


def words_of(studio: Studio, panel: str, turn: str = "") -> str:
    script = f"[...document.querySelectorAll('#{panel}-text {turn}')].map((each) => each.textContent).join(' ')"
    return str(studio.value(script))


def test_captions_show_what_is_spoken(service: Service, pangram: Float, tmp_path: Path) -> None:
    with live_page(service, AGREE, microphone(tmp_path, 1.0, pangram, 60.0)) as studio:
        studio.page.click("#captions-button")
        studio.until("document.body.dataset.captionsState === 'listening'")
        studio.until("document.querySelector('#captions-text .committed')?.textContent", WAIT_S)
        studio.page.screenshot(path=OUT / "page-captions.png")
        studio.until("document.getElementById('captions-text').textContent.includes('tree')", WAIT_S)
        studio.page.click("#captions-button")
        studio.until("document.body.dataset.captionsState === 'stopped'", WAIT_S)
        assert word_errors(words_of(studio, "captions", ".committed"), PANGRAM) < 0.2
        assert words_of(studio, "captions", ".tentative").strip() == ""
        studio.check_quiet()


def test_a_conversation_answers_aloud(service: Service, pangram: Float, tmp_path: Path) -> None:
    with live_page(service, AGREE, microphone(tmp_path, 1.0, pangram, 60.0)) as studio:
        assert studio.value("document.getElementById('converse-answers').value") == "echo"
        studio.page.click("#converse-button")
        studio.until("document.body.dataset.converseState === 'speaking'", WAIT_S)
        studio.page.screenshot(path=OUT / "page-conversation.png")
        studio.until("document.body.dataset.converseState === 'listening'")
        assert word_errors(words_of(studio, "converse", ".turn.you span"), PANGRAM) < 0.2
        assert word_errors(words_of(studio, "converse", ".turn:not(.you) span"), PANGRAM) < 0.2
        studio.page.click("#converse-button")
        studio.until("document.body.dataset.converseState === 'stopped'")
        studio.check_quiet()


def test_whoever_speaks_interrupts_the_answer(service: Service, pangram: Float, tmp_path: Path) -> None:
    # An answer takes as long as the sentence. One of these pauses ends in it, whether it begins after 1 s or after 10 s.
    spoken = microphone(tmp_path, 1.0, pangram, 3.0, pangram, 7.0, pangram, 11.0, pangram, 60.0)
    with live_page(service, AGREE, spoken) as studio:
        studio.page.click("#converse-button")
        studio.until("document.body.dataset.converseInterruptions", WAIT_S)
        answers = studio.value("document.body.dataset.converseAnswers")
        assert words_of(studio, "converse", ".turn:not(.you) span").endswith("—")
        studio.until(f"document.body.dataset.converseAnswers > {answers}", WAIT_S)
        assert studio.value("document.getElementById('converse-error').hidden")
        studio.check_quiet()


@pytest.mark.parametrize("panel", ["captions", "converse"])
def test_a_denied_microphone_is_explained(panel: str, service: Service) -> None:
    with live_page(service, DENY) as studio:
        studio.page.click(f"#{panel}-button")
        studio.until(f"document.body.dataset.{panel}State === 'failed'")
        said = studio.value(f"document.getElementById('{panel}-error').textContent")
        assert "may not use the microphone. Allow it" in said
        assert studio.value(f"document.getElementById('{panel}-label').textContent") == "Start"
