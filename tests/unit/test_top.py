"""`motet top`: recorded answers of a service, computed and drawn as text."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter
from rich.console import Console

from deployments.errors import MotetError
from serve_app import profiles
from serve_app.cli.service_api import ServiceApi
from serve_app.cli.top import print_once
from serve_app.cli.top_metrics import MachineMetrics, metrics_url, read_metrics, samples_of, summed
from serve_app.cli.top_screen import columns_for, screen, unreachable
from serve_app.cli.top_view import Answers, ServiceView, view_of
from serve_app.gateway.metric_table import FAILURES, REQUESTS
from serve_app.gateway.routes.status import ServiceStatus

URL = "http://127.0.0.1:8000"
NO_METRICS = "http://127.0.0.1:9/metrics"
METRICS = """\
# HELP ray_serve_deployment_replica_healthy Whether a replica is healthy.
# TYPE ray_serve_deployment_replica_healthy gauge
ray_serve_deployment_replica_healthy{application="motet",deployment="hibari@cpu",replica="a"} 1.0
ray_serve_deployment_replica_healthy{application="motet",deployment="hibari@cpu",replica="b"} 1.0
ray_serve_deployment_replica_healthy{application="motet",deployment="hibari@cpu",replica="gone"} 0.0
# HELP ray_component_cpu_percentage CPU of a process.
# TYPE ray_component_cpu_percentage gauge
ray_component_cpu_percentage{Component="ray::ServeReplica:motet:hibari@cpu",pid="1"} 61.5
ray_component_cpu_percentage{Component="ray::ServeReplica:motet:hibari@cpu",pid="2"} 30.0
ray_component_cpu_percentage{Component="raylet",pid="3"} 4.0
# HELP ray_component_rss_bytes Memory of a process.
# TYPE ray_component_rss_bytes gauge
ray_component_rss_bytes{Component="ray::ServeReplica:motet:hibari@cpu",pid="1"} 300000000.0
# HELP ray_motet_requests_total Requests that ended.
# TYPE ray_motet_requests_total counter
ray_motet_requests_total{model="hibari",route="/v1/audio/speech",status="200"} 40.0
ray_motet_requests_total{model="hibari",route="/v1/audio/speech",status="429"} 3.0
ray_motet_requests_total{model="hibari",route="/v1/audio/speech",status="500"} 2.0
ray_motet_requests_total{model="hibari",route="/v1/realtime",status="1000"} 7.0
# HELP ray_motet_failures_total Requests that failed.
# TYPE ray_motet_failures_total counter
ray_motet_failures_total{model="hibari",kind="engine"} 2.0
ray_motet_failures_total{model="hibari",kind="invalid"} 0.0
"""


def placement(name: str, **facts: Any) -> dict[str, Any]:
    model, _, kind = name.partition("@")
    return {
        "name": name,
        "model": model,
        "task": "speech",
        "hardware": kind,
        "max_batch_size": 8,
        "state": "ready",
        **facts,
    }


def recorded(steps: int = 100, items: int = 250, seconds: float = 20.0) -> dict[str, Any]:
    """An answer of GET /v1/status."""
    queue = {"open": 5, "queued_seconds": 12.5, "speed": 9.5, "wait_s": 0.4, "refused": 1}
    first = [80.0, 90.0, 100.0, 110.0, 120.0, 130.0, 140.0, 150.0, 160.0, 900.0]
    return {
        "object": "status",
        "status": "not ready",
        "placements": [
            placement(
                "hibari@cpu",
                queue=queue,
                memory_bytes=250_000_000,
                open_streams=4,
                steps={"steps": steps, "items": items, "largest": 6, "seconds": seconds},
            ),
            placement("whisper-base@cpu", task="transcription", state="asleep"),
            placement("deepfilternet@cpu", task="separation", state="away", cause="No replica answers."),
        ],
        "streams": [
            {"model": "hibari", "placement": "hibari@cpu", "made_seconds": 3.0, "buffered_seconds": each}
            for each in (0.4, 1.0, 1.5)
        ],
        "first_results": [
            {"at": 1.0, "model": "hibari", "placement": "hibari@cpu", "milliseconds": each} for each in first
        ],
        "first_sound_alarm_ms": 350.0,
    }


def test_what_was_recorded_is_what_the_route_answers() -> None:
    TypeAdapter(ServiceStatus).validate_python(recorded(), strict=True)


JOBS = {"data": [{"status": "running"}, {"status": "queued"}, {"status": "queued"}], "has_more": False}


def answers(metrics: MachineMetrics | None = None, at_s: float = 100.0, **steps: Any) -> Answers:
    return Answers(at_s, recorded(**steps), JOBS["data"], metrics)  # type: ignore[arg-type]


def measured() -> MachineMetrics:
    return summed(samples_of(METRICS))


def drawn(view: ServiceView, width: int = 160) -> str:
    """The screen as text."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(screen(view, URL, width))
    text = console.file
    assert isinstance(text, io.StringIO)
    return text.getvalue()


