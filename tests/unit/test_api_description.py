"""The description of the API is valid and complete, and its examples work. (`api_conformance.py`: it is true.)"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute, APIWebSocketRoute
from jsonschema import Draft7Validator
from openapi_spec_validator import validate
from starlette.websockets import WebSocket

from cluster.models import Model
from serve_app.cli.api_reference import documents, markdown
from serve_app.edge.settings import SecuritySettings
from serve_app.gateway.api import ROUTES
from serve_app.gateway.description.asyncapi import asyncapi_document, channels_of
from serve_app.gateway.description.openapi import ERRORS, openapi_document, operations_of
from serve_app.gateway.description.operation import FormBody, Operation
from tests.unit import api_conformance
from tests.unit.api_conformance import operation_of, problems
from tests.unit.test_api import MODELS, Bench, Splitter

ROOT = Path(__file__).parents[2]
HTTP, WEBSOCKETS = documents(ROUTES)
PAGES = {"/", "/docs", "/docs/{name}", "/openapi.json", "/asyncapi.json"}
"""Routes for people, which are no part of the API."""
OPERATIONS = [
    pytest.param(method, path, operation, id=operation["operationId"])
    for path, methods in HTTP["paths"].items()
    for method, operation in methods.items()
]
DECLARED = [pytest.param(route, operation, id=operation.id) for route, operation in operations_of(ROUTES)]


def resolved(schema: Mapping[str, Any], document: Mapping[str, Any] = HTTP) -> Mapping[str, Any]:
    """A schema, or the component that it refers to."""
    name = schema.get("$ref", "").rpartition("/")[2]
    found: Mapping[str, Any] = document["components"]["schemas"][name] if name else schema
    return found


def undescribed(schema: Mapping[str, Any], document: Mapping[str, Any] = HTTP) -> list[str]:
    """Fields without a text that says what they are for."""
    fields = resolved(schema, document).get("properties", {})
    return [name for name, each in fields.items() if not each.get("description") and name != "type"]


# --- The documents


def test_the_openapi_document_is_valid() -> None:
    validate(HTTP)
    validate(openapi_document(ROUTES, keyed=False))


def test_the_asyncapi_document_is_valid() -> None:
    schema = json.loads((Path(__file__).parent / "schemas" / "asyncapi.json").read_text())
    for document in (WEBSOCKETS, asyncapi_document(ROUTES, keyed=False)):
        assert [error.message for error in Draft7Validator(schema).iter_errors(document)] == []


def test_every_route_stands_in_one_of_them() -> None:
    routes = {route.path_format for route in ROUTES if isinstance(route, APIRoute)}
    assert set(HTTP["paths"]) == routes - PAGES
    sockets = {route.path for route in ROUTES if isinstance(route, APIWebSocketRoute)}
    assert {channel["address"] for channel in WEBSOCKETS["channels"].values()} == sockets
    assert len(sockets) == len(WEBSOCKETS["channels"])


def test_a_route_that_does_not_say_what_it_takes_is_found() -> None:
    router = APIRouter()

    @router.get("/v1/new")
    async def new() -> None: ...

    @router.websocket("/v1/live")
    async def live(websocket: WebSocket) -> None: ...

    with pytest.raises(ValueError, match=r"/v1/new has no Operation"):
        list(operations_of(router.routes))
    with pytest.raises(ValueError, match=r"/v1/live has no Channel"):
        list(channels_of(router.routes))


def test_names_of_functions_are_words_and_unique() -> None:
    ids = [operation["operationId"] for methods in HTTP["paths"].values() for operation in methods.values()]
    ids += WEBSOCKETS["operations"]
    assert len(ids) == len(set(ids))
    assert [each for each in ids if not re.fullmatch(r"[a-z]+(_[a-z]+)+", each)] == []


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_an_operation_is_described(method: str, path: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["tags"][0] in {tag["name"] for tag in HTTP["tags"]}
    parameters = operation.get("parameters", [])
    assert [each["name"] for each in parameters if each["in"] != "path" and not each.get("description")] == []
    assert {each["name"] for each in parameters if each["in"] == "path"} == set(re.findall(r"{(\w+)}", path))
    for body in operation.get("requestBody", {}).get("content", {}).values():
        assert undescribed(body["schema"]) == []


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_an_operation_has_the_errors_that_occur(method: str, path: str, operation: dict[str, Any]) -> None:
    statuses = set(map(int, operation["responses"]))
    assert {400, 408, 500, 503} <= statuses
    assert 422 not in statuses
    assert ({401, 429} <= statuses) == path.startswith("/v1")
    assert ({413, 415} <= statuses) == ("requestBody" in operation)
    assert all(status in ERRORS or status in (200, 202) for status in statuses)


def test_a_key_is_described_where_one_is_needed() -> None:
    assert HTTP["security"] == [{"bearer": []}]
    assert HTTP["paths"]["/readyz"]["get"]["security"] == []
    assert "security" not in HTTP["paths"]["/v1/models"]["get"]
    free = openapi_document(ROUTES, keyed=False)
    assert free["security"] == []
    assert "securitySchemes" not in free["components"]
    assert "401" not in free["paths"]["/v1/models"]["get"]["responses"]


async def test_the_service_answers_its_description() -> None:
    for keys, document in (((), "asyncapi"), (("0" * 64,), "openapi")):
        bench = Bench(security=SecuritySettings(api_key_sha256=keys))
        answer = await bench.client.get(f"/{document}.json")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()[document][0] == "3"
        assert ("securitySchemes" in answer.json()["components"]) == bool(keys)


# --- What forms, sounds and events are


def test_forms_have_the_fields_that_are_parsed() -> None:
    for _, operation in operations_of(ROUTES):
        if isinstance(body := operation.body, FormBody):
            name = body.fields.__name__.removesuffix("Fields") + "Form"
            form = HTTP["components"]["schemas"][name]
            files = {body.form.recording, *body.form.others, *body.form.long_texts}
            assert set(form["properties"]) == files | set(body.fields.model_fields)
            assert body.form.recording in form["required"]


def test_the_description_names_the_types_of_sounds_and_events() -> None:
    content = HTTP["paths"]["/v1/audio/speech"]["post"]["responses"]["200"]["content"]
    assert {"audio/mpeg", "audio/wav", "audio/pcm", "text/event-stream"} <= set(content)
    assert content["audio/wav"]["schema"] == {"type": "string", "format": "binary"}
    events = {
        each["$ref"].rpartition("/")[2] for each in content["text/event-stream"]["schema"]["contentSchema"]["anyOf"]
    }
    assert {"SpeechAudioDelta", "SpeechAudioDone", "ErrorEvent"} <= events


@pytest.mark.parametrize("name", WEBSOCKETS["channels"])
def test_the_messages_of_a_websocket_are_described(name: str) -> None:
    messages = WEBSOCKETS["channels"][name]["messages"].values()
    assert [each for each in messages if not each["summary"]] == []
    assert len({each.get("name", each["summary"]) for each in messages}) >= len(messages) - 1


# --- It is compared with answers


def test_an_answer_that_differs_is_found() -> None:
    answer = operation_of("GET", "/v1/models/a/b")
    assert answer is not None
    schema = answer["responses"]["200"]["content"]["application/json"]["schema"]
    entry = {"id": "a", "object": "model", "created": 0, "owned_by": "motet", "motet": {"task": "speech"}}
    assert list(problems(entry, schema)) == []
    assert len(list(problems({**entry, "size": 3}, schema))) == 1
    assert len(list(problems({"id": "a"}, schema))) > 0


async def test_a_status_that_is_not_described_fails_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    operation = operation_of("GET", "/v1/models")
    assert operation is not None
    monkeypatch.delitem(operation["responses"], "200")
    await Bench(separator=Splitter()).client.get("/v1/models")
    assert api_conformance.DIFFERENCES == ["GET /v1/models: 200: a status that is not described"]
    api_conformance.DIFFERENCES.clear()


# --- Examples


def bodies() -> Iterator[tuple[Operation, dict[str, Any]]]:
    """The operations whose examples can be sent, with the arguments of httpx."""
    for _, operation in operations_of(ROUTES):
        if isinstance(operation.body, FormBody):
            files = {operation.body.form.recording: ("speech.wav", b"RIFF")}
            yield operation, {"files": files, "data": operation.example}
        elif operation.body is not None:
            yield operation, {"json": operation.example}


@pytest.mark.parametrize(("route", "operation"), DECLARED)
def test_an_example_has_all_that_is_required(route: APIRoute, operation: Operation) -> None:
    if operation.body is not None:
        operation.body.fields.model_validate(operation.example)


async def test_the_example_of_speech_works() -> None:
    answer = await Bench().client.post(
        "/v1/audio/speech",
        json=HTTP["paths"]["/v1/audio/speech"]["post"]["requestBody"]["content"]["application/json"]["example"],
    )
    assert answer.status_code == 200


async def test_the_voices_say_that_all_names_are_one_voice(tmp_path: Path) -> None:
    names = ("alloy", "ash", "verse")
    models = {"tone": Model(engine="hibari", source="wheel:hibari-tts", voice_aliases=dict.fromkeys(names, "bo"))}
    bench = Bench(models={**MODELS, **models}, voices={"folder": str(tmp_path)})
    listed = (await bench.client.get("/v1/audio/voices")).json()["data"]
    assert [voice.get("note") for voice in listed] == [None, "alloy, ash and verse are all this one voice."]


# --- Pages


def test_the_page_about_the_api_is_current() -> None:
    """`motet api --markdown > docs/api.md` makes it so."""
    assert (ROOT / "docs" / "api.md").read_text() == markdown(ROUTES)


async def test_the_page_about_the_api_is_served_from_here() -> None:
    client = Bench().client
    page = await client.get("/docs")
    assert page.status_code == 200
    for path in re.findall(r'(?:href|src)="(/[^"]+)"', page.text):
        answer: httpx.Response = await client.get(path)
        assert answer.status_code == 200, path
        assert "'self'" in answer.headers["content-security-policy"]
    assert (await client.get("/docs/redoc.standalone.js")).status_code == 404
    assert (await client.get("/docs/..%2f__init__.py")).status_code == 404
