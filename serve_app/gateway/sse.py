"""The text form of server-sent events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def event(data: Mapping[str, Any], event_id: str = "") -> bytes:
    """One server-sent event. A client that reconnects sends the id of its last event as `Last-Event-ID`."""
    name = f"id: {event_id}\n".encode() if event_id else b""
    return name + b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
