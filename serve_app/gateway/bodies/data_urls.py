"""Recordings in data URLs (RFC 2397), as OpenAI's clients send references of voices."""

from __future__ import annotations

import base64
import binascii
from typing import Protocol

from deployments.errors import MotetError, fail
from serve_app.gateway.bodies.input_thread import in_input_thread

MAX_BYTES = 8 * 1024 * 1024
"""The longest data URL: ten seconds of two channels as 32-bit samples at 48 kHz have 5.1 MB in base64."""


class FormPart(Protocol):
    """A part of a form that is kept as a file: see `Upload`."""

    async def read_part(self, count: int) -> bytes:
        """Its first `count` bytes, once it has arrived."""


async def recording_in(upload: FormPart, param: str) -> bytes:
    """The recording of a field that is a data URL, or a file. Raises `MotetError` (invalid, too_large)."""
    data = await upload.read_part(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise fail("too_large", f"A recording in {param} has over {MAX_BYTES:,} bytes.", "Send less.", param=param)
    return await in_input_thread(True, decoded, data, param)


def decoded(data: bytes, param: str) -> bytes:
    """What a data URL contains. Other data is returned as it is: a client may send the file itself."""
    if data[:5].lower() != b"data:":
        return data
    head, comma, content = data.partition(b",")
    if not comma or not head.lower().endswith(b";base64"):
        raise _unreadable("it is not in base64", param)
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise _unreadable("its base64 is damaged", param) from error


def _unreadable(cause: str, param: str) -> MotetError:
    remedy = "Send data:audio/wav;base64, and the file in base64."
    return fail(
        "invalid", f"A data URL in {param} cannot be read: {cause}.", remedy, param=param, code="data_url_invalid"
    )
