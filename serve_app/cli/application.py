"""The application on Ray Serve: deployed, checked against the one that runs, and removed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from cluster import ray_private
from cluster.applications import service_of
from deployments.errors import fail
from serve_app.config import AppConfig
from serve_app.config_file import ConfigFile, HttpAddress
from serve_app.edge.settings import FRONT_HOST, LOOPBACK, VARIABLE, EdgeSettings, edge_of

BUILDER = "serve_app.app:build"
"""Imported when it is called, by the import path that Ray Serve has in the file: commands do not need the whole service."""
START_ANEW = "end it with its cluster: let the machines leave, join again, and deploy"
"""What to do when a running service differs from the file in something that it cannot change."""


def deploy(settings: ConfigFile) -> None:
    """Starts or updates the application in the connected cluster, and does not wait for its replicas.

    Raises `MotetError` (invalid) if the file describes another service than the one that runs.
    """
    from ray import serve

    prefix = (settings.serve.get("applications") or [{}])[0].get("route_prefix", "/")
    _check_identity(settings, prefix)
    serve.start(
        proxy_location=settings.serve.get("proxy_location", "HeadOnly"),
        http_options={
            # HAProxy listens where the service does; the gateways behind it need not.
            "host": LOOPBACK if FRONT_HOST in os.environ else settings.http.host,
            "port": settings.http.port,
            "keep_alive_timeout_s": settings.app.edge.idle_s,
        },
    )
    module, _, name = BUILDER.partition(":")
    build = getattr(importlib.import_module(module), name)
    app = with_own_name(settings.http.host, settings.app)
    target = serve.RunTarget(build(app), settings.application, prefix)
    # A placement whose machine has not joined yet must not keep the others from serving.
    serve.run_many([target], wait_for_applications_running=False)


def with_own_name(host: str, app: AppConfig) -> AppConfig:
    """The configuration, in which the service also answers to the name at which it listens, if that is not an address."""
    try:
        ip_address(host)
    except ValueError:
        hosts = tuple(dict.fromkeys((*app.security.allowed_hosts, host.lower())))
        return app.model_copy(update={"security": app.security.model_copy(update={"allowed_hosts": hosts})})
    return app


def check_edge(edge: EdgeSettings) -> None:
    """Refuses limits of connections that the HTTP servers of the cluster do not have: they started before the file was read.

    Raises `MotetError` (invalid).
    """
    if edge != edge_of(os.environ):
        remedy = f"Set {VARIABLE} to {edge.model_dump_json()!r} where each machine joins, and here, or remove the key."
        raise fail("invalid", "A cluster has its limits of connections from the environment.", remedy, param="edge")


def remove(application: str | None) -> None:
    """Removes an application from a cluster that stays, what was loaded into it, and Ray Serve too if it runs no other
    application; disconnects.

    Ray Serve then drains replicas by itself. When it ends as a whole it cuts open streams.
    """
    import ray
    from ray import serve

    if application is not None and ray.is_initialized():
        from serve_app.loading import actor

        actor.remove_all(application)
        others = {service_of(name) for name in serve.status().applications} - {application}
        if others:
            serve.delete(application)
        else:
            serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


def _check_identity(settings: ConfigFile, prefix: str) -> None:
    """Refuses what Ray Serve would ignore, or fail at, where it runs already. Raises `MotetError`."""
    client = ray_private.serve_client()
    if client is not None:
        _check_address(settings.http, client.http_config)
        _check_name(settings.application, prefix, client.get_serve_details()["applications"])


def _check_address(http: HttpAddress, present: Any) -> None:
    if (present.host, present.port) != (http.host, http.port):
        there = f"{present.host}:{present.port}"
        cause = f"The service listens at {there}, and a running one cannot move to {http.host}:{http.port}."
        raise fail("invalid", cause, f"Write {there} in http_options, or {START_ANEW}.", param="http_options")


def _check_name(name: str, prefix: str, present: Mapping[str, Mapping[str, Any]]) -> None:
    """An application of another name at the same place is another service, and Ray Serve lets only one be there."""
    for other, there in present.items():
        if other != name and there["route_prefix"] == prefix and there["status"] != "DELETING":
            cause = f"The name is the service's identity: {other!r} runs at {prefix}, and cannot become {name!r}."
            raise fail("invalid", cause, f"Name the application {other!r}, or {START_ANEW}.", param="name")
