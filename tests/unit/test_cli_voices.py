"""`motet voices` and `motet models`, of this machine and of a service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import yaml
from typer.testing import CliRunner, Result

from cluster.models import Model
from deployments.errors import MotetError
from serve_app.cli import command_group, models, service_api
from serve_app.cli.service_api import ServiceApi
from serve_app.config import AppConfig

CONSENT = "I agree that my voice reads our audiobook."


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOTET_CONFIG", raising=False)
    monkeypatch.delenv("MOTET_API_KEY", raising=False)


def motet(*arguments: object) -> Result:
    return CliRunner().invoke(command_group.app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A model that speaks a tone, and a folder of voices of its own."""
    tone = Model(engine="simulated", aliases=("tts-1",), voice_aliases={"alloy": "tone"}).model_dump(mode="json")
    there = Model(engine="hibari", source="path:/nowhere").model_dump(mode="json")
    hub = Model(engine="hibari", source=f"hf:nobody/nothing@{'0' * 40}").model_dump(mode="json")
    wheel = Model(engine="whisper", source="wheel:not-there").model_dump(mode="json")
    arguments = {
        "defaults": False,
        "models": {"tone": tone, "there": there, "hub": hub, "wheel": wheel},
        "voices": {"folder": str(tmp_path / "voices")},
    }
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump({"applications": [{"import_path": "x", "args": arguments}]}, sort_keys=False))
    return path


def test_models_of_a_configuration_and_whether_their_weights_are_here(config: Path) -> None:
    listed = motet("models", "--quiet").stdout.splitlines()
    assert listed[0].split() == ["task", "model", "other", "names", "runs", "on", "memory", "speed", "state"]
    assert [" ".join(line.split()) for line in listed[1:]] == [
        "speech tone tts-1 cpu needs no weights",
        "speech there cpu the folder /nowhere is missing",
        "speech hub cpu not downloaded yet",
        "transcription wheel cpu the wheel not-there is not installed",
    ]
    facts = [json.loads(line) for line in motet("models", "--json").stdout.splitlines()]
    assert facts[0] == {
        "task": "speech",
        "model": "tone",
        "aliases": ["tts-1"],
        "placements": ["cpu"],
        "state": "needs no weights",
        "memory_bytes": None,
        "times_real_time": None,
    }


def test_the_default_models_are_here() -> None:
    assert {model.state for model in models.configured(AppConfig().models, {})} == {"weights here"}


def test_voices_of_this_machine(config: Path, tmp_path: Path) -> None:
    first = motet("voices", "--model", "tts-1")
    assert [" ".join(line.split()) for line in first.stdout.splitlines()] == [
        "voice models language about",
        "tone tone und a tone for each text; also alloy",
    ]
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 48_000)
    soundfile.write(tmp_path / "Ada.wav", samples, 16_000)
    added = motet("voices", "add", "Ada.wav", "--consent", CONSENT)
    (id,) = added.stdout.split()
    assert added.stderr == f"Ada: 3.0 s, stored as {id}.\n"
    stored = json.loads(motet("voices", "--json").stdout.splitlines()[-1])
    assert stored == {"id": id, "models": [], "language": "", "about": "Ada, 3.0 s"}
    assert motet("voices", "delete", id, "-q").stderr == ""
    with pytest.raises(MotetError, match="There is no voice"):
        motet("voices", "delete", id)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("add",), "Name a recording."),
        (("delete",), "Name the id of a voice."),
        (("add", "no.wav", "--consent", CONSENT), "There is no file 'no.wav'."),
        (("add", "serve_config.yaml"), "--consent"),
    ],
)
def test_what_is_missing_is_told(arguments: tuple[str, ...], says: str, config: Path) -> None:
    result = motet("voices", *arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.replace("│", " ").split())


def test_a_consent_without_words_is_refused(config: Path) -> None:
    with pytest.raises(MotetError, match=r"consent: must be in words.*Correct --name or --consent"):
        motet("voices", "add", config, "--consent", "??????????")


# --- A service


