"""`motet jobs` against a stand-in for a service."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.errors import MotetError
from serve_app.cli import job_service
from serve_app.cli.job_service import JobService

JOB = {
    "id": "job_1",
    "status": "running",
    "created_at": 1_764_428_400,
    "finished_at": None,
    "endpoint": "/v1/audio/speech",
    "seconds_done": 3.2,
    "seconds_expected": 60.4,
    "error": None,
}
FAILED = {
    **JOB,
    "status": "failed",
    "finished_at": 1_764_428_500,
    "error": {"message": "No."},
    "seconds_expected": None,
}


def service(answer: Callable[[httpx.Request], httpx.Response]) -> JobService:
    return JobService("http://motet/v1/", "key", httpx.MockTransport(answer))


def events(*jobs: dict[str, Any], first: int = 1) -> httpx.Response:
    text = ": waiting\n\n"
    for number, job in enumerate(jobs, first):
        text += f"data: {json.dumps({'type': 'job', 'job': job})}\nid: {number}\n\n"
    return httpx.Response(200, text=text)


def test_all_pages_of_the_list_are_read() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer key"
        assert request.url.path == "/v1/jobs"
        last = request.url.params.get("after")
        page = {"data": [FAILED if last else JOB], "has_more": not last, "last_id": "job_1"}
        return httpx.Response(200, json=page)

    running, failed = service(answer).listed()
    assert running.startswith("job_1  running    ")
    assert running.endswith("/v1/audio/speech  3 s of about 60 s")
    assert failed.endswith("/v1/audio/speech  No.")


def test_waiting_goes_on_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_service, "AGAIN_AFTER_S", 0.0)
    asked: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("last-event-id"))
        if len(asked) == 2:
            raise httpx.ConnectError("away")
        return events(JOB) if len(asked) == 1 else events(FAILED, first=2)

    told: list[str] = []
    assert not service(answer).waited("job_1", told.append)
    assert asked == [None, "1", "1"]
    assert len(told) == 2


def test_a_service_that_was_never_there_is_not_waited_for() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("away")

    with pytest.raises(MotetError, match="does not answer"):
        service(answer).waited("job_1", print)


def test_a_result_is_written_and_a_refusal_told(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/jobs/job_1/result":
            return httpx.Response(200, content=b"sound")
        return httpx.Response(404, json={"error": {"message": "There is no job 'job_2'."}})

    out = tmp_path / "sound.wav"
    service(answer).write_result("job_1", out)
    assert out.read_bytes() == b"sound"
    with pytest.raises(MotetError, match="There is no job"):
        service(answer).write_result("job_2", tmp_path / "other.wav")
    assert not (tmp_path / "other.wav").exists()
    with pytest.raises(MotetError, match="There is no job"):
        service(answer).cancel("job_2")
