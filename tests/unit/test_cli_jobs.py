"""`motet jobs` against a stand-in for a service."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
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
    return JobService("http://motet/v1/", httpx.MockTransport(answer))


def events(*jobs: dict[str, Any], first: int = 1) -> httpx.Response:
    text = ": waiting\n\n"
    for number, job in enumerate(jobs, first):
        text += f"data: {json.dumps({'type': 'job', 'job': job})}\nid: {number}\n\n"
    return httpx.Response(200, text=text, headers={"content-type": "text/event-stream; charset=utf-8"})


def test_all_pages_of_the_list_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTET_API_KEY", "key")

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


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"hello": "there"}),
        httpx.Response(200, json={"data": [{"id": "job_1"}], "has_more": False}),
        httpx.Response(200, json=[1]),
    ],
)
def test_what_is_not_a_motet_service_is_called_so(answer: httpx.Response) -> None:
    with pytest.raises(MotetError, match="is not a Motet service"):
        list(service(lambda _: answer).listed())
    with pytest.raises(MotetError, match="is not a Motet service"):
        service(lambda _: answer).waited("job_1", print)


@pytest.mark.parametrize("data", ["<html>", "[]", '{"job": {"id": "job_1"}}'])
def test_events_of_another_service_are_not_waited_for(data: str) -> None:
    answer = httpx.Response(200, text=f"data: {data}\n\n", headers={"content-type": "text/event-stream"})
    with pytest.raises(MotetError, match="is not a Motet service"):
        service(lambda _: answer).waited("job_1", print)


class Broken(httpx.SyncByteStream):
    """Half of a body, and then a lost connection."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"half"
        raise httpx.ReadError("lost")


def test_a_result_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "talk.srt"
    out.write_text("before")
    with pytest.raises(MotetError, match="does not answer: lost"):
        service(lambda _: httpx.Response(200, stream=Broken())).write_result("job_1", out)
    assert [path.name for path in tmp_path.iterdir()] == ["talk.srt"]
    assert out.read_text() == "before"
