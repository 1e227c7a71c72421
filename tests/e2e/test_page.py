"""The studio page: what it may load, and its use in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from .browser import Browser, chromium
from .conftest import OUT, PANGRAM, ROOT, Float, Service, encoded, word_errors

ASSETS = sorted(file.name for file in (ROOT / "serve_app" / "page").iterdir())
# An SVG must name its language, which nobody fetches.
NAMESPACES = ("http://www.w3.org/2000/svg",)
SECONDS_TO_KEEP = """new Promise((resolve, reject) => {
  const player = new Audio(document.getElementById('speak-download').href);
  player.onloadedmetadata = () => resolve(player.duration);
  player.onerror = () => reject(new Error('the download does not play'));
})"""


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in ASSETS)])
def test_everything_of_the_page_is_served_for_its_own_origin_only(path: str, http: httpx.Client) -> None:
    answer = http.get(path)
    assert answer.status_code == 200
    assert answer.text.strip()
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert [
        url for url in re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`)]*", answer.text) if url not in NAMESPACES
    ] == []


@pytest.mark.parametrize(
    ("name", "kind"), [("app.js", "text/javascript"), ("style.css", "text/css"), ("favicon.svg", "image/svg+xml")]
)
def test_assets_have_the_type_that_a_browser_insists_on(name: str, kind: str, http: httpx.Client) -> None:
    assert http.get(f"/page/{name}").headers["content-type"].startswith(kind)


def test_every_file_that_the_page_names_exists(http: httpx.Client) -> None:
    named = re.findall(r'(?:src|href)="(/page/[^"]+)"', http.get("/").text)
    imported = [
        f"/page/{name}"
        for asset in ASSETS
        if asset.endswith(".js")
        for name in re.findall(r"from '\./([^']+)'", http.get(f"/page/{asset}").text)
    ]
    assert len(named) >= 3
    assert len(imported) >= 10
    assert {path: http.get(path).status_code for path in (*named, *imported) if http.get(path).status_code != 200} == {}


@pytest.fixture(scope="module")
def page(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser on the page, once the service is ready and its models are listed."""
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        browser.call("Page.navigate", url=f"{service.url}/")
        browser.wait_until("document.body?.dataset.ready === 'true'")
        browser.wait_until("!document.getElementById('speak-button').disabled")
        browser.wait_until("document.getElementById('speak-voice').value !== ''")
        yield browser


def check_quiet(page: Browser, service: Service) -> None:
    """No complaint so far, and no request to anyone else."""
    assert page.complaints() == []
    origins = {
        (url.scheme, url.netloc) for url in map(urlsplit, page.requested()) if url.scheme not in ("blob", "data")
    }
    assert origins == {("http", f"{service.host}:{service.port}")}


def test_the_page_finds_the_service_ready(page: Browser, service: Service) -> None:
    assert page.value("document.getElementById('ready').dataset.state") == "ready"
    assert page.value("document.getElementById('base-url').textContent") == f"{service.url}/v1"
    picked = "['speak', 'transcribe', 'separate'].map((name) => document.getElementById(`${name}-model`).value)"
    assert page.value(picked) == ["hibari", "whisper-base", "deepfilternet"]
    check_quiet(page, service)


def test_a_click_speaks_and_the_sound_is_played_to_its_end(page: Browser, service: Service) -> None:
    page.value("document.getElementById('speak-text').value = 'Good morning to everyone.'")
    page.click("#speak-button")
    page.wait_until("document.body.dataset.speakState === 'done'")
    assert 0.8 < float(page.value("document.body.dataset.playedSeconds")) < 5
    assert page.value("Number(document.body.dataset.firstSoundMs)") > 0
    assert 0.8 < page.value(SECONDS_TO_KEEP) < 5
    words = page.value("[...document.querySelectorAll('#speak-words span')].map((word) => word.textContent)")
    assert words == ["Good", "morning", "to", "everyone."]
    assert page.value("document.body.dataset.spokenWord") in words  # the last one that was highlighted
    page.screenshot(OUT / "page-spoken.png")
    check_quiet(page, service)


def test_a_chosen_recording_becomes_words(page: Browser, service: Service, pangram: Float, tmp_path: Path) -> None:
    file = tmp_path / "pangram.wav"
    file.write_bytes(encoded(pangram, 24_000, "WAV"))
    page.choose_file("#transcribe-file", file)
    page.wait_until("document.body.dataset.transcribeState === 'done'")
    assert word_errors(page.value("document.getElementById('transcribe-text').textContent"), PANGRAM) < 0.1
    check_quiet(page, service)


def test_a_chosen_recording_becomes_playable_stems(
    page: Browser, service: Service, pangram: Float, tmp_path: Path
) -> None:
    file = tmp_path / "pangram.wav"
    file.write_bytes(encoded(pangram, 24_000, "WAV"))
    page.choose_file("#separate-file", file)
    page.wait_until("document.body.dataset.separateState === 'done'")
    stems = "[...document.querySelectorAll('#separate-result figure')].map((figure) => figure.dataset.stem)"
    assert page.value(stems) == ["speech", "background"]
    lengths = "[...document.querySelectorAll('#separate-result audio')].map((player) => player.duration)"
    page.wait_until(f"{lengths}.every((seconds) => seconds > 0)")
    assert page.value(lengths) == pytest.approx([len(pangram) / 24_000] * 2, abs=0.1)
    page.screenshot(OUT / "page-all.png")
    check_quiet(page, service)


def test_a_refusal_is_shown_in_words(page: Browser, tmp_path: Path) -> None:
    file = tmp_path / "picture.wav"
    file.write_bytes(b"\xff\xd8\xff\xe0" + bytes(1000))
    page.choose_file("#transcribe-file", file)
    page.wait_until("document.body.dataset.transcribeState === 'failed'")
    assert "looks like a JPEG picture" in page.value("document.getElementById('transcribe-error').textContent")
