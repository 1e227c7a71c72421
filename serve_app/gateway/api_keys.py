"""The API key of a request, and the WebSocket subprotocols that may carry it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from starlette.datastructures import Headers

KEY_SUBPROTOCOL = "openai-insecure-api-key."
"""Browsers cannot set headers on a WebSocket. They send the key as a subprotocol with this prefix, as with OpenAI."""


SIGNER_HEADER = "x-motet-signer"
"""Set by `KeyCheck` alone: the digest of the API key that made the client's secret."""


def key_digest(headers: Headers) -> str:
    """The SHA-256 of the client's key in hexadecimal, or of the key that made its secret; the digest of an empty key if the
    client sent none."""
    return headers.get(SIGNER_HEADER) or hashlib.sha256(key_of(headers).encode()).hexdigest()


def key_of(headers: Headers) -> str:
    """The client's key or secret; empty if it sent none."""
    offered = (
        name.removeprefix(KEY_SUBPROTOCOL) for name in _subprotocols(headers) if name.startswith(KEY_SUBPROTOCOL)
    )
    return _bearer(headers.get("authorization", "")) or next(offered, "")


def _bearer(authorization: str) -> str:
    # The scheme is case-insensitive (RFC 9110); a header without a scheme is taken as the key.
    scheme, _, key = authorization.partition(" ")
    return (key if scheme.lower() == "bearer" else authorization).strip()


def chosen_subprotocol(headers: Headers) -> str | None:
    """The subprotocol to accept: the first one offered that is not a key."""
    return next((name for name in _subprotocols(headers) if not name.startswith(KEY_SUBPROTOCOL)), None)


def _subprotocols(headers: Headers) -> Sequence[str]:
    return [name.strip() for name in ",".join(headers.getlist("sec-websocket-protocol")).split(",") if name.strip()]