MODELS = {
    "data": [
        {"id": "ear", "motet": {"task": "transcription", "placements": ["cpu", "cuda"], "aliases": ["whisper-1"]}},
        {"id": "voice", "motet": {"task": "speech", "placements": ["cpu"], "aliases": []}},
        {"id": "whisper-1", "motet": {"task": "transcription", "placements": ["cpu"], "alias_of": "ear"}},
        {"id": "gpt-realtime", "motet": {"task": "conversation", "answers": "echo"}},
    ]
}
READY = {
    "models": {
        "ear": {"ready": True, "placements": {"cpu": True, "cuda": False}},
        "voice": {"ready": False, "cause": "It loads."},
    }
}
VOICES = {
    "data": [
        {
            "id": "heart",
            "object": "voice",
            "model": "hibari",
            "language": "en-US",
            "description": "American",
            "aliases": ["alloy"],
        },
        {"id": "voice_1", "object": "audio.voice", "name": "Ada", "seconds": 3.2, "models": ["sopro"]},
    ]
}
asked: list[httpx.Request] = []


def service(request: httpx.Request) -> httpx.Response:
    request.read()
    asked.append(request)
    match request.method, request.url.path:
        case "GET", "/v1/models":
            return httpx.Response(200, json=MODELS)
        case "GET", "/readyz":
            return httpx.Response(503, json=READY)
        case "GET", "/v1/audio/voices":
            return httpx.Response(200, json=VOICES)
        case "POST", "/v1/audio/voices":
            return httpx.Response(200, json={"id": "voice_2", "name": "Bo", "seconds": 2.0})
    error = {
        "message": "There is no voice 'x'.",
        "type": "invalid_request_error",
        "param": "voice",
        "code": "voice_not_found",
    }
    return httpx.Response(404, json={"error": error})


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """Options of a command, for a service."""
    asked.clear()
    monkeypatch.setenv("MOTET_API_KEY", "secret")
    transport = httpx.MockTransport(service)
    monkeypatch.setattr(service_api, "ServiceApi", lambda url: ServiceApi(url, transport))
    yield "--service", "http://there:8000/v1"
    assert {request.headers["authorization"] for request in asked} <= {"Bearer secret"}


def test_models_of_a_service_and_whether_they_answer(remote: tuple[str, str]) -> None:
    listed = motet("models", *remote).stdout.splitlines()[1:]
    assert [" ".join(line.split()) for line in listed] == [
        "conversation gpt-realtime answers through other models",
        "speech voice cpu not ready: It loads.",
        "transcription ear whisper-1 cpu cuda ready on cpu",
    ]


def test_voices_of_a_service(remote: tuple[str, str], tmp_path: Path) -> None:
    listed = motet("voices", *remote, "-m", "tts-1").stdout.splitlines()[1:]
    assert [" ".join(line.split()) for line in listed] == [
        "heart hibari en-US American; also alloy",
        "voice_1 sopro Ada, 3.2 s",
    ]
    assert asked[-1].url.params["model"] == "tts-1"
    (tmp_path / "Bo.wav").write_bytes(b"sound")
    facts: dict[str, Any] = json.loads(motet("voices", "add", "Bo.wav", "--consent", CONSENT, "--json", *remote).stdout)
    assert facts["id"] == "voice_2"
    assert CONSENT.encode() in asked[-1].content
    assert b"\r\n\r\nBo\r\n" in asked[-1].content
    with pytest.raises(MotetError, match=r"There is no voice 'x'\."):
        motet("voices", "delete", "a/b", *remote)
    assert asked[-1].url.raw_path == b"/v1/audio/voices/a%2Fb"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (httpx.Response(200, text="<html>"), "is not a Motet service"),
        (httpx.Response(401, json={"error": {"message": "No key."}}), "Set MOTET_API_KEY"),
        (httpx.Response(502, text="bad gateway"), "answered 502"),
        (httpx.ConnectError("refused"), "does not answer: refused"),
    ],
)
def test_a_service_that_cannot_be_used_says_why(answer: httpx.Response | Exception, says: str) -> None:
    def given(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with ServiceApi("http://there", httpx.MockTransport(given)) as client, pytest.raises(MotetError, match=says):
        client.ask("GET", "/v1/models")


@pytest.mark.parametrize("url", ["there", "http://[::1", "http://", "http://there:port", "ftp://there"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(MotetError, match="is not a URL"):
        ServiceApi(url)


@pytest.mark.parametrize("answer", [{"hello": "there"}, {"data": [{"id": "gpt-2", "object": "model"}]}])
@pytest.mark.parametrize("command", ["models", "voices"])
def test_another_service_that_answers_is_called_so(
    command: str, answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=answer))
    monkeypatch.setattr(service_api, "ServiceApi", lambda url: ServiceApi(url, transport))
    with pytest.raises(MotetError, match="is not a Motet service"):
        motet(command, "--service", "http://there")
