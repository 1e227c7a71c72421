"""Which web pages may use the service: the `Host` that a browser names, and the `Origin` of the page that asks.

Any page that a user visits can send requests to an address that the user's browser reaches, such as localhost:

* A page of another origin sends what browsers call simple requests (a form, or text) without asking. It cannot read the
  answer, but the service would have done the work. Such requests carry the page's `Origin`, and are refused.
* A page whose name its owner lets point to the service (DNS rebinding) is of the service's own origin to the browser, and
  may read everything. Its requests carry that name as their `Host`, and are refused, as the service is not called so.

The check of hosts lets pass what no stranger's page can be served under: addresses, localhost, names without a dot, which no
public DNS resolves, this machine's name, and `security.allowed_hosts`. Clients that are no browsers send no `Origin`, and
name the host that their user wrote.
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
from serve_app.gateway.errors import error_response

ALWAYS_ANSWERED = ("/livez",)
"""Tells nothing, and is asked by whatever name a balancer uses."""
GUARDED = "/v1"
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
EXPOSED = (
    "x-request-id", "retry-after", "server-timing", "content-disposition", "x-sample-rate", "x-motet-model", "x-motet-voice",
    "x-motet-placement", "x-motet-finish-reason", "x-motet-ignored", "x-motet-stems",
)  # fmt: skip
"""Headers of an answer that pages of allowed origins may read."""


class PageCheck:
    """Refuses hosts that the service is not called by, and requests under `/v1` that pages of foreign origins send. Pages of
    the allowed origins are told that they may ask (CORS)."""

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str], allowed_origins: Sequence[str]) -> None:
        self._app = app
        self._hosts = _one_of([*allowed_hosts, *_own_names()])
        self._origins = _one_of(allowed_origins)
        self._telling_pages = _telling_pages(app, self._origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        app: ASGIApp = self._app
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            if (refusal := self._refusal(scope["path"], headers)) is not None:
                app = error_response(refusal)
            elif self._origins.fullmatch(headers.get("origin", "")):
                app = self._telling_pages
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
        """Whether `host`, with or without a port, is the service. A client without a name for it is no browser."""
        name = _name_of(host)
        if name is None:
            return not host
        return _is_address(name) or "." not in name or name.endswith(".localhost") or bool(self._hosts.fullmatch(name))

    def _may_ask(self, origin: str, host: str) -> bool:
        return _is_of(origin.lower(), host.lower()) or bool(self._origins.fullmatch(origin))


def _telling_pages(app: ASGIApp, origins: re.Pattern[str]) -> ASGIApp:
    return CORSMiddleware(
        app,
        allow_origin_regex=origins.pattern,
        allow_methods=("*",),
        allow_headers=("*",),
        expose_headers=EXPOSED,
        allow_private_network=True,
    )


def _one_of(patterns: Sequence[str]) -> re.Pattern[str]:
    """Matches what one of some names or origins stands for; `*` stands for one name or several."""
    alternatives = [re.escape(pattern).replace(r"\*", r"[a-z0-9_.-]+") for pattern in patterns]
    return re.compile("|".join(alternatives) or r"(?!)")


def _own_names() -> list[str]:
    name = socket.gethostname().lower()
    return [name, f"{name}.local"]


def _name_of(host: str) -> str | None:
    """The host in lower case, without its port; None for what is none."""
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


def _is_of(origin: str, host: str) -> bool:
    """Whether a page of an origin was served under `host`. Before a proxy that ends TLS the schemes differ."""
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
