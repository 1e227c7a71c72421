"""Requests before Ray Serve reads them, and the shape of Ray Serve's own errors."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import pytest
from ray.serve._private import constants, http_util
from ray.serve._private.http_util import RequestIdMiddleware, validate_http_proxy_callback_return
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app import profiles
from serve_app.edge import middleware
from serve_app.edge.middleware import CONTROLS, EdgeMiddleware, harmless
from serve_app.gateway.errors import error_response
from serve_app.gateway.middleware.keys import NO_KEY
from tests.unit.jumping_clock import now, run


class Ray:
    """Ray Serve's part: answers in plain text as it does, with the application's routes or without."""

    def __init__(self, status: int = 200, body: str = "text", routes: str = '{"/":"motet"}') -> None:
        self.status, self.body, self.routes = status, body, routes
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        routes = scope["path"] == "/-/routes"
        if not routes:
            self.headers = list(scope["headers"])
        status, body = (200, self.routes) if routes else (self.status, self.body)
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"retry-after", b"9")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body.encode()})


async def answer_of(app: ASGIApp, path: str = "/v1/models", **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(EdgeMiddleware(RequestIdMiddleware(app), 11.0, behind_haproxy=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://motet") as client:
        return await client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_ray_serve_is_told_to_call_the_middleware(monkeypatch: pytest.MonkeyPatch) -> None:
    from uvicorn import config

    monkeypatch.setattr(config, "HTTP_PROTOCOLS", dict(config.HTTP_PROTOCOLS))
    assert constants.RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH is None  # the name that profiles sets
    assert "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH" in profiles.ANY_RAY
    (added,) = validate_http_proxy_callback_return(middleware.middlewares())
    given: object = added.cls
    assert given is EdgeMiddleware
    assert config.HTTP_PROTOCOLS["auto"] == "serve_app.edge.protocol:EdgeProtocol"


def test_every_header_that_commands_ray_serve_is_known() -> None:
    """A new one in another Ray shows here: its names end in HEADER, or stand in these constants."""
    named = {value for name, value in vars(constants).items() if name.endswith("_HEADER")}
    named |= {constants.SERVE_MULTIPLEXED_MODEL_ID, constants.SERVE_SESSION_ID}
    plain = {str(value).lower().replace("_", "-").encode() for value in named}
    assert plain - {middleware.REQUEST_ID} == CONTROLS
    assert constants.SERVE_INGRESS_ROUTER_HEADER_PREFIX.encode() == middleware.ROUTERS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x-request-timeout-seconds", b"0.0001"),
        (b"X-Request-Disconnect-Disabled", b"?1"),
        (b"serve_multiplexed_model_id", b"m"),
        (b"serve-multiplexed-model-id", b"m"),
        (b"x-session-id", b"s"),
        (b"x_session_id", b"s"),
        (b"x-serve-router-target", b"t"),
        (b"x-request-id", b"\xff"),
        (b"x-request-id", b""),
        (b"x-request-id", b"two words"),
        (b"x-request-id", b"x" * 257),
        (b"traceparent", b"\xff"),
        (b"\xff", b"x"),
    ],
)
def test_headers_that_command_or_break_ray_serve_are_taken_out(name: bytes, value: bytes) -> None:
    assert harmless([(b"accept", b"\xff"), (name, value)]) == [(b"accept", b"\xff")]


def test_one_request_id_stays_of_several() -> None:
    ids = [(b"x-request-id", value) for value in (b"\xff", b"mine", b"other")]
    assert harmless(ids) == [(b"x-request-id", b"mine")]


async def test_a_clients_own_request_id_comes_back() -> None:
    assert (await answer_of(Ray(), x_request_id="mine")).headers["x-request-id"] == "mine"
    assert len((await answer_of(Ray(), x_request_id="two words")).headers["x-request-id"]) == 36


@pytest.mark.parametrize("status", [400, 404, 408, 429, 499, 500, 503])
async def test_ray_serves_own_errors_become_the_services(status: int) -> None:
    answer = await answer_of(Ray(status), x_request_id="mine")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.headers.get_list("retry-after") == ["9"]
    assert answer.headers["x-request-id"] == "mine"


@pytest.mark.parametrize("routes", ["", "{}"])
async def test_nothing_is_not_found_before_ray_serve_knows_its_routes(routes: str) -> None:
    assert (await answer_of(Ray(404, routes=routes))).status_code == 503


async def test_what_is_no_error_stays_as_it_is() -> None:
    answer = await answer_of(Ray(200, "as it is"))
    assert (answer.status_code, answer.text) == (200, "as it is")


async def test_ray_serves_health_is_worded_by_itself() -> None:
    assert (await answer_of(Ray(503, "draining"), "/-/healthz")).text == "draining"


async def test_a_failure_before_the_service_is_logged_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    answer = await answer_of(fails)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "failed before it reached the service" in caplog.text


async def test_ray_serve_reads_the_headers_that_are_left() -> None:
    """Its own functions, with whatever a client may send."""
    odd = [b"\xff", b"", b"x" * 10_000, b"?1", b"0.0001", b"\x80\x81"]
    for name in {*CONTROLS, b"x-request-id", b"traceparent", b"tracestate", b"x-other"}:
        for value in odd:
            kept: Any = dict(harmless([(name, value), (name, value)]))
            assert http_util.parse_session_id_header(kept) == ""
            assert http_util.parse_disconnect_disabled_header(kept) is False
            assert http_util.parse_request_timeout_header(kept, None) is None
            kept.get(b"x-request-id", b"").decode()


async def send_nothing() -> Any:
    await asyncio.sleep(1e6)


def exchange(app: ASGIApp, *parts: Message, behind_haproxy: bool, length: int = 100) -> tuple[float, list[Message]]:
    """When a request was answered whose body stops after these parts, and how."""

    async def test() -> tuple[float, list[Message]]:
        arriving, sent = list(parts), list[Message]()

        async def receive() -> Message:
            return arriving.pop(0) if arriving else await send_nothing()

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"content-length", b"%d" % length), (b"x-request-id", b"mine")]
        scope = {"type": "http", "method": "POST", "path": "/v1/audio/speech", "headers": headers}
        await EdgeMiddleware(app, 11.0, behind_haproxy)(scope, receive, send)
        return now(), sent

    return run(test)


def part(data: bytes, more_body: bool = True) -> Message:
    return {"type": "http.request", "body": data, "more_body": more_body}


@pytest.mark.parametrize("behind_haproxy", [True, False])
def test_a_body_that_does_not_begin_never_reaches_ray_serve(behind_haproxy: bool) -> None:
    reached = Ray()
    seconds, sent = exchange(reached, part(b"{"), behind_haproxy=behind_haproxy)
    assert (seconds, sent[0]["status"], reached.headers) == (11.0, 408, [])
    headers = dict(sent[0]["headers"])
    assert (headers[b"connection"], headers[b"x-request-id"]) == (b"close", b"mine")
    assert (b"x-motet-early" in headers) is behind_haproxy


def test_all_parts_of_a_body_reach_the_service_in_order() -> None:
    parts = [part(b"a" * 10_000), part(b"b" * 10_000), part(b"c", more_body=False)]
    read: list[bytes] = []

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["more_body"]:
            read.append(message["body"])
        read.append(message["body"])
        await Ray()(scope, receive, send)

    exchange(reads, *parts, behind_haproxy=True)
    assert read == [each["body"] for each in parts]


@pytest.mark.parametrize(("more_body", "repeated"), [(True, True), (False, False)])
def test_haproxy_is_told_of_an_error_only_before_the_end_of_the_body(more_body: bool, repeated: bool) -> None:
    async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
        await error_response(NO_KEY)(scope, receive, send)

    _, sent = exchange(refuses, part(b"x" * 20_000, more_body), behind_haproxy=True)
    headers = dict(sent[0]["headers"])
    assert headers[b"www-authenticate"] == b"Bearer"
    told = headers.get(b"x-motet-early")
    assert (told is not None) is repeated
    assert told is None or base64.b64decode(told) == sent[1]["body"]


def test_a_client_that_leaves_before_its_body_begins_is_not_passed_on() -> None:
    reached = Ray()
    seconds, sent = exchange(reached, part(b"{"), {"type": "http.disconnect"}, behind_haproxy=True)
    assert (seconds, sent, reached.headers) == (0.0, [], [])


def test_a_few_websockets_are_opened_at_once_and_any_number_stays_open() -> None:
    opening: list[int] = []
    opened: list[int] = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        opening.append(1)
        await asyncio.sleep(1.0)
        if scope["path"] == "/fails":
            raise RuntimeError("the replica is gone")
        await send({"type": "websocket.accept"})
        opened.append(1)
        await asyncio.sleep(100.0)

    async def test() -> None:
        async def send(message: Message) -> None: ...

        middleware = EdgeMiddleware(slow, 11.0, behind_haproxy=False)
        scopes = [{"type": "websocket", "path": path, "headers": []} for path in ["/fails"] * 4 + ["/opens"] * 8]
        tasks = [asyncio.create_task(middleware(scope, send_nothing, send)) for scope in scopes]
        for seconds in range(1, 4):
            await asyncio.sleep(0.5)
            assert len(opening) == 4 * seconds
            await asyncio.sleep(0.5)
        await asyncio.sleep(0.5)
        assert len(opened) == 8
        await asyncio.gather(*tasks, return_exceptions=True)

    run(test)
