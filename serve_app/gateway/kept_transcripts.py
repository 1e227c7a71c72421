"""The transcript of a window as JSON, for the finished parts of a job."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from deployments.engines.protocols import Segment, Token, Transcript, Word


def to_json(transcript: Transcript) -> bytes:
    """All of a transcript. Bytes are in base64."""
    return json.dumps(asdict(transcript), default=lambda data: base64.b64encode(data).decode()).encode()


def from_json(data: bytes) -> Transcript:
    """What `to_json` wrote."""
    values: dict[str, Any] = json.loads(data)
    tokens = tuple(Token(**{**token, "bytes": base64.b64decode(token["bytes"])}) for token in values["tokens"])
    return Transcript(**{**values, "segments": tuple(map(_segment, values["segments"])), "tokens": tokens})


def _segment(values: Mapping[str, Any]) -> Segment:
    words = tuple(Word(**{**word, "tokens": tuple(word["tokens"])}) for word in values["words"])
    return Segment(**{**values, "tokens": tuple(values["tokens"]), "words": words})
