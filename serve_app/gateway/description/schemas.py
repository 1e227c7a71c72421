"""What both documents have in common. Python types become JSON Schemas: pydantic models that parse requests, and the
`TypedDict`s that answers are made of."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

from pydantic import TypeAdapter

TITLE = "Motet"
COMPONENTS = "#/components/schemas/"
BEARER = "bearer"
SECURITY: Mapping[str, Any] = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key of the service: `Authorization: Bearer <key>`.",
}
BINARY: Mapping[str, Any] = {"type": "string", "format": "binary"}

Tag = Literal[
    "Speech", "Transcription", "Separation", "Revoicing", "Voices", "Jobs", "Models", "Live sessions", "Admin", "Health"
]
TAGS: Mapping[Tag, str] = {
    "Speech": "A text in, sound out.",
    "Transcription": "A recording in; its words, its speakers, or where somebody speaks out.",
    "Separation": "A recording in, its stems or its speech without noise out.",
    "Revoicing": "A recording in, its words in another voice out.",
    "Voices": "The voices of the models, and your own.",
    "Jobs": "Requests that run later, one by one or in batches, and their files.",
    "Models": "What is served, and what it does now.",
    "Live sessions": "Keys for web pages. The WebSockets themselves are in `/asyncapi.json`.",
    "Admin": "For the operator of the service: routes that need an admin key.",
    "Health": "Whether the service runs and is ready. No key is needed.",
}
Schema = dict[str, Any]
Direction = Literal["validation", "serialization"]
"""What the service accepts, or what it sends."""


class ParsedForm(Protocol):
    """The parts of a form that are no text fields: see `FormFields`, which parses them."""

    @property
    def recording(self) -> str:
        """The field of its recording."""

    @property
    def others(self) -> Collection[str]:
        """Other files."""

    @property
    def long_texts(self) -> Collection[str]:
        """Lists of files."""


class Schemas:
    """The schemas of some types. Models within them are components, which several of them share."""

    def __init__(self, received: Iterable[Any], sent: Iterable[Any]) -> None:
        self._types: dict[tuple[Direction, str], Any] = {
            **{("validation", _key(each)): each for each in received},
            **{("serialization", _key(each)): each for each in sent},
        }
        inputs = [(name, mode, TypeAdapter(each)) for (mode, name), each in self._types.items()]
        found, definitions = TypeAdapter.json_schemas(inputs, ref_template=COMPONENTS + "{model}")
        self._found: dict[tuple[str, str], Schema] = {
            (mode, name): _finite(schema) for (name, mode), schema in found.items()
        }
        self.components: Schema = _finite(definitions.get("$defs", {}))

    def received(self, each: Any) -> Schema:
        """The schema of what a client sends."""
        return self._found["validation", _key(each)]

    def sent(self, each: Any) -> Schema:
        """The schema of what the service sends."""
        return self._found["serialization", _key(each)]

    def form(self, fields: type[Any], form: ParsedForm) -> Schema:
        """The schema of a multipart form. It becomes a component whose name ends in `Form` instead of `Fields`."""
        schema = self.resolved(self.received(fields))
        files: dict[str, Schema] = {
            form.recording: {**BINARY, "description": "The recording, as a file."},
            **{name: {**BINARY, "description": "A file."} for name in form.others},
            **{name: _list_of_files() for name in form.long_texts},
        }
        name = fields.__name__.removesuffix("Fields") + "Form"
        texts = {field: _without_null(each) for field, each in schema["properties"].items()}
        required = [*schema.get("required", ()), form.recording]
        self.components[name] = {**schema, "title": name, "properties": {**files, **texts}, "required": required}
        return {"$ref": COMPONENTS + name}

    def resolved(self, schema: Schema) -> Schema:
        """A schema, or the component that it refers to."""
        name = schema.get("$ref", "").removeprefix(COMPONENTS)
        return self.components[name] if name else schema

    def used(self, document: Any) -> Schema:
        """The components that a document refers to, directly or through others, by name."""
        found: set[str] = set()
        waiting = list(_references(document))
        while waiting:
            if (name := waiting.pop()) not in found:
                found.add(name)
                waiting += _references(self.components[name])
        return {name: self.components[name] for name in sorted(found)}


def _key(each: Any) -> str:
    return repr(each)


def _without_null(schema: Schema) -> Schema:
    """The schema of a form's field: a form has no null, but the field may be missing."""
    choices = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if len(choices) == len(schema.get("anyOf", ())):
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return {**choices[0], **rest} if len(choices) == 1 else {"anyOf": choices, **rest}


def _list_of_files() -> Schema:
    return {"type": "array", "items": dict(BINARY), "description": "Recordings, as files or as `data:` URLs."}


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(reference := part.get("$ref"), str) and reference.startswith(COMPONENTS):
            yield reference.removeprefix(COMPONENTS)
        for value in part.values():
            yield from _references(value)
    elif isinstance(part, list):
        for item in part:
            yield from _references(item)


def _finite(part: Any) -> Any:
    """A schema without defaults that JSON or clients cannot have."""
    if isinstance(part, list):
        return [_finite(item) for item in part]
    if not isinstance(part, dict):
        return part
    unusual = "default" in part and ("discriminator" in part or _is_unusual(part["default"]))
    return {key: _finite(value) for key, value in part.items() if key != "default" or not unusual}


def _is_unusual(value: object) -> bool:
    """Whether a default is a number that JSON does not have, or a list of objects. Generators of clients read neither that
    nor an object of a tagged union."""
    if isinstance(value, list):
        return any(isinstance(each, dict) for each in value)
    return isinstance(value, float) and not math.isfinite(value)