def test_metrics_are_summed_by_deployment_and_model() -> None:
    found = measured()
    assert found.replicas == {"hibari@cpu": 2}
    assert found.cpu_percent == {"hibari@cpu": 91.5}
    assert found.memory_bytes == {"hibari@cpu": 3e8}
    assert (found.requests["hibari"], found.refused["hibari"], found.failed["hibari"]) == (52, 3, 2)
    assert found.failures == {"engine": 2}


def test_a_view_of_the_first_answers() -> None:
    view = view_of(answers(measured()))
    speech, hearing, separation = view.placements
    assert (speech.open_requests, speech.queued_seconds, speech.replicas) == (5, 12.5, 2)
    assert (speech.mean_batch, speech.largest_batch, speech.busy_share) == (2.5, 6, None)
    assert (speech.first_p50_ms, speech.first_p95_ms) == (130.0, 900.0)
    assert (speech.memory_bytes, speech.cpu_percent) == (3e8, 91.5)
    assert (speech.refused, speech.failed) == (3, 2)
    assert (hearing.state, hearing.first_p50_ms, hearing.mean_batch) == ("asleep", None, None)
    assert separation.cause == "No replica answers."
    assert (view.streams, view.least_buffered_s, view.median_buffered_s) == (3, 0.4, 1.0)
    assert view.jobs == {"queued": 2, "running": 1}


def test_batches_and_work_are_of_the_time_since_the_answers_before() -> None:
    before = answers(at_s=100.0)
    speech = view_of(answers(at_s=102.0, steps=110, items=310, seconds=21.5), before).placements[0]
    assert (speech.mean_batch, speech.busy_share) == (6.0, 0.75)


def test_another_replica_that_answers_has_its_own_steps() -> None:
    speech = view_of(answers(at_s=102.0, steps=10, items=20, seconds=1.0), answers(at_s=100.0)).placements[0]
    assert (speech.mean_batch, speech.busy_share) == (2.0, None)


def test_without_metrics_what_the_service_says_is_shown() -> None:
    view = view_of(answers())
    speech = view.placements[0]
    assert (speech.memory_bytes, speech.cpu_percent, speech.failed, speech.refused) == (250_000_000, None, None, 1)
    assert "No metrics" in drawn(view)


def test_a_wide_terminal_shows_everything() -> None:
    shown = drawn(view_of(answers(measured())))
    lines = [line.split() for line in shown.splitlines()]
    assert f"{URL}  not ready" in shown
    assert [
        "hibari@cpu",
        "speech",
        "ready",
        "2",
        "5",
        "12.5",
        "2.5/8",
        "-",
        "9.5x",
        "130",
        "900",
        "92",
        "300",
        "3",
        "2",
    ] in lines
    assert "deepfilternet@cpu: No replica answers." in shown
    assert "jobs: 2 queued, 1 running" in shown
    assert "failures since the start: 2 engine" in shown
    assert "3 streams, ahead of playback 0.4 s at least" in shown


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    shown = drawn(view_of(answers(measured())), width)
    assert max(map(len, shown.splitlines())) <= width
    if width >= 80:
        assert {"placement", "state", "open", "p95"} <= set(shown.split())


