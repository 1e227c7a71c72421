"""What the fields of all requests have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import StringConstraints

from deployments.json_text import from_json_text
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
        return from_json_text(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON; send {example}") from error
