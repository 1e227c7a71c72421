"""Who may send requests: API keys, host names and origins of web pages in the configuration."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from deployments.settings import StrictModel

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*"
_HOST = re.compile(rf"\*|{_NAME}")
_ORIGIN = re.compile(rf"https?://(?:{_NAME}|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?")
_USUAL_PORT = re.compile(r"http:.*:80|https:.*:443")


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError(
            f"{text!r} is not a host; write a name in lower case without a port, such as speech.example.com or *.example.com"
        )
    return text


def _origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text) or _USUAL_PORT.fullmatch(text):
        raise ValueError(
            f"{text!r} is not an origin; write scheme://name in lower case, with the port where it is not the scheme's own, "
            "such as https://app.example.com, https://*.example.com or http://localhost:3000"
        )
    return text


Host = Annotated[str, AfterValidator(_host)]
"""A name, `*.` and a name for all names below it, or `*` for any name, which disables the check."""
Origin = Annotated[str, AfterValidator(_origin)]
"""A scheme, a name or an address, and a port if it is not the default of the scheme."""


class SecuritySettings(StrictModel):
    """Who may send requests."""

    allowed_hosts: tuple[Host, ...] = ()
    """More names under which the service may be called: a proxy's or an ingress's, such as `speech.example.com`, or
    `*.example.com` for all names below it. IP addresses, localhost, names without a dot, this machine's name and the name
    in `http_options` are always allowed."""
    allowed_origins: tuple[Origin, ...] = ()
    """Other origins whose web pages may use the service, such as `https://app.example.com`."""
    api_key_sha256: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = ()
    """SHA-256 digests of the API keys. Without any, everyone who reaches the port may use the service."""
