"""How the configuration writes hosts, and origins of web pages."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

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
"""A name, `*.` and a name for all names below it, or `*` for any name, which ends the check."""
Origin = Annotated[str, AfterValidator(_origin)]
"""A scheme, a name or an address, and a port where it is not the scheme's own."""
