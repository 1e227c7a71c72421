"""The Studio's frame: what it may load, its views, and what it keeps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import httpx
import pytest
from playwright.sync_api import expect

from .browser import VIEWS, Browsers, Studio, studio_with
from .conftest import ROOT, Service

PAGE = ROOT / "serve_app" / "page"
ASSETS = sorted(file.relative_to(PAGE).as_posix() for file in PAGE.rglob("*") if file.is_file())
TEXTS = (".js", ".css", ".html", ".svg")
# An SVG must name its language, which nobody fetches.
NAMESPACES = ("http://www.w3.org/2000/svg",)
KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".woff2": "font/woff2"}


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in ASSETS)])
def test_everything_of_the_page_is_served_for_its_own_origin_only(path: str, http: httpx.Client) -> None:
    answer = http.get(path)
    assert answer.status_code == 200
    assert answer.content
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    kind = PurePosixPath(path).suffix
    if kind in KINDS:
        assert answer.headers["content-type"].startswith(KINDS[kind])
    if path == "/" or kind in TEXTS:
        named = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`)]*", answer.text)
        assert [url for url in named if url not in NAMESPACES] == []


def test_every_file_that_the_page_names_exists_and_none_is_left_over() -> None:
    named = set(re.findall(r'(?:src|href)="/page/([^"]+)"', (PAGE / "index.html").read_text()))
    named |= set(re.findall(r'(?:src|href)="/page/([^"]+)"', (PAGE / "reference.html").read_text()))
    named |= {"index.html", "reference.html", "fonts/newsreader.woff2", "fonts/OFL.txt"}
    for asset in (asset for asset in ASSETS if asset.endswith(".js")):
        text = (PAGE / asset).read_text()
        for other in re.findall(r"from '(\.[^']+)'", text):
            named.add((PAGE / asset).parent.joinpath(other).resolve().relative_to(PAGE.resolve()).as_posix())
        named |= set(re.findall(r"addModule\('/page/([^']+)'\)", text))
    assert named == set(ASSETS)


@pytest.fixture(scope="module")
def studio(browsers: Browsers, service: Service) -> Iterator[Studio]:
    with studio_with(browsers.get(), service) as opened:
        yield opened


def test_the_page_finds_the_service_ready(studio: Studio, service: Service) -> None:
    assert studio.text("#ready") == "Ready"
    assert studio.text("#base-url") == f"{service.url}/v1"
    picked = "['speak', 'transcribe', 'separate'].map((name) => document.getElementById(`${name}-model`).value)"
    assert studio.value(picked) == ["hibari", "whisper-base", "deepfilternet"]
    studio.check_quiet()


def test_each_view_has_an_address_and_the_keyboard_goes_to_its_heading(studio: Studio) -> None:
    for view in (*VIEWS[1:], VIEWS[0]):
        studio.page.locator(f".views a[href='#{view}']").focus()
        studio.page.keyboard.press("Enter")
        expect(studio.page.locator(f"#{view}-title")).to_be_focused()
        shown = studio.value(
            "[...document.querySelectorAll('.view')].filter((view) => !view.hidden).map(({ id }) => id)"
        )
        assert shown == [f"view-{view}"]
        assert studio.page.title() == f"{studio.text(f'#{view}-title')} · Motet"
    studio.page.go_back()
    expect(studio.page.locator("#view-cluster")).to_be_visible()
    studio.page.goto(f"{studio.url}/#nothing-of-this-name")
    expect(studio.page.locator("#view-speak")).to_be_visible()
    studio.check_quiet()


def test_the_text_and_its_settings_survive_a_reload(studio: Studio) -> None:
    studio.open()
    studio.page.fill("#speak-text", "What I wrote.")
    studio.page.locator("#speak-more summary").click()
    studio.page.fill("#speak-seed", "7")
    studio.page.locator("#speak-speed").fill("1.5")
    studio.open()
    kept = "['text', 'seed', 'speed'].map((name) => document.getElementById(`speak-${name}`).value)"
    assert studio.value(kept) == ["What I wrote.", "7", "1.5"]
    assert studio.text("#speak-count") == "13 characters"


def test_each_panel_has_its_own_errors(studio: Studio) -> None:
    studio.open()
    studio.page.fill("#speak-text", "   ")
    studio.page.click("#speak-button")
    assert studio.text("#speak-error") == "Write something to say first."
    expect(studio.page.locator("#speak-text")).to_be_focused()
    for other in ("transcribe", "separate", "captions", "converse", "models", "cluster", "voices"):
        assert studio.value(f"document.getElementById('{other}-error').hidden")
