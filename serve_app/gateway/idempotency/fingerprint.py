"""What a request asks for, in a few bytes, so that two requests with one `Idempotency-Key` can be compared."""

from __future__ import annotations

import hashlib
import re

from starlette.datastructures import Headers
from starlette.types import Scope

BOUNDARY = re.compile(r'boundary="?([^\s";,]{1,70})"?', re.IGNORECASE)
DIVIDER = b"\x00--"
"""Hashed in place of a form's boundary, which clients choose at random for each request."""


class RequestFingerprint:
    """The SHA-256 of a request: its path, its content type and its body, which is fed as it arrives."""

    def __init__(self, scope: Scope) -> None:
        content_type = Headers(scope=scope).get("content-type", "")
        found = BOUNDARY.search(content_type) if content_type.lower().startswith("multipart/") else None
        self._boundary = found[1].encode() if found else b""
        self._kept = b""
        kind = content_type.partition(";")[0] if found else content_type
        self._hash = hashlib.sha256(repr((scope["path"], scope.get("query_string", b""), kind.lower())).encode())

    def feed(self, data: bytes) -> None:
        """The next bytes of the body."""
        if not self._boundary:
            self._hash.update(data)
            return
        *parts, rest = (self._kept + data).split(self._boundary)
        for part in parts:
            self._hash.update(part + DIVIDER)
        end = max(0, len(rest) - len(self._boundary) + 1)  # a boundary may go on in the next bytes
        self._hash.update(rest[:end])
        self._kept = rest[end:]

    def digest(self) -> str:
        """The fingerprint, when the whole body was fed."""
        if self._kept:
            self._hash.update(self._kept)
            self._kept = b""
        return self._hash.hexdigest()
