"""The text form of server-sent events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MAX_AUDIO_BYTES = 23 * 1024
"""Sound in one event. In base64, and with the other fields of its event, it makes a line below 32 KiB: common clients stop at
lines above 64 KiB."""


def event(data: Mapping[str, Any], event_id: str = "") -> bytes:
    """One server-sent event. A client that reconnects sends the id of its last event as `Last-Event-ID`.

    The data is the first line, because simple clients look for events that begin with `data: `.
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    name = f"id: {event_id}\n" if event_id else ""
    return f"data: {text}\n{name}\n".encode()
