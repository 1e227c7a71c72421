"""A failure can be found: the request id that a client is given leads to the log lines of its request."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.e2e.conftest import PROFILES, Service, config_of, wait_for

LOGGED_WITHIN_S = 20.0
GOOD = "The first sentence is long enough to be a piece of its own, and nothing at all is wrong with it. "
POISONED = GOOD + "This one is poison to the engine."


@pytest.fixture(scope="module", params=PROFILES)
def tone_service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose engine fails on a text with the word "poison" in it."""
    folder = tmp_path_factory.mktemp(f"failures-{request.param}")
    settings = {
        "models": {"tone": {"engine": "simulated"}},
        "voices": {"folder": str(folder / "voices")},
    }
    config = config_of(folder, settings)
    running = Service.start(config, folder, profile=request.param)
    yield running
    running.stop(signal.SIGINT)


class Log:
    """What a replica has logged since this was made."""

    def __init__(self, service: Service, deployment: str) -> None:
        (name,) = {
            file.path for file in service.replica(deployment).open_files() if f"replica_motet_{deployment}" in file.path
        }
        self._path = Path(name)
        self._start = self._path.stat().st_size

    @property
    def text(self) -> str:
        return self._path.read_bytes()[self._start :].decode()

    def wait_for(self, found: Callable[[str], bool]) -> str:
        """The text, once it is as wanted."""
        wait_for(lambda: found(self.text), LOGGED_WITHIN_S, f"a line in {self._path}")
        return self.text

    def request(self, request_id: str) -> dict[str, Any]:
        """The line of JSON of a request."""
        self.wait_for(lambda text: any(True for _ in _records(text, request_id)))
        (record,) = _records(self.text, request_id)
        return record


def _records(text: str, request_id: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        _, separator, message = line.partition(" -- ")
        if separator and message.startswith("{") and (record := json.loads(message))["id"] == request_id:
            yield record


def check_logged(request_id: str, replica: Log, gateway: Log) -> dict[str, Any]:
    """Both logs have the request: the replica's with model and traceback, the gateway's with what became of it."""
    text = replica.wait_for(lambda text: f"{request_id} -- tone failed on a request" in text)
    after = text.partition(f"{request_id} -- tone failed on a request")[2]
    assert "\nTraceback (most recent call last):" in after
    assert "\nValueError: the text says 'poison'" in after
    assert f"{request_id} -- " in gateway.wait_for(lambda text: "failed: The model failed on this request." in text)
    record = gateway.request(request_id)
    assert (record["failure"], record["model"], record["placement"]) == ("engine", "tone", "tone@cpu")
    return record


@pytest.mark.parametrize("own_id", ["", "my-request-1"], ids=["an id of the service", "an id of the client"])
def test_a_failed_request_is_found_by_its_id(tone_service: Service, own_id: str) -> None:
    replica, gateway = Log(tone_service, "tone@cpu"), Log(tone_service, "gateway")
    body = {"model": "tone", "input": "poison"}
    headers = {"x-request-id": own_id} if own_id else {}
    answer = httpx.post(f"{tone_service.url}/v1/audio/speech", json=body, headers=headers, timeout=60)
    message = answer.json()["error"]["message"]
    request_id = message.rpartition("Request id: ")[2].rstrip(".")
    assert answer.status_code == 500 and "ValueError" not in answer.text
    assert request_id == answer.headers["x-request-id"] and (not own_id or request_id == own_id)
    # Text and traceback are in one record, so what follows the id belongs to it.
    record = check_logged(request_id, replica, gateway)
    assert (record["route"], record["status"]) == ("POST /v1/audio/speech", 500)


def test_an_error_in_the_middle_of_events_is_found_by_its_id(tone_service: Service) -> None:
    replica, gateway = Log(tone_service, "tone@cpu"), Log(tone_service, "gateway")
    body = {"model": "tone", "input": POISONED, "stream_format": "sse", "response_format": "pcm", "seed": 1}
    headers = {"x-request-id": "my-events"}
    answer = httpx.post(f"{tone_service.url}/v1/audio/speech", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200
    assert "Request id: my-events." in answer.text
    record = check_logged("my-events", replica, gateway)
    assert record["status"] == 200
    assert record["seconds_of_audio"] > 0 and record["first_sound_ms"] > 0


def test_an_error_of_a_session_is_found_by_its_id(tone_service: Service) -> None:
    replica, gateway = Log(tone_service, "tone@cpu"), Log(tone_service, "gateway")
    url = f"ws://127.0.0.1:{tone_service.port}/v1/audio/speech/stream"
    with connect(url, additional_headers={"x-request-id": "my-session"}) as session:
        session.send(json.dumps({"type": "session.config", "model": "tone", "response_format": "pcm"}))
        session.send(json.dumps({"type": "input.text", "text": "poison."}))
        session.send(json.dumps({"type": "input.done"}))
        error = json.loads(session.recv(timeout=30))
    assert error["type"] == "error"
    request_id = error["error"]["message"].rpartition("Request id: ")[2].rstrip(".")
    record = check_logged(request_id, replica, gateway)
    assert (record["route"], record["status"]) == ("WEBSOCKET /v1/audio/speech/stream", 1011)


def test_a_client_that_leaves_is_one_line_without_traceback(tone_service: Service) -> None:
    replica, gateway = Log(tone_service, "tone@cpu"), Log(tone_service, "gateway")
    body = {"model": "tone", "input": GOOD * 100, "response_format": "pcm", "pacing": "played", "seed": 2}
    request = {"json": body, "headers": {"x-request-id": "my-leaving"}, "timeout": 60}
    with (
        suppress(httpx.HTTPError),
        httpx.stream("POST", f"{tone_service.url}/v1/audio/speech", **request) as answer,  # type: ignore[arg-type]
    ):
        next(answer.iter_bytes())
    record = gateway.request("my-leaving")
    assert (record["status"], record.get("failure")) == (499, None)
    lines = [line for line in gateway.text.splitlines() if "my-leaving" in line]
    assert len(lines) == 1 and lines[0].startswith("INFO")
    assert "Traceback" not in gateway.text + replica.text
