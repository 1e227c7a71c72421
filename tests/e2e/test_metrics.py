"""A running service exports the metrics of docs/metrics.md, and no others."""

from __future__ import annotations

import base64
import json
import re

import httpx
import numpy as np
import pytest
from openai import OpenAI
from websockets.sync.client import connect

from deployments.replica.metric import COMMON_LABELS, PREFIX, SCOPE_LABELS, Metric
from serve_app.monitoring.metrics import METRICS
from tests.e2e.conftest import PANGRAM, Float, Service, encoded, wait_for

EXPORT_S = 60.0
"""Ray passes metrics on every 10 s, and Ray Serve's processes every 5 s."""
OF_MOTET = [*METRICS["gateway"], *METRICS["replica"]]
SERIES = {series: metric for metric in (*OF_MOTET, *METRICS["machine"]) for series in metric.series}
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? \S+$", re.MULTILINE)


def scrape(service: Service) -> str:
    """What Prometheus reads, from the address that the service printed."""
    found = re.search(r"http://\S+/metrics", service.said)
    assert found, service.said
    return httpx.get(found[0], timeout=30).text


def exported(text: str) -> dict[str, set[str]]:
    """The labels of each series of Motet, and of Ray's that the page names."""
    found: dict[str, set[str]] = {}
    for name, labels in SAMPLE.findall(text):
        if name.startswith("ray_motet_") or name in SERIES:
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def names_of(metrics: list[Metric]) -> set[str]:
    return {series for metric in metrics for series in metric.series}


@pytest.fixture(scope="module")
def used(service: Service, http: httpx.Client, client: OpenAI, pangram: Float) -> dict[str, set[str]]:
    """The series after a request of each kind."""
    spoken = {"model": "tts-1", "input": PANGRAM, "response_format": "pcm", "pacing": "low-latency"}
    assert http.post("/v1/audio/speech", json=spoken).is_success
    wav = encoded(pangram, 24_000, "WAV")
    assert client.audio.transcriptions.create(model="whisper-1", file=("speech.wav", wav)).text
    files, form = {"file": ("speech.wav", wav)}, {"model": "identity"}
    assert http.post("/v1/audio/separations", files=files, data=form).is_success
    transcribe_live(service, pangram)
    histograms = names_of([metric for metric in OF_MOTET if metric.start == "first event"])
    wait_for(lambda: histograms <= exported(scrape(service)).keys(), EXPORT_S, f"all of {sorted(histograms)}")
    return exported(scrape(service))


def transcribe_live(service: Service, samples: Float) -> None:
    """A turn of a live session, with a second of silence that ends it."""
    sound = np.concatenate([samples, np.zeros(24_000, np.float32)])
    pcm = (np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes()
    with connect(f"ws://127.0.0.1:{service.port}/v1/realtime?intent=transcription") as live:
        live.send(json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(pcm).decode()}))
        for message in live:
            if json.loads(message)["type"] == "conversation.item.input_audio_transcription.completed":
                return


def test_a_service_has_all_that_the_page_says_is_exported_from_0(service: Service) -> None:
    """Also what was set long ago: Ray drops gauges that are not set again."""
    from_zero = names_of([metric for metric in OF_MOTET if metric.start == "zero"])
    wait_for(lambda: from_zero <= exported(scrape(service)).keys(), EXPORT_S, "the first export")


def test_a_used_service_has_what_the_page_says_and_nothing_else(used: dict[str, set[str]]) -> None:
    measured = names_of([metric for metric in OF_MOTET if metric.start == "measured"])
    assert used.keys() - measured == SERIES.keys() - measured


def test_the_labels_are_those_of_the_page(used: dict[str, set[str]]) -> None:
    for name, labels in used.items():
        metric = SERIES[name]
        if metric in METRICS["machine"]:
            assert set(metric.labels) <= labels, name
        else:
            bucket = {"le"} if name.endswith("_bucket") else set()
            assert labels == {*metric.labels, *COMMON_LABELS, *SCOPE_LABELS, *bucket}, name


def test_types_are_those_of_the_page(service: Service, used: dict[str, set[str]]) -> None:
    types = dict(re.findall(r"^# TYPE (ray_motet_\w+) (\w+)$", scrape(service), re.MULTILINE))
    assert types == {type_name(metric): metric.kind for metric in OF_MOTET if metric.series[0] in used}


def type_name(metric: Metric) -> str:
    """The name in a scrape's line about the type: a histogram's has no suffix."""
    return f"{PREFIX}{metric.name}" if metric.kind == "histogram" else metric.series[0]
