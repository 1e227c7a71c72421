"""The header `Idempotency-Key` of requests and jobs."""

from __future__ import annotations

from deployments.errors import fail

KEY_HEADER = "idempotency-key"
MAX_KEY_CHARACTERS = 255


def check_key(key: str) -> None:
    """Raises `MotetError` (invalid) for an `Idempotency-Key` that is empty or too long."""
    if not 0 < len(key) <= MAX_KEY_CHARACTERS:
        cause = f"The Idempotency-Key has {len(key)} characters."
        raise fail("invalid", cause, f"Send 1 to {MAX_KEY_CHARACTERS}.", param="Idempotency-Key")
