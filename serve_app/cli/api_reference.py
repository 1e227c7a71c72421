"""docs/api.md: the description of the API as a page, made from its OpenAPI and AsyncAPI documents."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from starlette.routing import BaseRoute

from serve_app.cli.schema_tables import fields_table, kind_of, table
from serve_app.gateway.description.asyncapi import asyncapi_document, channels_of
from serve_app.gateway.description.headers import ANSWER_HEADERS
from serve_app.gateway.description.openapi import ERRORS, openapi_document, operations_of
from serve_app.gateway.description.operation import FormBody, Operation
from serve_app.gateway.description.schemas import COMPONENTS, Schema

ADDRESS = "http://localhost:8000"
RECORDING = "speech.wav"
INTRODUCTION = """\
# API reference

`motet api --markdown > docs/api.md` made this page from the description of the API; a test holds it current. A running
service answers the description at `/openapi.json` (OpenAPI 3.1) and `/asyncapi.json` (AsyncAPI 3.0, of the WebSockets), and
shows it at `/docs`. `motet api` prints it without a service.

The API is OpenAI's as far as OpenAI has it, so OpenAI's clients work with `base_url="http://localhost:8000/v1"`. For other
languages, generate a client from `/openapi.json`.

Words in capitals in an address stand for a value of your own. If the service has keys, every request under `/v1` needs one:
`-H "Authorization: Bearer <key>"`.

