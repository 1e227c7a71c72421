"""Voices of one's own in a real browser: recorded, agreed to, tried and deleted. The model clones with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from .browser import MICROPHONE, Browsers, Studio, context, tab_of
from .conftest import Service, encoded

RATE = 24_000


@pytest.fixture(scope="module")
def studio(browsers: Browsers, cloning_service: Service) -> Iterator[Studio]:
    with context(browsers.get(), permissions=MICROPHONE) as profile:
        opened = tab_of(cloning_service, profile)
        opened.page.goto(cloning_service.url)
        opened.state("ready", "true")
        expect(opened.page.locator("#speak-button")).to_be_enabled()
        yield opened


def test_a_voice_needs_a_clip_a_name_and_consent(studio: Studio) -> None:
    page = studio.page
    page.click("#voices-add")
    page.click("#voice-save")
    assert studio.text("#voice-error") == "Choose or record a clip first."
    page.click("#voice-record")
    expect(page.locator("[data-recording=voice] .record-time")).to_have_text("0:02", timeout=20_000)
    page.click("#voice-record")
    expect(page.locator("#voice-clip")).to_be_visible()
    page.click("#voice-save")
    assert studio.text("#voice-error") == "Give the voice a name."
    page.fill("#voice-name", "Ada")
    assert page.locator("#voice-consent").input_value().startswith("Ada agreed that")
    page.click("#voice-save")
    assert "consent" in studio.text("#voice-error")
    page.check("#voice-agreed")
    page.click("#voice-save")
    expect(page.locator("#voice-dialog")).to_be_hidden()
    expect(page.locator("#voices-list li")).to_contain_text("Ada")


def test_a_voice_is_tried_and_chosen(studio: Studio) -> None:
    studio.page.fill("#speak-text", "One thing.")
    studio.page.get_by_label("Try Ada").click()
    studio.state("speak-state", "done")
    assert studio.text("#speak-voice option:checked") == "Ada"
    assert "Ada" in studio.text("#history-list li")
    studio.check_quiet()


def test_what_cannot_be_a_voice_is_refused_in_the_dialog(studio: Studio, tmp_path: Path) -> None:
    file = tmp_path / "short.wav"
    file.write_bytes(encoded(np.full(2400, 0.1, np.float32), RATE, "WAV"))
    page = studio.page
    page.click("#voices-add")
    page.set_input_files("#voice-file", file)
    page.fill("#voice-name", "Too short")
    page.check("#voice-agreed")
    page.click("#voice-save")
    expect(page.locator("#voice-error")).to_contain_text("a voice needs")
    page.keyboard.press("Escape")
    expect(page.locator("#voice-dialog")).to_be_hidden()


def test_a_voice_is_deleted_after_a_question(studio: Studio) -> None:
    remove = studio.page.get_by_label("Delete Ada")
    remove.click()
    expect(remove).to_have_text("Delete?")
    remove.click()
    expect(studio.page.locator("#voices-list li")).to_have_count(0)
    studio.until("document.querySelectorAll('#speak-voice option').length === 0")
