"""The live panels of the page in a real browser, whose microphone plays a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from openai import OpenAI
from playwright.sync_api import Browser

from deployments.audio.resample import resample

from .browser import MICROPHONE, WAIT_S, Browsers, Studio, studio_with
from .conftest import OUT, Float, Service, encoded, spoken, word_errors

RATE = 48_000
SENTENCE = "The quick brown fox jumps over the lazy dog."
"""Short: a microphone is as slow as its speaker."""


@contextmanager
def live_page(browser: Browser, service: Service, permissions: Sequence[str] = MICROPHONE) -> Iterator[Studio]:
    with studio_with(browser, service, "live", permissions) as studio:
        for panel in ("captions", "converse"):
            studio.until(f"document.getElementById('{panel}-button')?.disabled === false")
        yield studio


@pytest.fixture(scope="module")
def sentence(client: OpenAI) -> Float:
    return spoken(client, SENTENCE)


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


@pytest.fixture(scope="module")
def talking(browsers: Browsers, sentence: Float, tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """A browser whose microphone hears the sentence, from its beginning each time that it is opened."""
    return browsers.get(microphone(tmp_path_factory.mktemp("talking"), 1.0, sentence, 60.0))


def test_captions_show_what_is_spoken(talking: Browser, service: Service) -> None:
    with live_page(talking, service) as studio:
        studio.page.click("#captions-button")
        studio.until("document.body.dataset.captionsState === 'listening'")
        studio.until("document.querySelector('#captions-text .committed')?.textContent", WAIT_S)
        studio.page.screenshot(path=OUT / "page-captions.png")
        studio.until("document.getElementById('captions-text').textContent.includes('dog')", WAIT_S)
        studio.page.click("#captions-button")
        studio.until("document.body.dataset.captionsState === 'stopped'", WAIT_S)
        assert word_errors(words_of(studio, "captions", ".committed"), SENTENCE) < 0.2
        assert words_of(studio, "captions", ".tentative").strip() == ""
        studio.check_quiet()


def test_a_conversation_answers_aloud(talking: Browser, service: Service) -> None:
    with live_page(talking, service) as studio:
        assert studio.value("document.getElementById('converse-answers').value") == "echo"
        studio.page.click("#converse-button")
        studio.until("document.body.dataset.converseState === 'speaking'", WAIT_S)
        studio.page.screenshot(path=OUT / "page-conversation.png")
        studio.until("document.body.dataset.converseState === 'listening'")
        assert word_errors(words_of(studio, "converse", ".turn.you span"), SENTENCE) < 0.2
        assert word_errors(words_of(studio, "converse", ".turn:not(.you) span"), SENTENCE) < 0.2
        studio.page.click("#converse-button")
        studio.until("document.body.dataset.converseState === 'stopped'")
        studio.check_quiet()


def test_whoever_speaks_interrupts_the_answer(
    browsers: Browsers, service: Service, pangram: Float, sentence: Float, tmp_path: Path
) -> None:
    # An answer takes as long as the pangram. One of these pauses ends in it, whether it begins after 1 s or after 10 s.
    pauses = (3.0, sentence, 7.0, sentence, 11.0, sentence, 60.0)
    with live_page(browsers.get(microphone(tmp_path, 0.2, pangram, *pauses)), service) as studio:
        studio.page.click("#converse-button")
        studio.until("document.body.dataset.converseInterruptions", WAIT_S)
        answers = studio.value("document.body.dataset.converseAnswers")
        assert words_of(studio, "converse", ".turn:not(.you) span").endswith("—")
        studio.until(f"document.body.dataset.converseAnswers > {answers}", WAIT_S)
        assert studio.value("document.getElementById('converse-error').hidden")
        studio.check_quiet()


@pytest.mark.parametrize("panel", ["captions", "converse"])
def test_a_denied_microphone_is_explained(browser: Browser, panel: str, service: Service) -> None:
    with live_page(browser, service, permissions=()) as studio:
        studio.page.click(f"#{panel}-button")
        studio.until(f"document.body.dataset.{panel}State === 'failed'")
        said = studio.value(f"document.getElementById('{panel}-error').textContent")
        assert "may not use the microphone. Allow it" in said
        assert studio.value(f"document.getElementById('{panel}-label').textContent") == "Start"
