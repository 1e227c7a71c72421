"""What the fields of all requests have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import StringConstraints

from deployments.settings import StrictModel

ModelName = Annotated[str, StringConstraints(max_length=256)]
"""The name or alias of a model in a request."""


NOT_HERE = frozenset(
    {
        *("temperature_inc", "without_timestamps", "temperature_increment_on_fallback"),  # whisper.cpp, faster-whisper
        *("model_id", "model_name", "voice_id", "streaming", "stream_options"),  # ElevenLabs and others
        *("speaker_labels", "num_channels", "speakers_expected"),  # AssemblyAI and others
    }
)
"""Fields of other servers that nothing here corresponds to, although some names are similar to ours. They are ignored and
named."""


class RequestFields(StrictModel):
    """The fields of a request. `validated` says what happens to unknown ones."""

    foreign: ClassVar[Mapping[str, str]] = {}
    """Names that other servers use for fields of this schema."""


def object_in(value: object, example: str) -> object:
    """The object of a form's field that is JSON; anything else is returned as it is. Raises ValueError, which says what to
    send: such as `example`."""
    if not (isinstance(value, str) and value.lstrip().startswith("{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON; send {example}") from error


def json_schema(fields: type[RequestFields]) -> dict[str, Any]:
    """The description of a JSON body for `/openapi.json`."""
    schema = fields.model_json_schema()
    content = {"application/json": {"schema": _inlined(schema, schema.pop("$defs", {}))}}
    return {"requestBody": {"required": True, "content": content}}


def form_schema(
    fields: type[RequestFields], recording: str = "file", files: Sequence[str] = (), lists: Sequence[str] = ()
) -> dict[str, Any]:
    """The description of a form for `/openapi.json`: its fields, its recording, other files, and lists of files."""
    schema = fields.model_json_schema()
    definitions = schema.pop("$defs", {})
    binary = {"type": "string", "format": "binary"}
    schema["properties"] |= {recording: binary, **dict.fromkeys(files, binary)}
    schema["properties"] |= {name: {"type": "array", "items": binary} for name in lists}
    schema["required"] = [*schema.get("required", ()), recording]
    content = {"multipart/form-data": {"schema": _inlined(schema, definitions)}}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(part: Any, definitions: Mapping[str, Any]) -> Any:
    """A part of a schema with its definitions in place: references would be looked up in the whole document."""
    if isinstance(part, list):
        return [_inlined(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    if (name := str(part.get("$ref", "")).rpartition("/")[2]) in definitions:
        return _inlined(definitions[name], definitions)
    return {key: _inlined(value, definitions) for key, value in part.items()}
