"""JSON Schemas as tables of a page: the fields of an object, and what each may be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from serve_app.gateway.description.schemas import COMPONENTS, Schema

BOUNDS = {
    ("minimum", "maximum"): "{} to {}",
    ("exclusiveMinimum", "exclusiveMaximum"): "between {} and {}",
    ("minimum", "exclusiveMaximum"): "from {} to under {}",
}
SINGLE = {
    "minimum": "{} or more",
    "maximum": "{} or less",
    "exclusiveMinimum": "over {}",
    "exclusiveMaximum": "under {}",
    "maxLength": "up to {} characters",
    "maxItems": "up to {}",
    "maxProperties": "up to {}",
}


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table, and an empty one after it; nothing without rows."""
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    if lines:
        yield f"| {' | '.join(titles)} |"
        yield f"|{'---|' * len(titles)}"
        yield from lines
        yield ""


def fields_table(schema: Schema) -> Iterator[str]:
    """The fields of an object, those that are required first."""
    required = schema.get("required", ())
    fields = sorted(schema["properties"].items(), key=lambda field: field[0] not in required)
    rows = ([_named(name, name in required), _default(each), kind_of(each), _meaning(each)] for name, each in fields)
    yield from table(("field", "default", "type", "meaning"), rows)


def kind_of(schema: Mapping[str, Any]) -> str:
    """What a value may be, in words: `string`, `number, 0 to 1`, a link to an object, or the accepted words."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(COMPONENTS)
        return f"[{name}](#{name.lower()})"
    if (choices := schema.get("anyOf") or schema.get("oneOf")) is not None:
        kinds = dict.fromkeys(kind_of(choice) for choice in choices if choice.get("type") != "null")
        return " or ".join(kinds) or "null"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    return _plain(schema)


def _plain(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "any")
    if schema.get("format") == "binary":
        return "file"
    if kind == "array":
        kind = f"list of {kind_of(schema.get('items', {}))}"
    elif kind == "object" and isinstance(values := schema.get("additionalProperties"), dict):
        kind = f"object of {kind_of(values)}"
    return ", ".join([kind, *_bounds(schema)])


def _bounds(schema: Mapping[str, Any]) -> Iterator[str]:
    for (low, high), text in BOUNDS.items():
        if low in schema and high in schema:
            yield text.format(_number(schema[low]), _number(schema[high]))
            return
    for name, text in SINGLE.items():
        if name in schema:
            yield text.format(_number(schema[name]))


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _named(name: str, required: bool) -> str:
    return f"`{name}`" if required else f"`{name}`?"


def _default(schema: Schema) -> str:
    value = schema.get("default")
    return "" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`"


def _meaning(schema: Schema) -> str:
    return str(schema.get("description", ""))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
