"""`motet models add` and `remove` with `--service`, against a stand-in for the service."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from deployments.errors import MotetError
from serve_app.cli import command_group, models_add_there
from serve_app.cli.service_api import ServiceApi

NAME = "sopro-v2-turbo"
FETCHING = {"state": "fetching", "received_bytes": 500, "total_bytes": 1000, "cause": None}


class AddingService:
    """A service that answers these additions of a model, one after another; `True` stands for one that is here."""

    def __init__(self, *additions: dict[str, Any] | bool | None) -> None:
        self.additions = list(additions)
        self.sent: list[tuple[str, str, Any]] = []
        self.api = ServiceApi("http://motet", httpx.MockTransport(self.answer))
        self.waits: list[float] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        self.sent.append((request.method, request.url.raw_path.decode(), body))
        if request.method == "DELETE":
            return httpx.Response(200, json={"id": NAME, "deleted": True, "freed_bytes": 2_000_000_000})
        addition = self.additions.pop(0)
        model = {"id": NAME, "installed": addition is True, "addition": None if addition is True else addition}
        listed = {"object": "list", "data": [{"id": "other"}, model]}
        return httpx.Response(202, json=model) if request.method == "POST" else httpx.Response(200, json=listed)

    def add(self, hardware: str | None = None, *, quiet: bool = False) -> dict[str, Any]:
        return models_add_there.add(self.api, NAME, hardware, quiet=quiet, sleep=self.waits.append)


def test_a_model_is_added_and_its_progress_shown(capsys: pytest.CaptureFixture[str]) -> None:
    service = AddingService(FETCHING, {**FETCHING, "received_bytes": 1000}, None, True)
    assert service.add("cpu")["installed"]
    assert service.sent[0] == ("POST", f"/v1/registry/{NAME}", {"hardware": "cpu"})
    assert [path for _, path, _ in service.sent[1:]] == ["/v1/registry"] * 3 and len(service.waits) == 3
    said = capsys.readouterr().err
    assert "0.0 of 0.0 MB" in said and f"motet models load {NAME}" in said


def test_a_model_that_is_there_is_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    service = AddingService(True)
    service.add(quiet=True)
    assert service.sent == [("POST", f"/v1/registry/{NAME}", {})] and service.waits == []
    assert capsys.readouterr().err == ""


def test_a_failed_addition_says_its_cause() -> None:
    with pytest.raises(MotetError, match="was not added. The disk is full."):
        AddingService(FETCHING, {**FETCHING, "state": "failed", "cause": "The disk is full."}).add()


def test_an_addition_that_another_cancelled_is_not_waited_for() -> None:
    with pytest.raises(MotetError, match="it was cancelled"):
        AddingService(FETCHING, *[None] * 30).add()


def test_an_interruption_leaves_it_going_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    service = AddingService(FETCHING)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        models_add_there.add(service.api, NAME, None, quiet=False, sleep=interrupt)
    assert f"The service goes on adding {NAME}" in capsys.readouterr().err
    assert [method for method, _, _ in service.sent] == ["POST"]


def test_a_model_is_removed(capsys: pytest.CaptureFixture[str]) -> None:
    service = AddingService()
    models_add_there.remove(service.api, "a/b", quiet=False)
    assert service.sent == [("DELETE", "/v1/registry/a%2Fb", None)]
    assert "2.00 GB are free" in capsys.readouterr().err


def test_options_of_this_machine_are_refused() -> None:
    for options in (["--as", "x"], ["--engine", "sopro"], ["--keep-weights"]):
        done = CliRunner().invoke(
            command_group.app, ["models", "add", NAME, "--service", "http://127.0.0.1:1", *options]
        )
        assert done.exit_code == 2 and "for this machine" in " ".join(done.stderr.split())
    with pytest.raises(MotetError, match="of its catalogue only"):
        models_add_there.add(AddingService().api, "hf:org/name", None, quiet=True)
