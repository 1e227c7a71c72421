"""Collects the events of a live session, each checked against the types of the openai package."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

SERVER_EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)


class Events(list[dict[str, Any]]):
    """What a client received, in order."""

    def emit(self, event: Mapping[str, Any]) -> None:
        """See `Emit`."""
        parsed = SERVER_EVENT.validate_json(json.dumps({"event_id": "event_1", **event}), strict=True)
        assert parsed.type == event["type"]
        self.append(dict(event))

    @property
    def kinds(self) -> list[str]:
        """Their types, each run of equal ones once."""
        kinds = [event["type"] for event in self]
        return [kind for n, kind in enumerate(kinds) if n == 0 or kinds[n - 1] != kind]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Those of a type."""
        return [event for event in self if event["type"] == kind]

    @property
    def sound(self) -> bytes:
        """The sound of all responses."""
        return b"".join(base64.b64decode(event["delta"]) for event in self.of("response.output_audio.delta"))

    @property
    def done(self) -> dict[str, Any]:
        """The response that ended last."""
        response: dict[str, Any] = self.of("response.done")[-1]["response"]
        return response
