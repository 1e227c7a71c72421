"""The Cluster view in a real browser: placements, queues, batches, buffers and first sounds."""

from __future__ import annotations

import threading
import time

import httpx
from playwright.sync_api import Browser, expect

from .browser import Studio, context, studio_with, tab_of
from .conftest import OUT, Service
from .scripted_service import ScriptedService, status_of

LONG = "One thing is said, and another one comes after it. " * 60


def test_the_cluster_shows_placements_first_sounds_and_an_open_stream(
    browser: Browser, service: Service, http: httpx.Client
) -> None:
    spoken = {"model": "hibari", "input": "Good morning.", "response_format": "pcm"}
    http.post("/v1/audio/speech", json=spoken).raise_for_status()
    with studio_with(browser, service, view="cluster") as studio:
        studio.state("cluster-placements", "4")
        shown = studio.text("#cluster-placements")
        assert all(name in shown for name in ("hibari", "whisper-base", "deepfilternet", "identity"))
        assert "Ready" in shown
        assert "real time" in shown
        studio.until("document.querySelectorAll('#first-chart circle').length > 0")
        assert "request" in studio.text("#first-words")
        assert "Batch 1" in shown
        _see_a_stream(studio, service)
        studio.page.screenshot(path=OUT / "page-cluster.png", full_page=True)
        studio.check_quiet()


def _see_a_stream(studio: Studio, service: Service) -> None:
    """While a client listens to a long speech at its own pace, its buffer is on the page."""
    seen = threading.Event()

    def listen() -> None:
        body = {"model": "hibari", "input": LONG, "response_format": "pcm", "pacing": "played"}
        with httpx.stream("POST", f"{service.url}/v1/audio/speech", json=body, timeout=60) as answer:
            for _ in answer.iter_bytes():
                if seen.is_set():
                    return

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        studio.until("document.querySelector('#cluster-streams')?.innerText.includes('hibari@cpu')")
        assert studio.value("document.querySelector('#cluster-streams [role=meter]') !== null")
    finally:
        seen.set()
        listener.join(30)


def times_asked(studio: Studio, scripted: ScriptedService) -> int:
    """How often the page has asked for the status after some seconds more of its own time, each with time for an answer."""
    for _ in range(5):
        studio.page.clock.run_for(2_500)
        studio.value("fetch('/readyz').then((answer) => answer.text()).then(() => fetch('/readyz')).then(() => true)")
    return len(scripted.asked_for("/v1/status", "GET"))


def test_the_service_is_asked_only_while_the_view_is_shown(browser: Browser, scripted: ScriptedService) -> None:
    scripted.answer("GET /v1/status", status_of())
    with context(browser) as profile:
        studio = tab_of(scripted, profile)
        studio.page.clock.install()
        studio.page.goto(f"{scripted.url}/#cluster")
        studio.state("cluster-placements", "1")
        asked = times_asked(studio, scripted)
        assert times_asked(studio, scripted) > asked
        studio.page.click(".views a[href='#speak']")
        expect(studio.page.locator("#view-cluster")).to_be_hidden()
        asked = times_asked(studio, scripted)
        assert times_asked(studio, scripted) == asked


def test_the_chart_and_its_sentence_are_about_the_same_requests(browser: Browser, scripted: ScriptedService) -> None:
    now = time.time()
    results = [(now - 1200, 9_000.0), (now - 60, 100.0), (now - 30, 200.0)]
    scripted.answer("GET /v1/status", status_of(*results))
    with studio_with(browser, scripted, view="cluster") as studio:
        studio.state("cluster-placements", "1")
        sentence = "2 requests: half within 100 ms, 95 % within 200 ms"
        assert studio.page.locator("#first-chart circle").count() == 2
        assert studio.text("#first-words") == sentence
        assert studio.page.locator("#first-chart svg").get_attribute("aria-label") == sentence
