"""Client secrets: short-lived keys that open live sessions only, so that a web page never has the API key.

A secret is signed and contains all that it grants, so every gateway replica knows it and none has to keep it. The signature's
key is the digest of the API key that made it: a secret ends with that key, and whoever could make one for somebody else would
need that digest.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.settings import StrictModel

PREFIX = "ek_"
"""How secrets begin, as with OpenAI."""
MAX_CHARACTERS = 6000
"""The longest secret: a handshake sends it in one header line, and servers read lines of 8 KB."""
NO_DIGEST = ""
"""Stands for the digest in services without API keys. There anyone can make a secret, and it grants what everyone has."""


class SecretGrant(StrictModel):
    """What a secret grants: sessions with these fields of OpenAI's session object, before `expires_at` in Unix seconds."""

    expires_at: int
    session: Mapping[str, Any]


def client_secret(digest: str, grant: SecretGrant) -> str:
    """A secret that grants this. `digest` is that of the API key that makes it."""
    payload = _encoded(grant.model_dump_json().encode())
    return f"{PREFIX}{payload}.{_signature(digest, payload).decode()}"


def signer_of(secret: str, digests: Sequence[str], now_s: float) -> str | None:
    """The digest, among these, of the API key that made a secret. None if none of them did, or if it has expired."""
    payload, _, signature = secret.removeprefix(PREFIX).partition(".")
    # All digests are compared, so that the time taken does not tell which one matches.
    signers = [each for each in digests if hmac.compare_digest(_signature(each, payload), signature.encode())]
    grant = granted_by(secret) if signers else None
    return signers[0] if grant is not None and now_s < grant.expires_at else None


def granted_by(secret: str) -> SecretGrant | None:
    """What a secret grants if `signer_of` finds it valid; None for a text that is not a secret."""
    payload = secret.removeprefix(PREFIX).partition(".")[0]
    try:
        return SecretGrant.model_validate_json(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:
        return None


def _signature(digest: str, payload: str) -> bytes:
    return _encoded(hmac.digest(digest.encode(), payload.encode(), hashlib.sha256)).encode()


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
