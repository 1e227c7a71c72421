"""Compares every answer with `/openapi.json`, and every message of a WebSocket with `/asyncapi.json`.

It stands around the application of each `Bench`, so that every test that sends a request also tests the description: statuses,
media types, headers, and all fields of JSON answers and events. A field that the description does not have is a difference,
although clients must ignore it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.gateway.api import ROUTES
from serve_app.gateway.description.asyncapi import asyncapi_document
from serve_app.gateway.description.headers import ANSWER_HEADERS
from serve_app.gateway.description.openapi import openapi_document

DIFFERENCES: list[str] = []
"""What the running test found. `conftest.py` fails the test for it."""
NO_OPERATION = (404, 405)
"""Statuses of paths and methods that are no operation, where an operation may not have them."""


class Conformance:
    """ASGI middleware that compares what the application sends with its description."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._app(scope, receive, _watched_session(scope, send))
            return
        answer = _Sent()

        async def watched(message: Message) -> None:
            answer.note(message)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            if scope["type"] == "http" and answer.status:
                where = f"{scope['method']} {scope['path']}: {answer.status}"
                DIFFERENCES.extend(f"{where}: {each}" for each in answer.differences(scope["method"], scope["path"]))


class _Sent:
    """One answer, as far as it was sent."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False

    def note(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode("latin-1") for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
            if self.media_type in ("application/json", "text/event-stream"):
                self.body += message.get("body", b"")

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0]

    def differences(self, method: str, path: str) -> Iterator[str]:
        operation = operation_of(method, path)
        if operation is None:
            return
        described = operation["responses"].get(str(self.status))
        if described is None:
            if self.status not in NO_OPERATION:
                yield "a status that is not described"
            return
        described = _resolved(described)
        if self.media_type not in described["content"]:
            yield f"the media type {self.media_type!r} is not described"
            return
        listed = {name.lower() for name in described["headers"]}
        yield from (f"the header {name}" for name in sorted(self.headers.keys() & ANSWER_HEADERS.keys() - listed))
        schema = described["content"][self.media_type]["schema"]
        yield from (
            f"{problem} in {str(value)[:300]}"
            for value in self._values()
            for problem in problems(value, schema.get("contentSchema", schema))
        )

    def _values(self) -> Iterator[Any]:
        if self.media_type == "application/json" and self.complete:
            yield json.loads(self.body)
        elif self.media_type == "text/event-stream":
            lines = self.body.decode(errors="replace").split("\n")[:-1]
            yield from (json.loads(line[6:]) for line in lines if line.startswith("data: {"))


def _watched_session(scope: Scope, send: Send) -> Send:
    channel = next((each for each in _websockets()["channels"].values() if each["address"] == scope["path"]), None)

    async def watched(message: Message) -> None:
        if channel is not None and message["type"] == "websocket.send":
            DIFFERENCES.extend(f"{scope['path']}: {each}" for each in _message_differences(message, channel))
        await send(message)

    return watched


def _message_differences(message: Message, channel: Mapping[str, Any]) -> Iterator[str]:
    if message.get("text") is None:
        if "OutputBytes" not in channel["messages"]:
            yield "a binary message"
        return
    value = json.loads(message["text"])
    named = [each for each in channel["messages"].values() if each.get("name") == value["type"]]
    if not any(not list(problems(value, each["payload"], websockets=True)) for each in named):
        found = [problem for each in named for problem in problems(value, each["payload"], websockets=True)]
        yield f"{found or 'not described'}: {str(value)[:300]}"


def operation_of(method: str, path: str) -> dict[str, Any] | None:
    """The operation of a request. A path without parameters goes before one with them."""
    paths: Mapping[str, Any] = _document()["paths"]
    for template in sorted(paths, key=lambda each: "{" in each):
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern.replace("models/[^/]+", "models/.+"), path):
            operation: dict[str, Any] | None = paths[template].get(method.lower())
            return operation
    return None


def problems(value: Any, schema: Mapping[str, Any], *, websockets: bool = False) -> Iterator[str]:
    """What is wrong with a value, by a schema of the description in which objects have no other fields than those listed."""
    yield from (error.message for error in _validator(json.dumps(schema), websockets).iter_errors(value))


@cache
def _validator(schema: str, websockets: bool) -> Draft202012Validator:
    components = (_websockets() if websockets else _document())["components"]["schemas"]
    closed = {name: _closed(each) for name, each in components.items()}
    return Draft202012Validator({**_closed(json.loads(schema)), "components": {"schemas": closed}})


def _closed(part: Any) -> Any:
    if isinstance(part, list):
        return [_closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    inner = {key: _closed(value) for key, value in part.items()}
    return {"additionalProperties": False, **inner} if isinstance(part.get("properties"), dict) else inner


def _resolved(answer: dict[str, Any]) -> dict[str, Any]:
    name = answer.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = _document()["components"]["responses"][name] if name else answer
    return found


@cache
def _document() -> dict[str, Any]:
    return openapi_document(ROUTES, keyed=True)


@cache
def _websockets() -> dict[str, Any]:
    return asyncapi_document(ROUTES, keyed=True)
