"""Who may send requests, and limits that apply before a route does: connections, headers, and unread answers.

HAProxy and Ray Serve's own HTTP servers start before the service is deployed and know nothing of its configuration, so
`EdgeSettings` reach them through the environment.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Mapping
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, Field

from deployments.settings import Count, Positive, StrictModel

VARIABLE = "MOTET_EDGE"
"""The environment variable with the settings, as JSON."""
FILES_A_CONNECTION = 2.5
"""Open files of HAProxy for a connection: one to the client, one to the gateway, and a pipe (two) for every fourth."""
FRONT_HOST = "MOTET_FRONT_HOST"
"""The environment variable with the address at which HAProxy listens, if the gateways behind it listen at loopback."""
LOOPBACK = "127.0.0.1"
CLIENT_HEADER = "x-motet-client"
"""The header in which HAProxy passes the client's address to the gateway. It replaces one that the client sent."""
OTHER_FILES = 512
"""Open files of an HTTP server besides its connections."""

OWN_PAGES = 16
"""Connections to each of HAProxy's own ports (metrics and statistics). They count as connections too."""

Seconds = Annotated[int, Field(gt=0)]
"""Whole seconds: Ray Serve accepts no fractions."""


class TlsSettings(StrictModel):
    """HTTPS, beside the port without it. HAProxy does the encryption, so it needs the profile `throughput`."""

    certificate: str
    """A PEM file with the certificate, and those of its issuers behind it (`fullchain.pem`)."""
    key: str
    """A PEM file with its private key, without a password."""
    host: str = "0.0.0.0"
    """The address at which HTTPS listens. `http_options.host` is the other port's: 127.0.0.1 lets clients of the network use
    HTTPS only."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8443
    """The TCP port of HTTPS."""
    check_s: Positive = 10.0
    """How often `motet serve` looks whether the files have changed. A renewed certificate is used for new connections, and
    open ones are not cut."""


class EdgeSettings(StrictModel):
    """Limits of connections, which hold before a request is known."""

    header_s: Seconds = 10
    """A request's line and headers must arrive within this time of its first byte, or of the connection."""
    idle_s: Seconds = 60
    """A connection without a request is closed after this time."""
    unread_s: Seconds = 600
    """A connection is closed when its client reads nothing of a response for this long. A paused player reads nothing."""
    max_connections: Count = 8192
    """Open connections; fewer where the system allows fewer open files."""
    max_connections_per_address: Count | None = 1024
    """Open connections of one client address, except this machine's own. `null` for no limit: behind a proxy, a load
    balancer or an ingress all clients share its address."""
    metrics_host: str = "127.0.0.1"
    """The address at which HAProxy's metrics and statistics listen. They need no key: open them to a network only if it is
    the monitoring's own."""

    tls: TlsSettings | None = None
    """HTTPS with this certificate. `null`: without HTTPS."""

    @property
    def connections(self) -> int:
        """The number of connections that may be open, given this process's limit of open files."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if files == resource.RLIM_INFINITY:
            return self.max_connections
        return max(1, min(self.max_connections, int((files - OTHER_FILES) / FILES_A_CONNECTION)))


def edge_of(environment: Mapping[str, str]) -> EdgeSettings:
    """The settings in the environment; the defaults if there are none."""
    return EdgeSettings.model_validate_json(environment.get(VARIABLE, "{}"))


_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*"
_HOST = re.compile(rf"\*|{_NAME}")
_ORIGIN = re.compile(rf"https?://(?:{_NAME}|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?")
_DIGEST = re.compile(r"[0-9a-f]{64}")
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


def _key_digest(text: str) -> str:
    if not _DIGEST.fullmatch(text):
        # Not the text itself: it may be a key.
        raise ValueError(
            f"this is not the SHA-256 of a key, which has 64 digits 0-9 and a-f ({len(text)} characters were given); "
            'print it with: printf %s "$KEY" | sha256sum'
        )
    return text


KeyDigest = Annotated[str, AfterValidator(_key_digest)]
"""The SHA-256 of a key, as hexadecimal digits in lower case."""
KeyName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class KeySettings(StrictModel):
    """An API key with a name. `motet keys new` makes one. Its quotas hold for all gateway replicas together."""

    sha256: Annotated[tuple[KeyDigest, ...], Field(min_length=1, max_length=4)]
    """SHA-256 digests of the key. Two while clients change from an old key to a new one: both have the same quotas and
    uploaded voices."""
    models: tuple[str, ...] | None = None
    """Names of the models that it may use. `null` for all."""
    requests_per_minute: Count | None = None
    """How many requests and sessions it may begin in a minute. `null` for no limit."""
    seconds_of_audio_per_minute: Positive | None = None
    """How much audio models may make of its texts, or read of its recordings, in a minute. A request begins while there is
    something left; one that takes more is paid back by waiting. `null` for no limit."""
    expires: date | None = None
    """The first day, in UTC, on which it is refused."""
    admin: bool = False
    """Whether it opens `/v1/admin`, adds, removes, loads and unloads models (`POST` and `DELETE` under `/v1/registry` and
    `/v1/models`), and does nothing else but read `/v1/registry`. Other keys do not do that."""

    @property
    def has_quotas(self) -> bool:
        """Whether something is counted for it."""
        return self.requests_per_minute is not None or self.seconds_of_audio_per_minute is not None


Keys = Annotated[Mapping[KeyName, KeySettings], AfterValidator(lambda keys: _with_distinct_digests(keys))]
"""API keys by name."""


def _with_distinct_digests(keys: Mapping[str, KeySettings]) -> Mapping[str, KeySettings]:
    owners: dict[str, str] = {}
    for name, key in keys.items():
        for digest in key.sha256:
            if owners.setdefault(digest, name) != name:
                raise ValueError(f"{owners[digest]} and {name} have the same sha256")
    return keys


class SecuritySettings(StrictModel):
    """Who may send requests."""

    allowed_hosts: tuple[Host, ...] = ()
    """More names under which the service may be called: a proxy's or an ingress's, such as `speech.example.com`, or
    `*.example.com` for all names below it. IP addresses, localhost, names without a dot, this machine's name and the name
    in `http_options` are always allowed."""
    allowed_origins: tuple[Origin, ...] = ()
    """Other origins whose web pages may use the service, such as `https://app.example.com`."""
    api_key_sha256: tuple[KeyDigest, ...] = ()
    """SHA-256 digests of API keys without a name, for all models and without quotas. Without any key here, in `keys` or in
    `keys_file`, everyone who reaches the port may use the service."""
    keys: Keys = Field(default_factory=dict)
    """API keys by name."""
    keys_file: str | None = None
    """A YAML file with more keys, written as `keys` is. It is read again when it has changed, without a restart."""
    keys_file_check_s: Positive = 2.0
    """How often requests look whether that file has changed."""
    local_models: bool = True
    """Whether clients on the service's own machine may add, load, unload and remove models of a service without keys, as its
    page does. Requests with a header of a proxy (`forwarded`, `x-forwarded-for`, `x-real-ip`) may not."""

    @property
    def needs_key(self) -> bool:
        """Whether requests need a key. A file without keys lets nobody in."""
        return bool(self.api_key_sha256 or self.keys or self.keys_file)

    @property
    def may_have_quotas(self) -> bool:
        """Whether a key has quotas, or may get some without a restart."""
        return self.keys_file is not None or any(key.has_quotas for key in self.keys.values())
