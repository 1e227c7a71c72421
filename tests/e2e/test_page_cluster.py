"""The Cluster view in a real browser: placements, queues, batches, buffers and first sounds."""

from __future__ import annotations

import threading

import httpx

from .browser import Studio, studio_with
from .conftest import OUT, Service

LONG = "One thing is said, and another one comes after it. " * 60


def test_the_cluster_shows_placements_first_sounds_and_an_open_stream(service: Service, http: httpx.Client) -> None:
    spoken = {"model": "hibari", "input": "Good morning.", "response_format": "pcm"}
    http.post("/v1/audio/speech", json=spoken).raise_for_status()
    with studio_with(service, view="cluster") as studio:
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


def test_the_service_is_asked_only_while_the_view_is_shown(service: Service) -> None:
    with studio_with(service, view="cluster") as studio:
        studio.state("cluster-placements", "4")
        studio.page.click(".views a[href='#speak']")
        asked = sum("/v1/status" in url for url in studio.requested)
        studio.page.click(".views a[href='#transcribe']")
        assert sum("/v1/status" in url for url in studio.requested) == asked
