"""How the Studio is for everybody: axe-core finds nothing, nothing is too wide or too small, and the keyboard suffices."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from .browser import LAPTOP, PHONE, VIEWS, WALL, Scheme, Studio, context, studio_of, tab_of
from .scripted_service import (
    Answer,
    ScriptedService,
    addition,
    list_of,
    own_voices_of,
    registry_model,
    speech_of,
    status_of,
    tracks_of,
    transcript_of,
    wav_of,
)

LEAST_CONTROL = 44
"""CSS pixels of a control on a phone."""
SMALL = f"""[...document.querySelectorAll('button, select, input, textarea, a, summary, label.check')]
  .filter((each) => each.offsetParent && !each.matches('.word, .time-link, .skip, .visually-hidden, [type=checkbox], [type=radio]'))
  .filter((each) => Math.round(each.getBoundingClientRect().height) < {LEAST_CONTROL})
  .map((each) => each.id || each.outerHTML.slice(0, 80))"""
MOVING = "document.getAnimations().length"
LEAST_USED = 0.7
"""Of the width, by the panels of a view."""
USED = """(() => {
  const boxes = [...document.querySelectorAll('.view:not([hidden]) > :not(.view-head, [hidden])')].map((each) => each.getBoundingClientRect()).filter(({ width }) => width > 0);
  return (Math.max(...boxes.map(({ right }) => right)) - Math.min(...boxes.map(({ left }) => left))) / innerWidth;
})()"""
MOST_EMS = 46
"""About a hundred characters of a line."""
LONG_LINES = f"""[...document.querySelectorAll('.view:not([hidden]) :is(textarea, .transcript p, .hint, .model p, .error)')]
  .filter((each) => each.offsetParent && Math.floor(each.clientWidth / parseFloat(getComputedStyle(each).fontSize)) > {MOST_EMS})
  .map((each) => each.id || each.outerHTML.slice(0, 80))"""
COUNT_FRAMES = """
window.frames_drawn = 0;
const clear = CanvasRenderingContext2D.prototype.clearRect;
CanvasRenderingContext2D.prototype.clearRect = function (...place) {
  if (document.body.dataset.speakState === 'speaking') window.frames_drawn += 1;
  return clear.apply(this, place);
};
"""


@pytest.fixture
def service(scripted: ScriptedService) -> ScriptedService:
    """A service whose every answer shows something in the page."""
    text = "Good morning to everyone who hears this, and good night."
    scripted.answer("POST /v1/audio/speech", speech_of(text))
    scripted.answer("POST /v1/audio/transcriptions", transcript_of(text))
    scripted.answer("POST /v1/audio/separations", tracks_of("separation", "speech", "background"))
    scripted.answer("GET /v1/audio/voices", own_voices_of("Ada"))
    scripted.answer("GET /v1/status", status_of((time.time() - 60, 120.0)))
    scripted.answer("GET /v1/registry", list_of(*every_addition()))
    return scripted


def every_addition() -> list[dict[str, object]]:
    """Models that are fetched, tried, stopped, here, served and none of these."""
    stopped = addition("failed", 9_000_000, cause="The hub did not answer. Try again later.")
    return [
        registry_model("one", installed=True, served=True),
        registry_model("fetched", addition=addition("fetching", 9_000_000), clones=True),
        registry_model("sizeless", "transcription", addition=addition("fetching", total=None), verified=False),
        registry_model("tried", "separation", addition=addition("trying", 40_000_000), languages=[]),
        registry_model("stopped", addition=stopped),
        registry_model("here", "transcription", installed=True),
        registry_model("a-model-with-a-long-name-as-some-have-v3-large-turbo-distilled", languages=["many"]),
    ]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    file = tmp_path / "recording.wav"
    file.write_bytes(wav_of(1.0))
    return file


def check_with_axe(studio: Studio, what: str) -> None:
    found = Axe().run(studio.page).response["violations"]
    assert [(what, rule["id"], [node["target"] for node in rule["nodes"]]) for rule in found] == []


def fill(studio: Studio, recording: Path) -> None:
    """Everything that the views show when they were used."""
    studio.page.fill("#speak-text", "Good morning to everyone.")
    studio.page.click("#speak-button")
    studio.state("speak-state", "done")
    for view in ("transcribe", "separate"):
        studio.page.goto(f"{studio.url}/#{view}")
        studio.page.set_input_files(f"#{view}-file", recording)
        studio.state(f"{view}-state", "done")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_view(
    browser: Browser, service: ScriptedService, recording: Path, scheme: Scheme
) -> None:
    studio = studio_of(service, context(browser, LAPTOP, scheme))
    for view in VIEWS:
        studio.page.goto(f"{studio.url}/#{view}")
        check_with_axe(studio, f"{view}, empty")
    studio.open()
    fill(studio, recording)
    for view in VIEWS:
        studio.page.goto(f"{studio.url}/#{view}")
        check_with_axe(studio, f"{view}, used")
    studio.page.goto(f"{studio.url}/#speak")
    studio.page.click("#voices-add")
    check_with_axe(studio, "a new voice")
    studio.check_quiet()


@pytest.mark.parametrize("size", [PHONE, LAPTOP, WALL], ids=["phone", "laptop", "wall"])
def test_no_view_scrolls_sideways_and_controls_are_large_on_phones(
    browser: Browser, service: ScriptedService, recording: Path, size: tuple[int, int]
) -> None:
    studio = studio_of(service, context(browser, size))
    fill(studio, recording)
    for view in VIEWS:
        studio.page.goto(f"{studio.url}/#{view}")
        expect(studio.page.locator(f"#view-{view}")).to_be_visible()
        assert studio.value("document.documentElement.scrollWidth <= innerWidth"), view
        if size == PHONE:
            assert studio.value(SMALL) == [], view
    studio.check_quiet()


@pytest.mark.parametrize(("width", "height"), [(2560, 1440), (3840, 2160), (5120, 2880)])
def test_a_wide_screen_is_used_and_lines_stay_readable(
    browser: Browser, service: ScriptedService, recording: Path, width: int, height: int
) -> None:
    studio = studio_of(service, context(browser, (width, height)))
    fill(studio, recording)
    for view in VIEWS:
        studio.page.goto(f"{studio.url}/#{view}")
        expect(studio.page.locator(f"#view-{view}")).to_be_visible()
        assert studio.value(USED) >= LEAST_USED, view
        assert studio.value(LONG_LINES) == [], view


def test_the_keyboard_alone_speaks(browser: Browser, service: ScriptedService) -> None:
    studio = studio_of(service, context(browser))
    studio.page.keyboard.press("Tab")
    expect(studio.page.locator(".skip")).to_be_focused()
    studio.page.keyboard.press("Enter")
    studio.page.keyboard.press("Tab")
    expect(studio.page.locator("#speak-text")).to_be_focused()
    studio.page.keyboard.press("Control+a")
    studio.page.keyboard.type("Good morning.")
    studio.page.keyboard.press("Control+Enter")
    studio.state("speak-state", "done")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    studio.page.locator("#speak-model").focus()
    assert studio.value(outline) == "solid"


@pytest.mark.parametrize(("motion", "moves"), [("no-preference", True), ("reduce", False)])
def test_nothing_moves_for_who_wants_less_motion(
    browser: Browser, service: ScriptedService, motion: Literal["no-preference", "reduce"], moves: bool
) -> None:
    service.answer("GET /readyz", Answer(status=503))  # a dot breathes while a service warms up
    with context(browser, motion=motion) as profile:
        studio = tab_of(service, profile)
        studio.page.goto(studio.url)
        expect(studio.page.locator("#ready-text")).to_have_text("Warming up…")
        assert (studio.value(MOVING) > 0) is moves


@pytest.mark.parametrize(("motion", "most", "least"), [("no-preference", 1000, 16), ("reduce", 10, 1)])
def test_the_waveform_of_speech_moves_calmly_for_who_wants_less_motion(
    browser: Browser, service: ScriptedService, motion: Literal["no-preference", "reduce"], most: int, least: int
) -> None:
    with context(browser, motion=motion) as profile:
        profile.add_init_script(COUNT_FRAMES)
        studio = studio_of(service, profile)
        studio.page.click("#speak-button")
        studio.state("speak-state", "done")
        assert least <= studio.value("window.frames_drawn") <= most  # of a second