def test_a_narrow_terminal_has_the_most_important_columns() -> None:
    assert [column.title for column in columns_for(40)] == ["placement", "state", "open"]
    assert len(columns_for(79)) > len(columns_for(60)) > 3


def test_late_first_sound_is_red() -> None:
    console = Console(width=160, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(screen(view_of(answers(measured())), URL, 160))
    text = console.file
    assert isinstance(text, io.StringIO)
    assert re.search(r"\x1b\[1;31m\s*900\x1b", text.getvalue())
    assert not re.search(r"\x1b\[1;31m\s*130", text.getvalue())


def service(status: int = 200) -> ServiceApi:
    """A service that answers what was recorded."""

    def answer(request: httpx.Request) -> httpx.Response:
        if status != 200:
            error = {"message": "A key is needed.", "type": "invalid_request_error", "param": None, "code": None}
            return httpx.Response(status, json={"error": error})
        return httpx.Response(200, json=recorded() if request.url.path == "/v1/status" else JOBS)

    return ServiceApi(URL, httpx.MockTransport(answer))


def test_once_prints_a_text_and_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    print_once(service(), URL, NO_METRICS, as_json=False)
    assert "hibari@cpu" in capsys.readouterr().out


def test_once_prints_facts_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_once(service(), URL, NO_METRICS, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in facts["placements"]] == ["hibari@cpu", "whisper-base@cpu", "deepfilternet@cpu"]
    assert facts["placements"][0]["first_p95_ms"] == 900.0


def test_a_service_with_keys_wants_one() -> None:
    with pytest.raises(MotetError, match="MOTET_API_KEY"):
        print_once(service(401), URL, NO_METRICS, as_json=False)


def test_without_a_service_it_says_how_to_start_one() -> None:
    with pytest.raises(MotetError, match="motet serve"), ServiceApi("http://127.0.0.1:9") as nobody:
        print_once(nobody, URL, NO_METRICS, as_json=False)


def test_another_program_at_the_address_is_called_so() -> None:
    other = ServiceApi(URL, httpx.MockTransport(lambda request: httpx.Response(200, json={"data": []})))
    with pytest.raises(MotetError, match="not a Motet service"):
        print_once(other, URL, NO_METRICS, as_json=False)


def test_a_service_that_goes_away_is_waited_for() -> None:
    console = Console(width=80, file=io.StringIO())
    console.print(unreachable(URL, "The service does not answer."))
    text = console.file
    assert isinstance(text, io.StringIO)
    assert "does not answer" in text.getvalue()


def test_what_is_no_metrics_counts_as_none() -> None:
    page = httpx.MockTransport(lambda request: httpx.Response(200, text="<html>"))
    assert read_metrics(NO_METRICS, page) is None
    assert read_metrics(NO_METRICS, httpx.MockTransport(lambda request: httpx.Response(404))) is None


def test_metrics_are_read_from_the_machine_itself_whatever_proxy_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    found = read_metrics(NO_METRICS, httpx.MockTransport(lambda request: httpx.Response(200, text=METRICS)))
    assert found == measured()


def test_the_names_are_those_that_the_service_declares() -> None:
    for metric in (REQUESTS, FAILURES):
        assert metric.series[0] in METRICS
    assert metrics_url("http://box:9000") == f"http://box:{9000 + profiles.ALL_METRICS_OFFSET}/metrics"


def test_the_names_are_read_without_ray() -> None:
    program = "import sys, serve_app.cli.top_metrics; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8080/metrics"),
        ("http://box:9000/", "http://box:9080/metrics"),
        ("https://speech.example.com", "http://speech.example.com:523/metrics"),
    ],
)
def test_the_metrics_are_80_above_the_service(url: str, address: str) -> None:
    assert metrics_url(url) == address
