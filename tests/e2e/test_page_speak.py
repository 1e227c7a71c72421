"""The Speak view in a real browser: sound while it is made, words that sound, files to save, and the history."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from .browser import Browsers, Studio, studio_with
from .conftest import OUT, Service, decoded

WORDS = ["Good", "morning", "to", "everyone."]


@pytest.fixture(scope="module")
def studio(browsers: Browsers, service: Service) -> Iterator[Studio]:
    with studio_with(browsers.get(), service) as opened:
        yield opened


def speak(studio: Studio, text: str) -> None:
    studio.page.fill("#speak-text", text)
    studio.page.click("#speak-button")
    studio.state("speak-state", "done")


def test_nothing_can_be_saved_before_something_was_spoken_and_the_page_says_so(studio: Studio) -> None:
    expect(studio.page.locator("#speak-download")).to_be_disabled()
    assert "until something has been spoken" in studio.text("#speak-download-note")


def test_a_click_speaks_and_the_sound_is_played_to_its_end(studio: Studio) -> None:
    speak(studio, "Good morning to everyone.")
    assert 0.8 < float(studio.value("document.body.dataset.playedSeconds")) < 5
    assert studio.value("Number(document.body.dataset.firstSoundMs)") > 0
    assert studio.page.locator("#speak-words span").all_inner_texts() == WORDS
    assert studio.value("document.body.dataset.spokenWord") in WORDS  # the last one that was highlighted
    studio.page.screenshot(path=OUT / "page-spoken.png")
    studio.check_quiet()


def test_what_was_spoken_can_be_played_again_and_searched(studio: Studio) -> None:
    speak(studio, "Good morning to everyone.")
    place = studio.page.locator("#speak-transport")
    place.get_by_label("Position").fill("0.6")
    assert studio.value("document.querySelector('#speak-words .sounding')?.textContent") in WORDS
    place.get_by_label("Play").click()
    expect(place.get_by_label("Pause")).to_be_visible()
    expect(place.get_by_label("Play", exact=True)).to_be_visible(timeout=20_000)
    assert re.fullmatch(r"0:0[1-4] / 0:0[1-4]", place.locator(".time").inner_text())


def test_it_is_saved_as_sound_and_as_captions(studio: Studio) -> None:
    speak(studio, "Good morning to everyone.")
    length = float(studio.value("document.body.dataset.playedSeconds"))
    for kind, exact in (("wav", 0.001), ("mp3", 0.2)):
        studio.page.select_option("#speak-format", kind)
        name, data = studio.saved("#speak-download")
        samples, rate = decoded(data)
        assert name == f"motet-heart.{kind}"
        assert samples.shape[1] / rate == pytest.approx(length, abs=exact)
    studio.page.select_option("#speak-format", "srt")
    name, data = studio.saved("#speak-download")
    assert name.endswith(".srt")
    assert re.fullmatch(r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\nGood morning to everyone\.\n", data.decode())
    studio.page.select_option("#speak-format", "vtt")
    assert studio.saved("#speak-download")[1].decode().startswith("WEBVTT\n\n00:00:0")


def test_the_history_is_kept_in_the_browser_until_it_is_cleared(studio: Studio) -> None:
    speak(studio, "This one is kept.")
    studio.open()
    studio.page.fill("#speak-text", "Something else.")
    row = studio.page.locator("#history-list li").first
    assert "This one is kept." in row.inner_text()
    row.locator(".row-main").click()
    expect(studio.page.locator("#speak-text")).to_have_value("This one is kept.")
    expect(studio.page.locator("#speak-download")).to_be_enabled()
    assert studio.page.locator("#speak-words span").all_inner_texts() == ["This", "one", "is", "kept."]
    count = studio.page.locator("#history-list li").count()
    row.get_by_label("Delete").click()
    expect(studio.page.locator("#history-list li")).to_have_count(count - 1)
    studio.page.click("#history-clear")  # asks first
    studio.page.click("#history-clear")
    expect(studio.page.locator("#history-list li")).to_have_count(0)
    assert "in this browser only" in studio.text("#history-note")
    studio.check_quiet()


def test_a_long_text_streams_can_be_stopped_and_is_no_wall(studio: Studio) -> None:
    before = studio.value("document.querySelector('.stage').getBoundingClientRect().height")
    studio.page.fill("#speak-text", "One thing is said, and another one comes after it. " * 120)
    studio.page.click("#speak-button")
    studio.state("speak-state", "speaking")
    studio.until("document.querySelectorAll('#speak-words span').length > 200")
    after = studio.value("document.querySelector('.stage').getBoundingClientRect().height")
    assert after < before + 260
    assert studio.value("document.getElementById('speak-text').getBoundingClientRect().height") < 600
    studio.page.keyboard.press("Escape")
    studio.state("speak-state", "stopped")
    assert "can be saved" in studio.text("#speak-status")
    expect(studio.page.locator("#speak-download")).to_be_enabled()


def test_what_the_model_leaves_out_is_said(studio: Studio) -> None:
    studio.page.fill("#speak-text", "Hello, my friend. Привет.")
    studio.page.locator("#speak-more summary").click()
    studio.page.fill("#speak-instructions", "Calm")
    studio.page.click("#speak-button")
    studio.state("speak-state", "done")
    said = studio.text("#speak-error")
    assert "does not read Cyrillic" in said
    assert "follows no direction" in said
    studio.check_quiet()
