"""Which web pages may use the service, decided by the headers `Host` and `Origin` of their requests.

Any page that a user visits can send requests to addresses that the user's browser reaches, such as localhost:

* A page of another origin may send what browsers call simple requests (a form, or text) without permission. It cannot read
  the answer, but the service would do the work. Such requests have the page's `Origin` and are refused.
* A page whose owner points its name to the service (DNS rebinding) has the service's own origin in the browser and may read
  all answers. Its requests have that name as their `Host` and are refused, since it is not a name of the service.

Allowed hosts are those under which no foreign page can be served: IP addresses, localhost, names without a dot, which public
DNS does not resolve, this machine's name, and `security.allowed_hosts`. Clients other than browsers send no `Origin`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import Failure, quoted
from serve_app.gateway.description.headers import ANSWER_HEADERS
from serve_app.gateway.errors import error_response

ALWAYS_ANSWERED = ("/livez",)
"""Paths without a check of the host: they reveal nothing, and load balancers use any name."""
GUARDED = "/v1"
DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class PageCheck:
    """Refuses requests to foreign hosts, and requests under `/v1` from pages of foreign origins. Pages of allowed origins get
    CORS headers."""

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str], allowed_origins: Sequence[str]) -> None:
        self._app = app
        self._hosts = _one_of([*allowed_hosts, *_own_names()])
        self._origins = _one_of(allowed_origins)
        self._with_cors = _with_cors(app, self._origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        app: ASGIApp = self._app
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            if (refusal := _repeated(headers) or self._refusal(scope["path"], headers)) is not None:
                app = error_response(refusal)
            elif self._origins.fullmatch(headers.get("origin", "")):
                app = self._with_cors
        await app(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> Failure | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if path in ALWAYS_ANSWERED:
            return None
        if not self.is_called(host):
            return _host_not_allowed(host)
        if origin is None or not path.startswith(GUARDED) or self._may_ask(origin, host):
            return None
        return _origin_not_allowed(origin)

    def is_called(self, host: str) -> bool:
        """Whether `host`, with or without a port, is a name of the service. It may be empty: browsers always send it."""
        name = name_of(host)
        if name is None:
            return not host
        return _is_address(name) or "." not in name or name.endswith(".localhost") or bool(self._hosts.fullmatch(name))

    def _may_ask(self, origin: str, host: str) -> bool:
        return is_of(origin.lower(), host.lower()) or bool(self._origins.fullmatch(origin))


def _repeated(headers: Headers) -> Failure | None:
    # Which of two values a proxy or a browser means is not known (RFC 9110 allows one).
    for name in ("Host", "Origin"):
        if len(headers.getlist(name)) > 1:
            return Failure(
                "invalid",
                f"The request has more than one {name} header.",
                "Send one.",
                param=name,
                code="repeated_header",
            )
    return None


def _with_cors(app: ASGIApp, origins: re.Pattern[str]) -> ASGIApp:
    return CORSMiddleware(
        app,
        allow_origin_regex=origins.pattern,
        allow_methods=("*",),
        allow_headers=("*",),
        expose_headers=tuple(ANSWER_HEADERS),
        allow_private_network=True,
    )


def _one_of(patterns: Sequence[str]) -> re.Pattern[str]:
    """Matches any of some names or origins. `*` matches one or several labels."""
    alternatives = [re.escape(pattern).replace(r"\*", r"[a-z0-9_.-]+") for pattern in patterns]
    return re.compile("|".join(alternatives) or r"(?!)")


def _own_names() -> list[str]:
    name = socket.gethostname().lower()
    return [name, f"{name}.local"]


def name_of(host: str) -> str | None:
    """The host in lower case, without its port; None if it is not valid."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".") or None
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def is_of(origin: str, host: str) -> bool:
    """Whether a page of an origin was served under `host`. The schemes differ behind a proxy that terminates TLS."""
    scheme, separator, served = origin.partition("://")
    port = DEFAULT_PORTS.get(scheme)
    if not separator or port is None:
        return False
    return served.removesuffix(port) == host.removesuffix(port)


def _host_not_allowed(host: str) -> Failure:
    return Failure(
        "forbidden",
        f"The host name {quoted(host)} is not allowed here.",
        "Use its IP address or localhost, or add the name to security.allowed_hosts.",
        param="Host",
        code="host_not_allowed",
    )


def _origin_not_allowed(origin: str) -> Failure:
    return Failure(
        "forbidden",
        f"Pages of the origin {quoted(origin)} may not use this service.",
        "Serve the page from the service's own address, or add its origin to security.allowed_origins.",
        param="Origin",
        code="origin_not_allowed",
    )
