"""The Transcribe view in a real browser: text while it is heard, words that seek, speakers, and files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from .browser import Browsers, Studio, studio_with
from .conftest import OUT, PANGRAM, Float, Service, encoded, word_errors

WORDS = "[...document.querySelectorAll('#transcribe-text .word')].map((word) => word.textContent).join(' ')"


@pytest.fixture(scope="module")
def studio(browsers: Browsers, service: Service) -> Iterator[Studio]:
    with studio_with(browsers.get(), service, view="transcribe") as opened:
        yield opened


@pytest.fixture(scope="module")
def recording(pangram: Float, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recording") / "pangram.wav"
    file.write_bytes(encoded(pangram, 24_000, "WAV"))
    return file


def test_a_chosen_recording_becomes_words_that_seek(studio: Studio, recording: Path) -> None:
    studio.page.set_input_files("#transcribe-file", recording)
    studio.state("transcribe-state", "done")
    assert word_errors(studio.value(WORDS), PANGRAM) < 0.1
    word = studio.page.locator("#transcribe-text .word", has_text="fox")
    word.click()
    start = float(word.get_attribute("data-start") or 0)
    assert start > 0.5
    assert float(studio.value("document.body.dataset.soughtSeconds")) == start
    expect(studio.page.locator("#transcribe-text .word.sounding")).not_to_have_text("fox")  # it plays on
    studio.page.screenshot(path=OUT / "page-transcribed.png")
    studio.check_quiet()


def test_the_arrow_keys_go_from_word_to_word(studio: Studio) -> None:
    first = studio.page.locator("#transcribe-text .word").first
    first.focus()
    studio.page.keyboard.press("ArrowRight")
    expect(studio.page.locator("#transcribe-text .word").nth(1)).to_be_focused()
    studio.page.keyboard.press("ArrowLeft")
    expect(first).to_be_focused()
    assert studio.value("document.querySelectorAll('#transcribe-text .word[tabindex=\"0\"]').length") == 1


def test_the_transcript_is_saved_in_four_formats(studio: Studio) -> None:
    found = {}
    for kind in ("txt", "srt", "vtt", "json"):
        studio.page.select_option("#transcribe-format", kind)
        name, data = studio.saved("#transcribe-download")
        assert name == f"pangram.{kind}"
        found[kind] = data.decode()
    assert word_errors(found["txt"], PANGRAM) < 0.1
    assert found["srt"].startswith("1\n00:00:0")
    assert found["vtt"].startswith("WEBVTT\n\n00:00:0")
    assert max(map(len, found["srt"].splitlines())) <= 45
    words = json.loads(found["json"])["words"]
    assert all(word["start"] <= word["end"] for word in words)
    assert len(words) == len(PANGRAM.split())


def test_a_sample_conversation_has_two_speakers_in_two_colours(studio: Studio) -> None:
    studio.page.click("#transcribe-sample")
    studio.state("transcribe-state", "transcribing")
    studio.state("transcribe-state", "done")
    names = studio.page.locator("#transcribe-text .turn strong").all_inner_texts()
    assert set(names) == {"Speaker A", "Speaker B"}
    colours = "new Set([...document.querySelectorAll('#transcribe-text strong')].map((name) => getComputedStyle(name).color)).size"
    assert studio.value(colours) == 2
    assert re.search(r"(one|1) hour and (twenty|20) minutes", studio.value(WORDS).lower())
    studio.check_quiet()


def test_a_refusal_is_a_sentence_and_goes_away_with_the_next_recording(
    studio: Studio, recording: Path, tmp_path: Path
) -> None:
    file = tmp_path / "picture.wav"
    file.write_bytes(b"\xff\xd8\xff\xe0" + bytes(1000))
    studio.page.set_input_files("#transcribe-file", file)
    studio.state("transcribe-state", "failed")
    assert "looks like a JPEG picture" in studio.text("#transcribe-error")
    studio.page.set_input_files("#transcribe-file", recording)
    expect(studio.page.locator("#transcribe-error")).to_be_hidden()
    studio.state("transcribe-state", "done")


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_on_any_screen_what_came_of_a_recording_is_in_view(
    size: tuple[int, int], recording: Path, browsers: Browsers, service: Service
) -> None:
    with studio_with(browsers.get(), service, view="transcribe") as studio:
        studio.page.set_viewport_size({"width": size[0], "height": size[1]})
        studio.page.set_input_files("#transcribe-file", recording)
        studio.state("transcribe-state", "done")
        expect(studio.page.locator("#transcribe-text .word").first).to_be_in_viewport()
        studio.page.set_input_files(
            "#transcribe-file", {"name": "broken.mp3", "mimeType": "audio/mpeg", "buffer": bytes(5000)}
        )
        studio.state("transcribe-state", "failed")
        expect(studio.page.locator("#transcribe-error")).to_be_in_viewport()
