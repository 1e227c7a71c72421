"""A real Chromium on the Studio, driven by Playwright: what every test of the page shares."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, expect, sync_playwright

from .conftest import Service, wait_for
from .scripted_service import ScriptedService

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--autoplay-policy=no-user-gesture-required",
)
FAKE_MICROPHONE = "--use-fake-device-for-media-stream"
AGREE = "--use-fake-ui-for-media-stream"
MICROPHONE = ("microphone",)
"""The permission of a profile whose person agrees; without it the browser refuses."""
WAIT_S = 90.0
"""The most that a model may take; the machine may be busy."""
PHONE, LAPTOP, WALL = (390, 844), (1280, 900), (3840, 2160)
VIEWS = ("speak", "transcribe", "separate", "live", "models", "cluster")

expect.set_options(timeout=WAIT_S * 1000)

Scheme = Literal["light", "dark"]


@dataclass
class Studio:
    """One tab with the Studio of a service, and everything that the browser complained about or asked for."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Keeps exceptions, messages of errors and warnings, and the address of every request."""
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("request", lambda request: self.requested.append(request.url))

    def _heard(self, said: ConsoleMessage) -> None:
        if said.type in ("error", "warning", "assert"):
            self.complaints.append(said.text)

    def open(self, view: str = "speak") -> None:
        """Loads the page on a view, and waits until the service is ready and its models are listed."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}/#{view}")
        self.state("ready", "true")
        expect(self.page.locator("#speak-button")).to_be_enabled(timeout=WAIT_S * 1000)
        self.until("document.getElementById('speak-voice').value !== ''")

    def state(self, name: str, value: str) -> None:
        """Waits for a plain fact that the page publishes, such as `data-speak-state`."""
        expect(self.page.locator("body")).to_have_attribute(f"data-{name}", value, timeout=WAIT_S * 1000)

    def value(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        return self.page.evaluate(script)

    def until(self, script: str, seconds: float = WAIT_S) -> None:
        """Waits for a JavaScript expression. The page's policy forbids Playwright's own way, which evaluates it inside."""
        wait_for(lambda: self.value(script), seconds, script)

    def text(self, selector: str) -> str:
        """The text of an element."""
        return self.page.locator(selector).inner_text()

    def saved(self, button: str) -> tuple[str, bytes]:
        """The name and the content of the file that a button saves."""
        with self.page.expect_download(timeout=WAIT_S * 1000) as download:
            self.page.click(button)
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    def check_quiet(self) -> None:
        """No complaint so far, and no request to anyone else."""
        assert self.complaints == []
        asked = (urlsplit(url) for url in self.requested)
        assert {(url.scheme, url.netloc) for url in asked if url.scheme not in ("blob", "data", "about")} == {
            ("http", urlsplit(self.url).netloc)
        }


def launch(playwright: Playwright, *flags: str) -> Browser:
    """A new browser; skips the test if none is installed. `flags` are added to `FLAGS`."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    return playwright.chromium.launch(executable_path=program, args=[*FLAGS, *flags])


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """A browser of one's own."""
    with sync_playwright() as playwright:
        browser = launch(playwright, *flags)
        yield browser
        browser.close()


class Browsers:
    """The browsers that tests share: one for each set of flags, started when it is first asked for."""

    def __init__(self) -> None:
        self._playwright: Playwright | None = None
        self._opened: dict[tuple[str, ...], Browser] = {}

    def get(self, *flags: str) -> Browser:
        """The browser with these flags, and with a microphone that beeps if they name no sound for it."""
        if self._playwright is None:
            self._playwright = sync_playwright().start()
        if flags not in self._opened:
            self._opened[flags] = launch(self._playwright, FAKE_MICROPHONE, *flags)
        return self._opened[flags]

    def close(self) -> None:
        """Ends them. Until then this thread has an event loop, and `asyncio.run` does not work in it."""
        for browser in self._opened.values():
            browser.close()
        self._opened.clear()
        if self._playwright is not None:
            self._playwright.stop()
            self._playwright = None


def context(
    browser: Browser,
    size: tuple[int, int] = LAPTOP,
    scheme: Scheme = "light",
    permissions: Sequence[str] = (),
    motion: Literal["reduce", "no-preference"] = "no-preference",
) -> BrowserContext:
    """A profile of its own, with a window of `size` CSS pixels; narrow ones are phones."""
    width, height = size
    phone = width < 500
    return browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        reduced_motion=motion,
        permissions=permissions,
        has_touch=phone,
        is_mobile=phone,
    )


def tab_of(service: Service | ScriptedService, profile: BrowserContext) -> Studio:
    """A new tab, which is watched and has opened nothing yet."""
    studio = Studio(profile.new_page(), service.url)
    studio.watch()
    return studio


def studio_of(service: Service | ScriptedService, profile: BrowserContext, view: str = "speak") -> Studio:
    """A new tab on a view of the Studio."""
    studio = tab_of(service, profile)
    studio.open(view)
    return studio


@contextmanager
def studio_with(
    browser: Browser, service: Service | ScriptedService, view: str = "speak", permissions: Sequence[str] = ()
) -> Iterator[Studio]:
    """The Studio in a profile of its own."""
    with context(browser, permissions=permissions) as profile:
        yield studio_of(service, profile, view)
