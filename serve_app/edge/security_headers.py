"""Headers that every answer has, unless a route sets its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Header = tuple[bytes, bytes]

SECURITY_HEADERS: Mapping[str, str] = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}
"""Browsers take no answer for another type, show none in a frame, run nothing of it, and tell other sites no address."""


def secured(headers: Iterable[Header]) -> list[Header]:
    """The headers, and those of `SECURITY_HEADERS` that are missing."""
    present = list(headers)
    names = {name.lower() for name, _ in present}
    missing = ((name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items())
    return [*present, *(header for header in missing if header[0] not in names)]
