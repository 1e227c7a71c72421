"""The Speak view when answers cross, break off or come late: what was asked for last is shown, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import pytest
from playwright.sync_api import Browser, expect

from .browser import Studio, studio_with
from .scripted_service import EVENTS, Answer, ScriptedService, failure, speech_of, spoken_events, voices_of

SPEECH = "POST /v1/audio/speech"
TWO_VOICES = "GET /v1/audio/voices?model=two"
KEEP = """(names) => import('/page/speak/history-store.js').then(async ({ keep }) => {
  for (const [number, name] of names.entries()) {
    await keep({
      at: 1e12 + number, settings: { input: name, model: 'one', voice: 'one-a', speed: 1, instructions: '', seed: 0 },
      request: { model: 'one', input: name }, voiceLabel: 'one-a', words: [{ text: name, start: 0, end: 0.1 }],
      pcm: new Blob([new Int16Array(2400 * (number + 1)).fill(900)]), sampleRate: 24000, seconds: 0.1 * (number + 1),
      whole: true,
    });
  }
})"""
HOLD_FIRST_ENTRY = """
const read = Blob.prototype.arrayBuffer;
const held = new Promise((resolve) => { window.release = resolve; });
Blob.prototype.arrayBuffer = async function () {
  const found = await read.call(this);
  if (this.size === 4800) await held;
  return found;
};
"""
HOLD_FIRST_LIST = """
const getAll = IDBObjectStore.prototype.getAll;
window.holdList = false;
IDBObjectStore.prototype.getAll = function () {
  const request = getAll.call(this);
  if (!window.holdList) return request;
  window.holdList = false;
  const late = new EventTarget();
  request.addEventListener('success', () => {
    window.release = () => { late.result = request.result; late.dispatchEvent(new Event('success')); };
  });
  return late;
};
"""


@pytest.fixture
def studio(browser: Browser, scripted: ScriptedService) -> Iterator[Studio]:
    scripted.answer(SPEECH, speech_of("Good morning."))
    with studio_with(browser, scripted) as opened:
        yield opened


def speak(studio: Studio, text: str = "Good morning.") -> None:
    studio.page.fill("#speak-text", text)
    studio.page.click("#speak-button")


def rows(studio: Studio) -> list[str]:
    return studio.page.locator("#history-list .row-title").all_inner_texts()


def open_with_history(studio: Studio, script: str, *names: str) -> None:
    """The Studio with entries of its history, and with a script that begins before the page does."""
    studio.page.evaluate(KEEP, list(names))
    studio.page.add_init_script(script)
    studio.open()
    expect(studio.page.locator("#history-list li")).to_have_count(len(names))


# The history


def test_of_two_entries_the_one_that_was_opened_last_is_shown(studio: Studio) -> None:
    open_with_history(studio, HOLD_FIRST_ENTRY, "slow", "fast")
    studio.page.get_by_role("button", name="slow one-a").click()
    studio.page.get_by_role("button", name="fast one-a").click()
    expect(studio.page.locator("#speak-text")).to_have_value("fast")
    studio.value("(window.release(), new Promise((resolve) => setTimeout(resolve)))")
    assert studio.page.locator("#speak-words span").all_inner_texts() == ["fast"]
    assert studio.page.input_value("#speak-text") == "fast"


def test_an_entry_takes_over_from_the_speech_that_is_made_of_which_a_part_is_kept(
    studio: Studio, scripted: ScriptedService
) -> None:
    open_with_history(studio, "", "kept")
    more = Event()
    first, *rest = spoken_events("Good morning to everyone.", word_s=0.5)
    scripted.answer(SPEECH, Answer([first, more, *rest], EVENTS))
    speak(studio, "Good morning to everyone.")
    studio.state("speak-state", "speaking")
    studio.page.get_by_role("button", name="kept one-a").click()
    expect(studio.page.locator("#speak-status")).to_have_text("From the history.")
    more.set()
    expect(studio.page.locator("#history-list li")).to_have_count(2)
    assert "a part" in studio.page.locator("#history-list li").first.inner_text()
    assert studio.page.locator("#speak-words span").all_inner_texts() == ["kept"]
    assert studio.text("#speak-status") == "From the history."
    expect(studio.page.locator("#stop-button")).to_be_disabled()
    studio.check_quiet()


def test_what_has_arrived_is_kept_when_the_tab_closes(studio: Studio, scripted: ScriptedService) -> None:
    more = Event()
    first, *rest = spoken_events("Good morning to everyone.", word_s=0.5)
    scripted.answer(SPEECH, Answer([first, more, *rest], EVENTS))
    speak(studio, "This is not finished.")
    studio.state("speak-state", "speaking")
    studio.open()
    more.set()
    expect(studio.page.locator("#history-list li")).to_contain_text("This is not finished.")
    expect(studio.page.locator("#history-list li")).to_contain_text("a part")


def test_lists_of_changes_that_cross_are_shown_in_the_order_of_the_changes(studio: Studio) -> None:
    open_with_history(studio, HOLD_FIRST_LIST, "first", "second", "third")
    studio.value("window.holdList = true")
    studio.page.get_by_label("Delete “first”").click()
    studio.until("typeof window.release === 'function'")
    studio.page.get_by_label("Delete “second”").click()
    studio.value("window.release()")
    expect(studio.page.locator("#history-list .row-title")).to_have_text(["third"])


def test_the_history_keeps_the_newest_also_when_saves_cross(studio: Studio) -> None:
    crossing = """import('/page/speak/history-store.js').then(async ({ entries, keep }) => {
      const pcm = new Blob([new Int16Array(10)]);
      await Promise.all(Array.from({ length: 30 }, (_, at) => keep({ at, pcm })));
      return (await entries()).map(({ at }) => at);
    })"""
    assert studio.value(crossing) == list(range(29, 5, -1))


def test_the_history_is_bounded_by_its_bytes(studio: Studio) -> None:
    large = """import('/page/speak/history-store.js').then(async ({ entries, keep }) => {
      for (let at = 0; at < 3; at += 1) await keep({ at, pcm: new Blob([new Uint8Array(30 * 1024 * 1024)]) });
      await keep({ at: 3, pcm: new Blob([new Uint8Array(65 * 1024 * 1024)]) });
      return (await entries()).map(({ at }) => at);
    })"""
    assert studio.value(large) == [2, 1]


def test_the_keyboard_stays_in_the_history_when_its_entries_go(studio: Studio) -> None:
    open_with_history(studio, "", "first", "second", "third")
    studio.page.get_by_label("Delete “second”").press("Enter")
    expect(studio.page.get_by_label("Delete “first”")).to_be_focused()  # it has taken the place of the second
    studio.page.get_by_label("Delete “first”").press("Enter")
    expect(studio.page.get_by_label("Delete “third”")).to_be_focused()
    studio.page.locator("#history-clear").press("Enter")
    studio.page.locator("#history-clear").press("Enter")
    expect(studio.page.locator("#history-title")).to_be_focused()


# Voices and models


def test_the_voices_that_are_offered_are_those_of_the_chosen_model(studio: Studio, scripted: ScriptedService) -> None:
    known = Event()
    scripted.answer(TWO_VOICES, Answer([known, *voices_of("two-a", "two-b").parts]))
    studio.page.select_option("#speak-model", "two")
    assert studio.value("document.querySelectorAll('#speak-voice option').length") == 0
    speak(studio)
    known.set()
    studio.state("speak-state", "done")
    (body,) = scripted.bodies("/v1/audio/speech")
    assert (body["model"], body["voice"]) == ("two", "two-a")
    assert studio.page.locator("#speak-voice option").all_inner_texts() == ["two-a (en)", "two-b (en)"]


def test_late_voices_of_another_model_change_nothing(studio: Studio, scripted: ScriptedService) -> None:
    known = Event()
    scripted.answer(TWO_VOICES, Answer([known, *voices_of("two-a").parts]))
    studio.page.select_option("#speak-voice", "one-b")
    studio.page.select_option("#speak-model", "two")
    studio.page.select_option("#speak-model", "one")
    expect(studio.page.locator("#speak-voice")).to_have_value("one-b")
    known.set()
    speak(studio)
    studio.state("speak-state", "done")
    assert scripted.bodies("/v1/audio/speech")[0]["voice"] == "one-b"


def test_voices_that_load_do_not_take_the_error_of_a_speech_away(studio: Studio, scripted: ScriptedService) -> None:
    scripted.answer(SPEECH, failure("The text is odd."))
    speak(studio)
    expect(studio.page.locator("#speak-error")).to_have_text("The text is odd.")
    studio.page.select_option("#speak-model", "two")
    expect(studio.page.locator("#speak-voice")).to_have_value("two-a")
    assert studio.text("#speak-error") == "The text is odd."
    scripted.answer(TWO_VOICES, failure("No voices.", 500), voices_of("two-a"))
    studio.page.select_option("#speak-model", "one")
    studio.page.select_option("#speak-model", "two")
    expect(studio.page.locator("#speak-error")).to_have_text("No voices.")
    studio.page.select_option("#speak-model", "one")
    expect(studio.page.locator("#speak-error")).to_be_hidden()


# Parts


def test_a_speech_that_breaks_off_is_marked_as_a_part_and_saved_as_one(
    studio: Studio, scripted: ScriptedService
) -> None:
    scripted.answer(SPEECH, Answer(spoken_events("Good morning.", done=False), EVENTS))
    speak(studio, "Good morning to everyone.")
    studio.state("speak-state", "failed")
    assert "before the speech was complete" in studio.text("#speak-error")
    offered = studio.page.locator("#speak-format option").all_inner_texts()
    assert offered == ["WAV", "Captions (SRT)", "Captions (WebVTT)"]  # another format would be all of it
    assert "Only a part" in studio.text("#speak-download-note")
    assert studio.saved("#speak-download")[0] == "motet-one-a-part.wav"
    assert "a part" in studio.text("#history-list li")
    studio.page.click("#history-list .row-main")
    expect(studio.page.locator("#speak-status")).to_have_text("From the history: a part of it.")
    assert studio.page.locator("#speak-format option").count() == 3


def test_a_whole_speech_is_no_part(studio: Studio) -> None:
    speak(studio)
    studio.state("speak-state", "done")
    assert studio.page.locator("#speak-format option").count() == 7
    assert "a part" not in studio.text("#history-list li")
    assert studio.text("#speak-download-note") == ""


# Downloads


def test_a_download_is_what_was_chosen_when_it_was_asked_for(studio: Studio, scripted: ScriptedService) -> None:
    speak(studio)
    studio.state("speak-state", "done")
    encoded = Event()
    scripted.answer(SPEECH, Answer([encoded, b"sound"], "audio/mpeg"))
    studio.page.select_option("#speak-format", "mp3")
    with studio.page.expect_download() as download:
        studio.page.click("#speak-download")
        expect(studio.page.locator("#speak-download-note")).to_contain_text("encodes it now")
        studio.page.select_option("#speak-format", "opus")
        studio.page.select_option("#speak-voice", "one-b")
        encoded.set()
    assert download.value.suggested_filename == "motet-one-a.mp3"
    expect(studio.page.locator("#speak-download-note")).to_contain_text("The service encodes it:")


def test_an_older_download_does_not_come_after_a_newer_one(studio: Studio, scripted: ScriptedService) -> None:
    speak(studio)
    studio.state("speak-state", "done")
    saved: list[str] = []
    studio.page.on("download", lambda download: saved.append(download.suggested_filename))
    encoded = Event()
    scripted.answer(SPEECH, Answer([encoded, b"older"], "audio/mpeg"), Answer([b"newer"], "audio/flac"))
    studio.page.select_option("#speak-format", "mp3")
    studio.page.click("#speak-download")
    studio.page.select_option("#speak-format", "flac")
    studio.page.click("#speak-download")
    studio.until("document.getElementById('speak-download-note').textContent.startsWith('The service encodes it:')")
    encoded.set()
    studio.page.select_option("#speak-format", "wav")
    assert studio.saved("#speak-download")[0] == "motet-one-a.wav"
    assert saved == ["motet-one-a.flac", "motet-one-a.wav"]


# Keys


def test_escape_closes_a_dialog_and_lets_the_speech_go_on(studio: Studio, scripted: ScriptedService) -> None:
    more = Event()
    first, *rest = spoken_events("Good morning to everyone.", word_s=0.3)
    scripted.answer(SPEECH, Answer([first, more, *rest], EVENTS))
    speak(studio)
    studio.state("speak-state", "speaking")
    studio.page.click("#voices-add")
    studio.page.keyboard.press("Escape")
    expect(studio.page.locator("#voice-dialog")).to_be_hidden()
    assert studio.value("document.body.dataset.speakState") == "speaking"
    studio.page.keyboard.press("Escape")
    studio.state("speak-state", "stopped")
    more.set()
