"""`motet deploy`: the service on a cluster that stays, in the state that the file describes."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from cluster import address as cluster_address
from deployments.errors import fail
from serve_app import config_file, deploy_failures, profiles
from serve_app.cli import application, doctor_cluster
from serve_app.cli.options import ServiceConfig, service_config_path
from serve_app.cli.terminal import note
from serve_app.config_file import ConfigFile

POLL_S = 0.1
WHAT_FAILED_IS_DOWN = (
    "What is named here is down until a correct file is deployed; all others run. Correct it and deploy again."
)
"""A replica ends before its successor starts, and Ray Serve does not bring it back."""


def deploy(config: ServiceConfig = None) -> None:
    """Put the service on the cluster at RAY_ADDRESS, or update the one there, and leave it running.

    Only models whose settings changed are replaced, after the streams that they have begun. Step settings and numbers of
    replicas change without that.

    Example: [bold]RAY_ADDRESS=192.168.0.2:6379 motet deploy --config serve_config.yaml[/bold]
    """
    update(service_config_path(config))
    note("The service matches the file.")


def update(path: Path) -> None:
    """Deploys the service of a file and waits until it runs. Raises `MotetError` when the file has mistakes, or the service
    does not come up."""
    if not (cluster := os.environ.get("RAY_ADDRESS")):
        raise fail("invalid", "There is no cluster to put the service on.", "Run `motet join`, and set RAY_ADDRESS.")
    os.environ.update(profiles.node_environment(os.environ))  # before Ray is imported, which reads it
    import ray

    settings = config_file.read(path)
    application.check_edge(settings.app.edge)
    try:
        cluster_address.connect(cluster, logging_level=logging.WARNING)
        application.deploy(settings)
        _wait_until_updated(settings)
    finally:
        ray.shutdown()


def _wait_until_updated(settings: ConfigFile) -> None:
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    deadline = time.monotonic() + settings.app.start_timeout_s
    while (state := serve.status().applications[settings.application]).status != ApplicationStatus.RUNNING:
        if state.status == ApplicationStatus.DEPLOY_FAILED:
            cause = f"The service does not come up: {deploy_failures.cause_of(state)}"
            raise fail("unavailable", cause, WHAT_FAILED_IS_DOWN)
        if time.monotonic() > deadline:
            waiting = [*deploy_failures.troubles_of(state), *doctor_cluster.pending_of(settings.app)]
            cause = "\n".join([f"Not all of it is up after {settings.app.start_timeout_s:g} s.", *waiting])
            raise fail("timeout", cause, "The update continues; raise start_timeout_s to wait for longer.")
        time.sleep(POLL_S)
