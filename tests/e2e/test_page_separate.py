"""The Separate view in a real browser: tracks on one clock, with their spectrograms; less noise, and a new voice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from .browser import Browsers, Studio, context, studio_of
from .conftest import OUT, Float, Service, decoded, encoded

NAMES = "[...document.querySelectorAll('.track')].map((track) => track.dataset.track)"
WATCH_STARTS = """
const started = AudioBufferSourceNode.prototype.start;
window.starts = [];
AudioBufferSourceNode.prototype.start = function (when, offset) {
  window.starts.push([when, offset]);
  return started.call(this, when, offset);
};
const made = BaseAudioContext.prototype.createGain;
window.gains = [];
BaseAudioContext.prototype.createGain = function () {
  const gain = made.call(this);
  window.gains.push(gain);
  return gain;
};
const ramp = AudioParam.prototype.setTargetAtTime;
AudioParam.prototype.setTargetAtTime = function (target, ...times) {
  this.goal = target;  // a gain without a sounding source does not move, and keeps its value
  return ramp.call(this, target, ...times);
};
"""
COLOURS = """[...document.querySelectorAll('.track canvas')].map((canvas) => {
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const found = new Set();
  for (let i = 0; i < data.length; i += 4) found.add(data[i] * 65536 + data[i + 1] * 256 + data[i + 2]);
  return found.size;
})"""


@pytest.fixture(scope="module")
def studio(browsers: Browsers, service: Service) -> Iterator[Studio]:
    with context(browsers.get()) as profile:
        profile.add_init_script(WATCH_STARTS)
        yield studio_of(service, profile, "separate")


@pytest.fixture(scope="module")
def recording(pangram: Float, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recording") / "pangram.wav"
    file.write_bytes(encoded(pangram, 24_000, "WAV"))
    return file


def do(studio: Studio, task: str, recording: Path) -> None:
    studio.page.locator(f"#separate-tasks input[value='{task}']").check()
    studio.page.set_input_files("#separate-file", recording)
    studio.state("separate-state", "separating")
    studio.state("separate-state", "done")


def test_a_recording_becomes_tracks_that_play_on_one_clock(studio: Studio, recording: Path, pangram: Float) -> None:
    do(studio, "stems", recording)
    assert studio.value(NAMES) == ["recording", "speech", "background"]
    assert min(studio.value(COLOURS)) > 20  # each spectrogram shows something
    place = studio.page.locator("#separate-transport")
    place.get_by_label("Position").fill("1")
    place.get_by_label("Play").click()
    studio.until("Number(document.body.dataset.trackSeconds) > 1.3")
    starts = studio.value("window.starts")
    assert len(starts) == 3
    assert len({tuple(start) for start in starts}) == 1
    assert starts[0][1] == pytest.approx(1.0)
    place.get_by_label("Pause").click()
    studio.page.screenshot(path=OUT / "page-separated.png", full_page=True)
    name, data = studio.saved("[data-track='speech'] [aria-label='Save speech']")
    samples, rate = decoded(data)
    assert name == "pangram-speech.wav"
    assert samples.shape[1] / rate == pytest.approx(len(pangram) / 24_000, abs=0.1)
    studio.check_quiet()


def hear(studio: Studio, recording: bool = False, speech: bool = False, background: bool = False) -> None:
    """Checks that these tracks sound, and no others: each has a gain, in the order of the tracks."""
    sounding = [recording, speech, background]
    assert studio.value("gains.slice(-3).map(({ gain }) => (gain.goal ?? gain.value) === 1)") == sounding
    names = [name for name, sounds in zip(studio.value(NAMES), sounding, strict=True) if sounds]
    assert studio.value("document.body.dataset.tracksHeard") == ",".join(names)


def test_tracks_are_muted_and_heard_alone(studio: Studio) -> None:
    hear(studio, speech=True, background=True)
    studio.page.get_by_label("Mute background").click()
    hear(studio, speech=True)
    studio.page.get_by_label("Hear recording alone").click()
    hear(studio, recording=True)
    expect(studio.page.get_by_label("Hear recording alone")).to_have_attribute("aria-pressed", "true")
    studio.page.get_by_label("Hear recording alone").click()
    hear(studio, speech=True)


def test_only_the_chosen_stems_are_made(studio: Studio) -> None:
    studio.page.get_by_label("background", exact=True).uncheck()
    studio.page.click("#separate-again")
    studio.state("separate-state", "separating")
    studio.state("separate-state", "done")
    assert studio.value(NAMES) == ["recording", "speech"]
    studio.page.get_by_label("speech", exact=True).uncheck()
    studio.page.click("#separate-again")
    assert studio.text("#separate-error") == "Choose at least one stem."
    studio.page.get_by_label("background", exact=True).check()


def test_noise_is_taken_away_beside_the_original(studio: Studio) -> None:
    studio.page.locator("#separate-tasks input[value='enhance']").check()
    expect(studio.page.locator("#separate-stems")).to_be_hidden()
    studio.page.click("#separate-sample")
    studio.state("separate-state", "separating")
    studio.state("separate-state", "done")
    assert studio.value(NAMES) == ["recording", "cleaned"]
    studio.check_quiet()


def test_another_voice_says_the_same(studio: Studio, recording: Path) -> None:
    do(studio, "revoice", recording)
    assert studio.value(NAMES) == ["recording", "new voice"]
    assert "fox" in studio.text("#separate-phrases")
    studio.check_quiet()


def test_a_refusal_is_a_sentence(studio: Studio, tmp_path: Path) -> None:
    file = tmp_path / "picture.wav"
    file.write_bytes(b"\xff\xd8\xff\xe0" + bytes(1000))
    studio.page.set_input_files("#separate-file", file)
    studio.state("separate-state", "failed")
    assert "looks like a JPEG picture" in studio.text("#separate-error")
