"""The live panels of the page in a real browser, whose microphone plays a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from deployments.audio.resample import resample

from .browser import Browser, chromium
from .conftest import OUT, PANGRAM, Float, Service, encoded, word_errors
from .test_page import check_quiet

RATE = 48_000
WORDS_S = 90.0
"""The most that recognition may take; the machine may be busy."""
FAKE_MICROPHONE = "--use-fake-device-for-media-stream"
AGREE, DENY = "--use-fake-ui-for-media-stream", "--use-fake-ui-for-media-stream=deny"


@contextmanager
def live_page(service: Service, folder: Path, *flags: str) -> Iterator[Browser]:
    with chromium(folder, FAKE_MICROPHONE, *flags) as browser:
        browser.call("Page.navigate", url=f"{service.url}/")
        for panel in ("captions", "converse"):
            browser.wait_until(f"document.getElementById('{panel}-button')?.disabled === false")
        yield browser


def microphone(folder: Path, *parts: Float | float) -> str:
    """The flag of a microphone that plays sounds at 24 kHz and seconds of silence, and then stays silent."""
    sounds = [
        np.zeros(round(part * RATE), np.float32) if isinstance(part, float) else resample(part, 24_000, RATE)
        for part in parts
    ]
    file = folder / "microphone.wav"
    file.write_bytes(encoded(np.concatenate(sounds), RATE, "WAV", "PCM_16"))
    return f"--use-file-for-fake-audio-capture={file}%noloop"


def words_of(page: Browser, panel: str, turn: str = "") -> str:
    script = f"[...document.querySelectorAll('#{panel}-text {turn}')].map((each) => each.textContent).join(' ')"
    return str(page.value(script))


def test_captions_show_what_is_spoken(service: Service, pangram: Float, tmp_path: Path) -> None:
    with live_page(service, tmp_path, AGREE, microphone(tmp_path, 1.0, pangram, 60.0)) as page:
        page.click("#captions-button")
        page.wait_until("document.body.dataset.captionsState === 'listening'")
        page.wait_until("document.querySelector('#captions-text .committed')?.textContent", WORDS_S)
        page.screenshot(OUT / "page-captions.png")
        page.wait_until("document.getElementById('captions-text').textContent.includes('tree')", WORDS_S)
        page.click("#captions-button")
        page.wait_until("document.body.dataset.captionsState === 'stopped'", WORDS_S)
        assert word_errors(words_of(page, "captions", ".committed"), PANGRAM) < 0.2
        assert words_of(page, "captions", ".tentative").strip() == ""
        check_quiet(page, service)


def test_a_conversation_answers_aloud(service: Service, pangram: Float, tmp_path: Path) -> None:
    with live_page(service, tmp_path, AGREE, microphone(tmp_path, 1.0, pangram, 60.0)) as page:
        assert page.value("document.getElementById('converse-answers').value") == "echo"
        page.click("#converse-button")
        page.wait_until("document.body.dataset.converseState === 'speaking'", WORDS_S)
        page.screenshot(OUT / "page-conversation.png")
        page.wait_until("document.body.dataset.converseState === 'listening'")
        assert word_errors(words_of(page, "converse", ".turn.you span"), PANGRAM) < 0.2
        assert word_errors(words_of(page, "converse", ".turn:not(.you) span"), PANGRAM) < 0.2
        page.click("#converse-button")
        page.wait_until("document.body.dataset.converseState === 'stopped'")
        check_quiet(page, service)


def test_whoever_speaks_interrupts_the_answer(service: Service, pangram: Float, tmp_path: Path) -> None:
    # An answer takes as long as the sentence. One of these pauses ends in it, whether it begins after 1 s or after 10 s.
    spoken = microphone(tmp_path, 1.0, pangram, 3.0, pangram, 7.0, pangram, 11.0, pangram, 60.0)
    with live_page(service, tmp_path, AGREE, spoken) as page:
        page.click("#converse-button")
        page.wait_until("document.body.dataset.converseInterruptions", WORDS_S)
        answers = page.value("document.body.dataset.converseAnswers")
        assert words_of(page, "converse", ".turn:not(.you) span").endswith("—")
        page.wait_until(f"document.body.dataset.converseAnswers > {answers}", WORDS_S)
        assert page.value("document.getElementById('converse-error').hidden")
        check_quiet(page, service)


@pytest.mark.parametrize("panel", ["captions", "converse"])
def test_a_denied_microphone_is_explained(panel: str, service: Service, tmp_path: Path) -> None:
    with live_page(service, tmp_path, DENY) as page:
        page.click(f"#{panel}-button")
        page.wait_until(f"document.body.dataset.{panel}State === 'failed'")
        said = page.value(f"document.getElementById('{panel}-error').textContent")
        assert "may not use the microphone. Allow it" in said
        assert page.value(f"document.getElementById('{panel}-label').textContent") == "Start"