**Voices.** `alloy`, `ash`, `ballad` and OpenAI's other voice names are aliases, and by default all of them are one and the
same voice: the default model has one. `GET /v1/audio/voices` lists the voices that differ, each with its `aliases`;
`X-Motet-Voice` of an answer names the voice that spoke. [voices.md](voices.md) shows how to add voices.
"""
SHARED = {408, 431, 500, 502, 503, 504, 400, 403}
"""Errors that every route has; the tables leave them out."""


def documents(routes: Sequence[BaseRoute]) -> tuple[Schema, Schema]:
    """The OpenAPI document and the AsyncAPI document of a service with keys."""
    return openapi_document(routes, keyed=True), asyncapi_document(routes, keyed=True)


def markdown(routes: Sequence[BaseRoute]) -> str:
    """The text of `docs/api.md`."""
    http, websockets = documents(routes)
    lines = [INTRODUCTION, *_errors(), *_headers()]
    known = {operation.id: operation for _, operation in operations_of(routes)}
    for tag in http["tags"]:
        lines += [f"## {tag['name']}", "", tag["description"], ""]
        for path, methods in http["paths"].items():
            for method, described in methods.items():
                if tag["name"] in described["tags"]:
                    lines += _operation(method, path, described, known[described["operationId"]], http)
    lines += ["## WebSockets", "", "Each message is JSON with a `type`, or sound in a binary message.", ""]
    examples = {channel.id: channel.example for _, channel in channels_of(routes)}
    for name, channel in websockets["channels"].items():
        lines += _channel(name, channel, examples[name], websockets)
    lines += _objects(http, websockets)
    return "\n".join(lines).rstrip() + "\n"


def _errors() -> Iterator[str]:
    yield "## Errors"
    yield ""
    yield 'Every error is `{"error": {"message", "type", "param", "code"}}`. Events that have begun end with `error`.'
    yield ""
    yield from table(("status", "meaning"), ([str(status), meaning] for status, meaning in ERRORS.items()))
    anywhere = ", ".join(str(status) for status in sorted(SHARED))
    yield f"Every route may answer {anywhere}, and every one under `/v1` 401 and 429. The tables below leave them out."
    yield ""


def _headers() -> Iterator[str]:
    yield "## Headers of answers"
    yield ""
    rows = ([f"`{name}`", info.meaning, f"`{info.example}`"] for name, info in ANSWER_HEADERS.items())
    yield from table(("header", "meaning", "example"), rows)


def _operation(
    method: str, path: str, described: Mapping[str, Any], operation: Operation, document: Schema
) -> Iterator[str]:
    yield f"### {method.upper()} {path}"
    yield ""
    yield f"{described['summary']}."
    yield ""
    if "description" in described:
        yield " ".join(described["description"].split())
        yield ""
    yield from ("```sh", _curl(method, path, operation), "```", "")
    if parameters := described.get("parameters"):
        rows = (
            [f"`{each['name']}`", each["in"], kind_of(each["schema"]), each.get("description", "")]
            for each in parameters
        )
        yield from table(("parameter", "in", "type", "meaning"), rows)
    for media_type, body in described.get("requestBody", {}).get("content", {}).items():
        yield f"Body, `{media_type}`:"
        yield ""
        yield from fields_table(_resolved(body["schema"], document))
    yield from table(("status", "answer", "meaning"), _answers(described["responses"]))


def _answers(responses: Mapping[str, Any]) -> Iterator[list[str]]:
    for status, answer in responses.items():
        if "$ref" in answer:
            if int(status) not in SHARED | {401, 429}:
                yield [status, "error", ERRORS[int(status)]]
            continue
        contents = (_content(media_type, each["schema"]) for media_type, each in answer["content"].items())
        yield [status, "; ".join(contents), answer["description"]]


def _content(media_type: str, schema: Schema) -> str:
    kind = kind_of(schema.get("contentSchema", schema))
    return f"`{media_type}`" if kind in ("file", "string") else f"`{media_type}`: {kind}"


def _curl(method: str, path: str, operation: Operation) -> str:
    words = ["curl", ADDRESS + re.sub(r"{(\w+)}", lambda found: found[1].upper(), path)]
    if method == "delete" or (method == "post" and operation.body is None):
        words += ["-X", method.upper()]
    if isinstance(operation.body, FormBody):
        words += ["-F", f"{operation.body.form.recording}=@{RECORDING}"]
        for name, value in operation.example.items():
            words += ["-F", f"{name}={value}"]
    elif operation.body is not None:
        words += ["-H", "Content-Type: application/json", "-d", json.dumps(operation.example)]
    if operation.output:
        words += ["-o", operation.output]
    return shlex.join(words)


def _channel(name: str, channel: Schema, example: tuple[Any, ...], document: Schema) -> Iterator[str]:
    yield f"### WebSocket {channel['address']}"
    yield ""
    yield f"{channel['title']}."
    yield ""
    if "description" in channel:
        yield " ".join(channel["description"].split())
        yield ""
    if query := channel.get("bindings"):
        rows = ([f"`{key}`", each["description"]] for key, each in query["ws"]["query"]["properties"].items())
        yield from table(("of the address", "meaning"), rows)
    yield from ("A client sends, for example:", "", "```")
    yield from (each if isinstance(each, str) else json.dumps(each) for each in example)
    yield from ("```", "")
    for action, title in (("receive", "client sends"), ("send", "service sends")):
        places = [each["$ref"].rpartition("/")[2] for each in document["operations"][f"{action}_{name}"]["messages"]]
        yield from table(
            (title, "fields", "meaning"), (_message(channel["messages"][place], document) for place in places)
        )


def _message(message: Schema, document: Schema) -> list[str]:
    if "name" not in message:
        return ["a binary message", "", message["summary"]]
    schema = _resolved(message["payload"], document)
    required = schema.get("required", ())
    fields = [
        f"`{name}`{'' if name in required else '?'}: {kind_of(each)}"
        for name, each in schema["properties"].items()
        if name != "type"
    ]
    return [f"`{message['name']}`", "; ".join(fields), message["summary"]]


def _objects(*documents: Schema) -> Iterator[str]:
    yield "## Objects"
    yield ""
    yield "What answers, events and messages contain. A field with `?` may be missing."
    yield ""
    schemas: dict[str, Schema] = {}
    for document in documents:
        schemas |= document["components"]["schemas"]
    messages = {
        each["payload"]["$ref"].removeprefix(COMPONENTS)
        for channel in documents[-1]["channels"].values()
        for each in channel["messages"].values()
        if "$ref" in each["payload"]
    }
    bodies = {
        content["schema"]["$ref"].removeprefix(COMPONENTS)
        for methods in documents[0]["paths"].values()
        for described in methods.values()
        for content in described.get("requestBody", {}).get("content", {}).values()
    }
    for name in sorted(schemas.keys() - (messages - documents[0]["components"]["schemas"].keys()) - bodies):
        if "properties" in (schema := schemas[name]):
            yield f"### {name}"
            yield ""
            if meaning := " ".join(schema.get("description", "").split()):
                yield meaning
                yield ""
            yield from fields_table(schema)


def _resolved(schema: Schema, document: Schema) -> Schema:
    name = schema.get("$ref", "").removeprefix(COMPONENTS)
    found: Schema = document["components"]["schemas"][name] if name else schema
    return found
