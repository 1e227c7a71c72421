"""How the Studio is for everybody: axe-core finds nothing, nothing is too wide or too small, and the keyboard suffices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from .browser import LAPTOP, PHONE, VIEWS, WALL, Scheme, Studio, chromium, context, studio_of
from .conftest import Float, Service, encoded

LEAST_CONTROL = 44
"""CSS pixels of a control on a phone."""
SMALL = f"""[...document.querySelectorAll('button, select, input, textarea, a, summary, label.check')]
  .filter((each) => each.offsetParent && !each.matches('.word, .time-link, .skip, .visually-hidden, [type=checkbox], [type=radio]'))
  .filter((each) => Math.round(each.getBoundingClientRect().height) < {LEAST_CONTROL})
  .map((each) => each.id || each.outerHTML.slice(0, 80))"""
MOVING = """[...document.getAnimations()].length"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def recording(pangram: Float, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recording") / "pangram.wav"
    file.write_bytes(encoded(pangram, 24_000, "WAV"))
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
def test_axe_finds_nothing_in_any_view(browser: Browser, service: Service, recording: Path, scheme: Scheme) -> None:
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
    browser: Browser, service: Service, recording: Path, size: tuple[int, int]
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


def test_the_keyboard_alone_speaks(browser: Browser, service: Service) -> None:
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


def test_who_wants_less_motion_gets_none(browser: Browser, service: Service) -> None:
    profile = context(browser)
    studio = studio_of(service, profile)
    studio.page.emulate_media(reduced_motion="reduce")
    studio.page.fill("#speak-text", "Good morning.")
    studio.page.click("#speak-button")
    studio.state("speak-state", "done")
    assert studio.value(MOVING) == 0
