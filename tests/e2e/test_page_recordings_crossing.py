"""Recordings, samples and tracks of the Studio when one begins before another has ended: what begins last wins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
from playwright.sync_api import Browser, expect

from .browser import MICROPHONE, Studio, context, studio_of
from .scripted_service import (
    Answer,
    ScriptedService,
    failure,
    json_of,
    own_voices_of,
    tracks_of,
    transcript_of,
    wav_of,
)

TRANSCRIPTIONS, SEPARATIONS = "/v1/audio/transcriptions", "/v1/audio/separations"
NAMES = "[...document.querySelectorAll('.track')].map((track) => track.dataset.track)"
SCRIPT = """
window.microphones = [];
const devices = navigator.mediaDevices;
const ask = devices?.getUserMedia;
if (devices) devices.getUserMedia = async (wanted) => {
  await window.permission;
  const stream = await ask.call(devices, wanted);
  window.microphones.push(...stream.getAudioTracks());
  return stream;
};
const decode = BaseAudioContext.prototype.decodeAudioData;
window.decodes = 0;
BaseAudioContext.prototype.decodeAudioData = async function (...data) {
  window.decodes += 1;
  if (window.decodes === 2 && window.slow) await window.slow;
  return decode.apply(this, data);
};
"""


@pytest.fixture
def studio(browser: Browser, scripted: ScriptedService) -> Iterator[Studio]:
    scripted.answer(f"POST {TRANSCRIPTIONS}", transcript_of("One two three four."))
    scripted.answer(f"POST {SEPARATIONS}", tracks_of("separation", "speech", "background"))
    with context(browser, permissions=MICROPHONE) as profile:
        profile.add_init_script(SCRIPT)
        yield studio_of(scripted, profile, "transcribe")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    file = tmp_path / "chosen.wav"
    file.write_bytes(wav_of(0.5))
    return file


def test_a_file_that_is_chosen_ends_a_recording_of_which_nothing_arrives(
    studio: Studio, scripted: ScriptedService, recording: Path
) -> None:
    studio.page.click("#transcribe-record")
    studio.state("transcribe-recording", "true")
    studio.page.set_input_files("#transcribe-file", recording)
    studio.state("transcribe-recording", "false")
    studio.state("transcribe-state", "done")
    studio.until("microphones.every(({ readyState }) => readyState === 'ended')")
    assert studio.text("[data-recording=transcribe] .drop-name") == "chosen.wav"
    assert len(scripted.asked_for(TRANSCRIPTIONS)) == 1
    studio.check_quiet()


def test_a_microphone_that_is_given_too_late_records_nothing(studio: Studio) -> None:
    page = studio.page
    page.goto(f"{studio.url}/#speak")
    studio.value("void (window.permission = new Promise((resolve) => { window.allow = resolve; }))")
    page.click("#voices-add")
    page.click("#voice-record")
    page.click("#voice-close")
    page.click("#voices-add")
    studio.value("window.allow()")
    studio.until("microphones.length === 1 && microphones[0].readyState === 'ended'")
    expect(page.locator("#voice-record")).to_have_text("Record")
    assert studio.value("document.body.dataset.voiceRecording") == "false"
    page.click("#voice-record")
    studio.state("voice-recording", "true")
    studio.check_quiet()


def test_a_microphone_that_is_disconnected_can_be_started_again(studio: Studio) -> None:
    studio.page.click("#transcribe-record")
    studio.state("transcribe-recording", "true")
    expect(studio.page.locator("#transcribe-record")).to_have_text("Finish")
    assert studio.page.locator("#transcribe-record").get_attribute("aria-pressed") is None  # its label says it
    studio.value("void microphones[0].dispatchEvent(new Event('ended'))")
    expect(studio.page.locator("#transcribe-error")).to_have_text("The microphone was disconnected.")
    expect(studio.page.locator("#transcribe-record")).to_have_text("Record")
    studio.page.click("#transcribe-record")
    studio.state("transcribe-recording", "true")


def test_a_sample_that_comes_late_does_not_replace_a_file(
    studio: Studio, scripted: ScriptedService, recording: Path
) -> None:
    spoken = Event()
    scripted.answer("POST /v1/audio/speech", Answer([spoken, bytes(4800)], "audio/pcm"))
    studio.page.click("#transcribe-sample")
    expect(studio.page.locator("#transcribe-sample")).to_have_text("Making the sample…")
    studio.page.set_input_files("#transcribe-file", recording)
    studio.state("transcribe-state", "done")
    spoken.set()
    expect(studio.page.locator("#transcribe-sample")).to_have_text("Use a sample conversation")
    assert studio.text("[data-recording=transcribe] .drop-name") == "chosen.wav"
    assert len(scripted.asked_for(TRANSCRIPTIONS)) == 1


def test_models_that_are_offered_again_do_not_end_what_is_under_way(studio: Studio) -> None:
    made = """import('/page/ui/recording-input.js').then(({ RecordingInput }) => {
      const place = document.createElement('div');
      place.dataset.recording = 'probe';
      place.dataset.sample = 'Use a sample';
      document.body.append(place);
      let asked = 0;
      const input = new RecordingInput('probe', {
        onFile() {}, onError() {}, sample: () => new Promise(() => { asked += 1; }),
      });
      const button = place.querySelector('.sample');
      const seen = [button.disabled];
      input.allow(true);
      button.click();
      input.allow(false);
      input.allow(true);
      button.click();
      return [...seen, button.textContent, asked];
    })"""
    assert studio.value(made) == [True, "Making the sample…", 1]


def test_a_sample_that_fails_leaves_the_transcript_as_it_is(
    studio: Studio, scripted: ScriptedService, recording: Path
) -> None:
    studio.page.set_input_files("#transcribe-file", recording)
    studio.state("transcribe-state", "done")
    said = studio.text("#transcribe-status")
    scripted.answer("POST /v1/audio/speech", failure("No voice is there.", 500))
    studio.page.click("#transcribe-sample")
    expect(studio.page.locator("#transcribe-error")).to_have_text("No voice is there.")
    assert studio.value("document.body.dataset.transcribeState") == "done"
    assert studio.text("#transcribe-status") == said


# Tracks


def test_tracks_of_an_earlier_recording_do_not_join_those_of_a_later_one(studio: Studio, recording: Path) -> None:
    studio.open("separate")
    studio.value("void (window.slow = new Promise((resolve) => { window.release = resolve; }))")
    studio.page.set_input_files("#separate-file", recording)
    studio.until("window.decodes === 2")
    studio.page.set_input_files("#separate-file", recording)
    studio.state("separate-state", "done")
    studio.value("window.release(), new Promise((resolve) => setTimeout(resolve, 300))")
    assert studio.value(NAMES) == ["recording", "speech", "background"]
    studio.check_quiet()


def test_a_new_recording_ends_the_tracks_of_the_old_one(studio: Studio, recording: Path) -> None:
    studio.open("separate")
    studio.page.set_input_files("#separate-file", recording)
    studio.state("separate-state", "done")
    transport = studio.page.locator("#separate-transport")
    transport.get_by_label("Position").fill("0.3")
    for name in ("speech", "background"):
        studio.page.get_by_label(name, exact=True).uncheck()
    studio.page.set_input_files("#separate-file", recording)
    expect(studio.page.locator("#separate-error")).to_have_text("Choose at least one stem.")
    assert studio.value(NAMES) == []
    expect(transport).to_be_hidden()
    assert float(studio.value("document.body.dataset.trackSeconds")) == 0
    expect(studio.page.locator("#separate-again")).to_be_visible()


# The dialog of a voice


def add_voice(studio: Studio, recording: Path) -> None:
    """Fills the dialog in."""
    page = studio.page
    page.click("#voices-add")
    page.set_input_files("#voice-file", recording)
    page.fill("#voice-name", "Ada")
    page.check("#voice-agreed")


def test_a_save_that_ends_late_leaves_the_next_dialog_open(
    studio: Studio, scripted: ScriptedService, recording: Path
) -> None:
    page = studio.page
    stored = Event()
    scripted.answer("POST /v1/audio/voices", Answer([stored, b"{}"]))
    page.goto(f"{studio.url}/#speak")
    add_voice(studio, recording)
    page.click("#voice-save")
    page.click("#voice-close")
    page.click("#voices-add")
    page.fill("#voice-name", "Grace")
    scripted.answer("GET /v1/audio/voices", own_voices_of("Ada"))
    stored.set()
    studio.state("own-voices", "1")
    expect(page.locator("#voice-dialog")).to_be_visible()
    expect(page.locator("#voice-name")).to_have_value("Grace")


def test_whoever_types_what_a_clip_says_is_not_overwritten(
    studio: Studio, scripted: ScriptedService, recording: Path
) -> None:
    page = studio.page
    heard = Event()
    scripted.answer(f"POST {TRANSCRIPTIONS}", Answer([heard, *json_of({"text": "Heard."}).parts]))
    page.goto(f"{studio.url}/#speak")
    add_voice(studio, recording)
    page.click("#voice-hear")
    expect(page.locator("#voice-text")).to_be_focused()
    page.keyboard.type("Typed.")
    heard.set()
    expect(page.locator("#voice-hear")).to_be_enabled()
    expect(page.locator("#voice-text")).to_have_value("Typed.")
    page.fill("#voice-text", "")
    page.click("#voice-hear")
    expect(page.locator("#voice-text")).to_have_value("Heard.")
