"""The OpenAPI document of the service, made from its routes. https://spec.openapis.org/oas/v3.1.1.html"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from fastapi.routing import APIRoute
from pydantic import create_model
from starlette.routing import BaseRoute

from serve_app.edge.errors import EDGE_ERRORS
from serve_app.gateway.description.headers import ANSWER_HEADERS, REQUEST_HEADERS, HeaderInfo
from serve_app.gateway.description.operation import EVENTS, KEY, AnswerContent, FormBody, JsonBody, Operation
from serve_app.gateway.description.schemas import BEARER, BINARY, SECURITY, TAGS, TITLE, Schema, Schemas
from serve_app.gateway.errors import ErrorAnswer

ABOUT = """\
One speech service over whatever hardware you have: speech from text, text from speech, and the separation of recordings, in
the format of OpenAI's API.

Every error has OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`, and its message says what to do.
`x-request-id` names a request in the logs of the service; a client may send its own. Fields that the service does not know
are ignored and named in `X-Motet-Ignored`, unless the configuration says `strict: true`; a misspelt one is refused.
"""
GUARDED = "/v1"
"""Paths under it need a key, if the service has keys, and count among the requests that are served at once."""
ERRORS: Mapping[int, str] = {
    400: "The request is wrong, or the model cannot do it. `param` names the field.",
    401: "The service needs a key, or does not know this one, or it has expired.",
    403: "The service may not be called by this name or by this web page, or the API key may not do this.",
    404: "A model, a voice or another thing of this name does not exist.",
    405: "The path does not accept this method.",
    408: "The request did not arrive in time, or took longer than allowed.",
    409: "Something else is in the way of this request. The message says what.",
    413: "The body, or a text in it, is too long.",
    415: "The body has another content type than those listed here.",
    429: "The service has too much to do. Send the request again after `Retry-After`.",
    431: "The headers are too large.",
    500: "The service or a model failed. The message has the request id.",
    502: "The service broke off the request. Send it again.",
    503: "The service or the model is not ready. Send the request again after `Retry-After`.",
    504: "The service did not answer in time. Send the request again.",
    507: "A disk of the service is full.",
}
ANYWHERE = (400, 403, 408, *(status for status in EDGE_ERRORS if status >= 431))
"""Errors of every route: of the middleware, and of the servers in front of the gateway."""
RETRIED = (429, 503)
ANSWERED_ONCE = "/v1/audio/"
"""Paths under it take an `Idempotency-Key`, if the request has a body."""


def operations_of(routes: Iterable[BaseRoute]) -> Iterator[tuple[APIRoute, Operation]]:
    """The routes with what they take and answer. Raises `ValueError` for one that does not say it."""
    for route in routes:
        if not (isinstance(route, APIRoute) and route.include_in_schema):
            continue
        operation = (route.openapi_extra or {}).get(KEY)
        if not isinstance(operation, Operation):
            raise ValueError(f"the route {route.path} has no Operation; pass Operation(...).extra as openapi_extra")
        yield route, operation


def openapi_document(routes: Sequence[BaseRoute], *, keyed: bool) -> Schema:
    """The document. `keyed`: the service has API keys."""
    found = list(operations_of(routes))
    schemas = Schemas(
        (body.fields for _, operation in found for body in (operation.body, operation.form) if body),
        (ErrorAnswer, *(content.type for content in _contents(found) if content.type not in (bytes, str))),
    )
    paths: dict[str, Schema] = {}
    for route, operation in found:
        for method in sorted(route.methods or ()):
            paths.setdefault(route.path_format, {})[method.lower()] = _operation(route, operation, schemas, keyed)
    responses = {_name(status): _error(status, schemas) for status in _statuses(found, keyed)}
    headers = {name: _header(info) for name, info in ANSWER_HEADERS.items()}
    components: Schema = {"schemas": schemas.used([paths, responses]), "responses": responses, "headers": headers}
    security = {"securitySchemes": {BEARER: dict(SECURITY)}} if keyed else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": version("motet"), "description": ABOUT, "license": _LICENSE},
        "servers": [{"url": "/", "description": "This service."}],
        "tags": [{"name": name, "description": meaning} for name, meaning in TAGS.items()],
        "paths": paths,
        "components": components | security,
        "security": [{BEARER: []}] if keyed else [],
    }


_LICENSE = {"name": "Apache-2.0", "identifier": "Apache-2.0"}


def errors_of(route: APIRoute, operation: Operation, *, keyed: bool) -> list[int]:
    """The statuses of errors that a route may answer with."""
    statuses = {*ANYWHERE, *operation.errors}
    if route.path.startswith(GUARDED):
        statuses |= {429} | ({401} if keyed else set())
    if operation.body is not None:
        statuses |= {413, 415}
    if operation.form or isinstance(operation.body, FormBody):
        statuses.add(507)
    if _is_answered_once(route, operation):
        statuses.add(409)
    if route.dependant.path_params or route.dependant.query_params or _names_model(operation):
        statuses.add(404)
    return sorted(statuses)


def _is_answered_once(route: APIRoute, operation: Operation) -> bool:
    return route.path.startswith(ANSWERED_ONCE) and operation.body is not None


def _names_model(operation: Operation) -> bool:
    return operation.body is not None and "model" in operation.body.fields.model_fields


def _statuses(found: Sequence[tuple[APIRoute, Operation]], keyed: bool) -> list[int]:
    return sorted({status for route, operation in found for status in errors_of(route, operation, keyed=keyed)})


def _contents(found: Iterable[tuple[APIRoute, Operation]]) -> Iterator[AnswerContent]:
    for _, operation in found:
        for answer in operation.answers:
            yield from answer.contents


def _operation(route: APIRoute, operation: Operation, schemas: Schemas, keyed: bool) -> Schema:
    summary, _, rest = inspect.cleandoc(route.endpoint.__doc__ or "").partition("\n\n")
    described: Schema = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": " ".join(summary.split()).rstrip("."),
        "responses": _responses(route, operation, schemas, keyed),
    }
    if rest:
        described["description"] = rest
    once = ("Idempotency-Key",) if _is_answered_once(route, operation) else ()
    if parameters := [*_parameters(route), *map(_header_parameter, (*once, *operation.headers))]:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _body(operation, schemas)}
    if keyed and not route.path.startswith(GUARDED):
        described["security"] = []
    return described


def _body(operation: Operation, schemas: Schemas) -> Schema:
    content: Schema = {}
    for body in (operation.body, operation.form):
        if isinstance(body, FormBody):
            content["multipart/form-data"] = {"schema": schemas.form(body.fields, body.form)}
        elif isinstance(body, JsonBody):
            example = {"example": dict(operation.example)} if operation.example else {}
            content["application/json"] = {"schema": schemas.received(body.fields), **example}
    return content


def _parameters(route: APIRoute) -> Iterator[Schema]:
    """Those of the path and the query, as the endpoint's arguments describe them."""
    for place, fields in (("path", route.dependant.path_params), ("query", route.dependant.query_params)):
        if not fields:
            continue
        given: dict[str, Any] = {field.alias: (field.field_info.annotation, field.field_info) for field in fields}
        properties = create_model("Parameters", **given).model_json_schema()["properties"]
        for field in fields:
            schema = {key: value for key, value in properties[field.alias].items() if key != "title"}
            meaning = {"description": schema.pop("description")} if "description" in schema else {}
            required = place == "path" or field.field_info.is_required()
            yield {"name": field.alias, "in": place, "required": required, "schema": schema, **meaning}


def _header_parameter(name: str) -> Schema:
    info = REQUEST_HEADERS[name]
    return {"name": name, "in": "header", "required": False, **_header(info)}


def _header(info: HeaderInfo) -> Schema:
    return {"description": info.meaning, "schema": dict(info.schema), "example": info.example}


def _responses(route: APIRoute, operation: Operation, schemas: Schemas, keyed: bool) -> Schema:
    found: Schema = {}
    usual: tuple[str, ...] = ("x-motet-ignored", "server-timing") if operation.body is not None else ()
    usual += ("idempotent-replayed",) if _is_answered_once(route, operation) else ()
    for answer in operation.answers:
        headers = dict.fromkeys(("x-request-id", "x-trace-id", *usual, *answer.headers))
        found[str(answer.status)] = {
            "description": answer.meaning,
            "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
            "content": {content.media_type: _content(content, schemas) for content in answer.contents},
        }
    for status in errors_of(route, operation, keyed=keyed):
        if str(status) in found:
            _also_an_error(found[str(status)], status, schemas)
        else:
            found[str(status)] = {"$ref": f"#/components/responses/{_name(status)}"}
    return found


def _content(content: AnswerContent, schemas: Schemas) -> Schema:
    if content.type is bytes:
        return {"schema": dict(BINARY)}
    schema: Schema = {"type": "string"} if content.type is str else schemas.sent(content.type)
    if content.media_type == EVENTS:
        # The body as a whole is text. Clients that are generated would take the schema of an event for that of the body.
        schema = {"type": "string", "contentMediaType": EVENTS, "contentSchema": schema}
    return {"schema": {**schema, "description": content.meaning} if content.meaning else schema}


def _also_an_error(answer: Schema, status: int, schemas: Schemas) -> None:
    """A status with an answer of its own may also be an error."""
    own = answer["content"]["application/json"]["schema"]
    answer["content"]["application/json"]["schema"] = {"anyOf": [own, schemas.sent(ErrorAnswer)]}
    answer["headers"] |= _error(status, schemas)["headers"]


def _error(status: int, schemas: Schemas) -> Schema:
    names = ["x-request-id", "x-trace-id", "x-motet-ignored", "server-timing"]
    names += ["retry-after"] if status in RETRIED else []
    names += ["www-authenticate"] if status == 401 else []
    return {
        "description": ERRORS[status],
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        "content": {"application/json": {"schema": schemas.sent(ErrorAnswer)}},
    }


def _name(status: int) -> str:
    return f"Error{status}"
