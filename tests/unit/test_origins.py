"""Which hosts and which web pages may use the service."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from deployments.errors import MotetError
from serve_app.cli import application
from serve_app.config import AppConfig
from serve_app.edge.settings import SecuritySettings
from serve_app.gateway.bodies.json_bodies import check_content_type
from serve_app.gateway.middleware.origins import _one_of
from tests.unit.test_api import Bench

SPEECH = "/v1/audio/speech"
BODY = {"model": "tone", "input": "Hello.", "response_format": "pcm"}
NAMED = {"allowed_hosts": ("speech.example.com", "*.lan.example"), "allowed_origins": ("https://app.example.com",)}


def bench(**security: Any) -> httpx.AsyncClient:
    return Bench(security=SecuritySettings(**security)).client


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.0.0.1:8000", "[::1]", "[::1]:8000", "10.1.2.3:8000", "0.0.0.0:8000", "[fe80::1]:80"),
        *("localhost", "localhost:8000", "LOCALHOST:8000", "motet.localhost", "localhost.", "motet:8000", "testserver"),
        *("speech.example.com", "Speech.Example.com:443", "a.lan.example", "a.b.lan.example:8000"),
        *(socket.gethostname(), f"{socket.gethostname()}.local:8000"),
    ],
)
async def test_the_service_answers_to_what_it_is_called(host: str) -> None:
    assert (await bench(**NAMED).get("/v1/models/tone", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "evil.example.", "127.0.0.1.evil.example", "localhost.evil.example"),
        *("xspeech.example.com", "speech.example.com.evil.example", "lan.example", "[::1", "a.xlan.example", ":8000x"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/audio/voices", "/readyz", "/", "/page/app.js", "/openapi.json"])
async def test_no_other_name_is_answered(host: str, path: str) -> None:
    """A page whose name was made to point here would read the answer (DNS rebinding)."""
    answer = await bench(**NAMED).get(path, headers={"host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_not_allowed")
    assert "security.allowed_hosts" in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["host", "origin"])
@pytest.mark.parametrize("path", ["/v1/models", "/livez"])
async def test_a_header_that_decides_comes_once(name: str, path: str) -> None:
    headers = [("host", "localhost"), ("origin", "http://localhost"), (name, "localhost")]
    answer = await bench(**NAMED).get(path, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "repeated_header", name.title())


async def test_whoever_asks_whether_it_lives_may_call_it_anything() -> None:
    assert (await bench().get("/livez", headers={"host": "evil.example"})).status_code == 200


OWN_PAGES = {
    "name": ("localhost:8000", "http://localhost:8000"),
    "usual port": ("localhost", "http://localhost"),
    "usual port written": ("localhost:80", "http://localhost"),
    "IPv6": ("[::1]:8000", "http://[::1]:8000"),
    "behind TLS": ("speech.example.com", "https://speech.example.com"),
    "allowed": ("localhost:8000", "https://app.example.com"),
}


@pytest.mark.parametrize(("host", "origin"), OWN_PAGES.values(), ids=OWN_PAGES.keys())
async def test_pages_of_the_service_and_of_allowed_origins_may_ask(host: str, origin: str) -> None:
    answer = await bench(**NAMED).post(SPEECH, json=BODY, headers={"host": host, "origin": origin})
    assert answer.status_code == 200


FOREIGN = (
    *(
        "http://evil.example",
        "null",
        "",
        "http://localhost:3000",
        "http://[::1",
        "file://",
        "https://x.app.example.com",
    ),
    *("https://app.example.com:444", "http://app.example.com", "https://app.example.com.evil.example", "motet"),
)


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "GET", "OPTIONS"])
async def test_pages_of_foreign_origins_may_not(origin: str, method: str) -> None:
    client = bench(**NAMED)
    for path in (SPEECH, "/v1/audio/voices"):
        answer = await client.request(method, path, headers={"origin": origin, "host": "localhost:8000"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
        assert "security.allowed_origins" in answer.json()["error"]["message"]


async def test_a_form_of_a_foreign_page_is_not_read() -> None:
    form: dict[str, Any] = {"data": {"name": "a"}, "files": {"audio_sample": b"x"}}
    answer = await bench().post("/v1/audio/voices", headers={"origin": "http://evil.example"}, **form)
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "", "text/json"],
)
async def test_what_a_page_may_send_unasked_is_no_json(content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = await bench().post(SPEECH, content=b'{"model":"tone","input":"Hello."}', headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (415, "unsupported_content_type")
    assert "-H 'Content-Type: application/json'" in error["message"]


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON", "application/json; charset=utf-8"])
def test_json_may_have_parameters(content_type: str) -> None:
    check_content_type(content_type)


async def test_a_page_of_an_allowed_origin_is_told_that_it_may_ask() -> None:
    client, origin = bench(api_key_sha256=("0" * 64,), **NAMED), "https://app.example.com"
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    before = await client.options(SPEECH, headers=asked)
    assert (before.status_code, before.headers["access-control-allow-origin"]) == (200, origin)
    assert "authorization" in before.headers["access-control-allow-headers"]
    refused = await client.post(SPEECH, json=BODY, headers={"origin": origin})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, origin)


async def test_a_preflight_request_is_answered_for_every_route() -> None:
    whole, origin = Bench(security=SecuritySettings(**NAMED)), "https://app.example.com"
    described = (await whole.client.get("/openapi.json")).json()["paths"]
    asked = [(path, method.upper()) for path, methods in described.items() for method in methods]
    assert ("/v1/audio/transcriptions", "POST") in asked and len(asked) > 12
    for path, method in asked:
        headers = {"origin": origin, "access-control-request-method": method}
        wanted = {"access-control-request-headers": "authorization, content-type, last-event-id"}
        answer = await whole.client.options(path, headers={**headers, **wanted})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin), path
        assert method in answer.headers["access-control-allow-methods"].split(", ") or method == "GET"
        assert "last-event-id" in answer.headers["access-control-allow-headers"]


@pytest.mark.parametrize("origin", ["http://motet", None])
async def test_nobody_else_is(origin: str | None) -> None:
    headers = {} if origin is None else {"origin": origin}
    answer = await bench(**NAMED).post(SPEECH, json=BODY, headers=headers)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("allowed_hosts", value) for value in ("http://a.example", "a.example:80", "A.example", "", "a b", "a.*.b")),
        *(
            ("allowed_origins", value)
            for value in ("*", "null", "a.example", "https://a.example/", "https://A.example")
        ),
        *(("allowed_origins", value) for value in ("http://a.example:80", "https://a.example:443", "ftp://a.example")),
    ],
)
def test_a_setting_that_means_nothing_is_refused_with_an_example(name: str, value: str) -> None:
    with pytest.raises(ValidationError, match=r"example\.com"):
        SecuritySettings.model_validate({name: [value]})


@pytest.mark.parametrize(
    ("host", "added"), [("127.0.0.1", ()), ("::1", ()), ("0.0.0.0", ()), ("Box.Example", ("box.example",))]
)
def test_the_name_at_which_it_listens_is_one_of_its_own(host: str, added: tuple[str, ...]) -> None:
    assert application.with_own_name(host, AppConfig()).security.allowed_hosts == added


def test_a_long_host_is_told_shortly() -> None:
    with pytest.raises(MotetError) as told:
        check_content_type("x" * 10_000)
    assert len(str(told.value)) < 300


def test_a_star_allows_any_name() -> None:
    assert AppConfig.model_validate({"security": {"allowed_hosts": ["*"]}}).security.allowed_hosts == ("*",)
    assert _one_of(["*"]).fullmatch("speech.example.com")
