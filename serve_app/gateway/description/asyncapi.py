"""The AsyncAPI document of the service's WebSockets, made from their routes. https://www.asyncapi.com/docs/reference/specification/v3.0.0

Actions are those of the service: it receives what a client sends.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

from fastapi.routing import APIWebSocketRoute
from starlette.routing import BaseRoute

from serve_app.gateway.description.channel import Channel, channel_of
from serve_app.gateway.description.schemas import BEARER, BINARY, SECURITY, TITLE, Schema, Schemas

ABOUT = """\
The WebSockets of the service. `/openapi.json` describes its other routes.

A message is JSON in a text message, with a field `type`, or sound in a binary one. A session that fails gets `error`, and is
closed with 1008 (client error), 1009 (too large), 1013 (timeout, or try again later) or 1011 (other errors). Browsers cannot
send headers: they offer a key as a subprotocol, `["realtime", "openai-insecure-api-key.<key>"]`.
"""
SERVER = "service"
SOUND = "application/octet-stream"


def channels_of(routes: Iterable[BaseRoute]) -> Iterator[tuple[APIWebSocketRoute, Channel]]:
    """The routes of WebSockets with their messages. Raises `ValueError` for one that does not say them."""
    for route in routes:
        if not isinstance(route, APIWebSocketRoute):
            continue
        if (messages := channel_of(route.endpoint)) is None:
            raise ValueError(f"the WebSocket {route.path} has no Channel; put @channel(...) under @router.websocket")
        yield route, messages


def asyncapi_document(routes: Sequence[BaseRoute], *, keyed: bool) -> Schema:
    """The document. `keyed`: the service has API keys."""
    found = list(channels_of(routes))
    schemas = Schemas(
        {each for _, channel in found for each in channel.received},
        {each for _, channel in found for each in channel.sent},
    )
    channels = {channel.id: _channel(route, channel, schemas) for route, channel in found}
    operations = {name: each for _, channel in found for name, each in _operations(channel)}
    security = {"securitySchemes": {BEARER: dict(SECURITY)}} if keyed else {}
    server: Schema = {
        "host": "{host}",
        "protocol": "ws",
        "variables": {"host": {"default": "localhost:8000", "description": "The address of the service."}},
    }
    if keyed:
        server["security"] = [{"$ref": f"#/components/securitySchemes/{BEARER}"}]
    return {
        "asyncapi": "3.0.0",
        "info": {"title": TITLE, "version": version("motet"), "description": ABOUT, "license": {"name": "Apache-2.0"}},
        "defaultContentType": "application/json",
        "servers": {SERVER: server},
        "channels": channels,
        "operations": operations,
        "components": {"schemas": _plain_discriminators(schemas.used(channels)), **security},
    }


def _plain_discriminators(part: Any) -> Any:
    """AsyncAPI's discriminator is the name of a field; OpenAPI's is an object."""
    if isinstance(part, list):
        return [_plain_discriminators(each) for each in part]
    if not isinstance(part, dict):
        return part
    plain = {key: _plain_discriminators(value) for key, value in part.items()}
    if isinstance(found := plain.get("discriminator"), dict):
        plain["discriminator"] = found["propertyName"]
    return plain


def _channel(route: APIWebSocketRoute, channel: Channel, schemas: Schemas) -> Schema:
    summary, _, rest = inspect.cleandoc(route.endpoint.__doc__ or "").partition("\n\n")
    messages = {_name(each): _message(each, schemas.received(each), schemas) for each in channel.received}
    messages |= {_name(each): _message(each, schemas.sent(each), schemas) for each in channel.sent}
    for name, meaning in (("InputBytes", channel.received_bytes), ("OutputBytes", channel.sent_bytes)):
        if meaning:
            messages[name] = {"summary": meaning, "contentType": SOUND, "payload": dict(BINARY)}
    query = {name: {"type": "string", "description": meaning} for name, meaning in channel.query.items()}
    bindings = (
        {"bindings": {"ws": {"method": "GET", "query": {"type": "object", "properties": query}}}} if query else {}
    )
    return {
        "address": route.path,
        "title": " ".join(summary.split()).rstrip("."),
        **({"description": rest} if rest else {}),
        "servers": [{"$ref": f"#/servers/{SERVER}"}],
        "tags": [{"name": channel.tag}],
        "messages": messages,
        **bindings,
    }


def _message(each: type[Any], schema: Schema, schemas: Schemas) -> Schema:
    whole = schemas.resolved(schema)
    return {
        "name": message_type(whole),
        "title": whole.get("title", each.__name__),
        "summary": " ".join(str(whole.get("description", "")).split()),
        "payload": schema,
    }


def message_type(schema: Schema) -> str:
    """The value of `type` in the messages of a schema."""
    kind = schema["properties"]["type"]
    return str(kind["const"] if "const" in kind else kind["enum"][0])


def _operations(channel: Channel) -> Iterator[tuple[str, Schema]]:
    received = [*map(_name, channel.received), *(["InputBytes"] if channel.received_bytes else [])]
    sent = [*map(_name, channel.sent), *(["OutputBytes"] if channel.sent_bytes else [])]
    for action, names in (("receive", received), ("send", sent)):
        place = f"#/channels/{channel.id}"
        messages = [{"$ref": f"{place}/messages/{name}"} for name in names]
        yield f"{action}_{channel.id}", {"action": action, "channel": {"$ref": place}, "messages": messages}


def _name(each: type[Any]) -> str:
    return each.__name__
