"""`motet models load` and `unload`, against a stand-in for the service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.errors import MotetError
from serve_app.cli import models_load
from serve_app.cli.service_api import ServiceApi


class LoadingService:
    """A service in which a model has these states, one after another."""

    def __init__(self, *states: str, cause: str | None = None) -> None:
        self.states, self.cause = list(states), cause
        self.sent: list[tuple[str, str, Any]] = []
        self.api = ServiceApi("http://motet", httpx.MockTransport(self.answer))
        self.waits: list[float] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        self.sent.append((request.method, request.url.raw_path.decode(), body))
        if request.method != "GET":
            return httpx.Response(202, json={"id": "bird", "object": "model", "created": 5})
        state = self.states.pop(0)
        state, created = ("failed", 4) if state == "failed before" else (state, 5)
        models = [{"id": "bird", "state": state, "cause": self.cause, "created": created}] if state != "gone" else []
        return httpx.Response(200, json={"object": "list", "data": models})

    def load(self, name: str, file: Path | None = None, own_name: str | None = None) -> None:
        models_load.load(self.api, name, file, own_name, quiet=False, sleep=self.waits.append)


def test_a_fetched_model_is_loaded_and_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    service = LoadingService("loading", "loading", "ready")
    service.load("whisper-small", own_name="bird")
    assert service.sent[0] == ("POST", "/v1/models", {"catalogue": "whisper-small", "id": "bird"})
    assert [path for _, path, _ in service.sent[1:]] == ["/v1/admin/models"] * 3 and len(service.waits) == 2
    assert "bird is ready" in capsys.readouterr().err


def test_the_settings_of_a_file_are_sent(tmp_path: Path) -> None:
    file = tmp_path / "bird.yaml"
    file.write_text("engine: hibari\nsource: wheel:hibari-tts\n")
    service = LoadingService("ready")
    service.load("bird", file)
    assert service.sent[0][2] == {"engine": "hibari", "source": "wheel:hibari-tts", "id": "bird"}
    for text in ("[hibari]", "engine: [", "engine: a\nengine: b"):
        file.write_text(text)
        with pytest.raises(MotetError) as error:
            LoadingService().load("bird", file)
        assert error.value.failure.kind == "invalid"


@pytest.mark.parametrize("state", ["failed", "gone", "unloading"])
def test_a_model_that_does_not_load_is_an_error_with_its_cause(state: str) -> None:
    with pytest.raises(MotetError) as error:
        LoadingService("loading", *[state] * 30, cause="The wheel is missing.").load("bird")
    said = str(error.value)
    assert said.startswith("bird was not loaded.") and ("The wheel is missing." in said) == (state != "gone")


def test_a_gateway_that_was_not_told_yet_is_no_failure() -> None:
    service = LoadingService("gone", "failed before", "loading", "gone", "ready")
    service.load("bird")
    assert service.states == []


def test_a_model_is_unloaded_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    service = LoadingService()
    models_load.unload(service.api, "bird/1")
    assert service.sent == [("DELETE", "/v1/models/bird%2F1", None)]
    assert "takes no new requests" in capsys.readouterr().err
