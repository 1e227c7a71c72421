"""Recording from the microphone in a real browser, whose microphone plays a file."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from .browser import MICROPHONE, Browsers, studio_with
from .conftest import Float, Service
from .test_page_live import microphone
from .test_page_transcribe import WORDS


def test_the_microphone_is_recorded_with_its_level_and_its_time(
    browsers: Browsers, service: Service, pangram: Float, tmp_path: Path
) -> None:
    talking = browsers.get(microphone(tmp_path, pangram, 60.0))
    with studio_with(talking, service, "transcribe", MICROPHONE) as studio:
        studio.page.click("#transcribe-record")
        studio.state("transcribe-recording", "true")
        level = "Number(document.querySelector('[data-recording=transcribe] .level').getAttribute('aria-valuenow'))"
        studio.until(f"{level} > 20")
        expect(studio.page.locator("[data-recording=transcribe] .record-time")).to_have_text("0:03", timeout=20_000)
        studio.page.click("#transcribe-record")
        studio.state("transcribe-state", "done")
        assert "fox" in studio.value(WORDS)
        assert "recording.wav" in studio.text("[data-recording=transcribe] .drop-name")
        studio.check_quiet()


def test_a_denied_microphone_is_explained(browser: Browser, service: Service) -> None:
    with studio_with(browser, service, "transcribe") as studio:
        studio.page.click("#transcribe-record")
        expect(studio.page.locator("#transcribe-error")).to_contain_text("may not use the microphone. Allow it")
        expect(studio.page.locator("#transcribe-record")).to_be_enabled()
