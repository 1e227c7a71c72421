"""Starts Ray and the application in the foreground, says when it is ready, and leaves nothing running.

Ray Serve reads its profile from the environment when it is imported, so `motet serve` starts this module as a new program.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil

from cluster.hardware import node_offer
from deployments.errors import MotetError, fail
from serve_app import config_file, profiles
from serve_app.cli import cluster_address, deploy_failures, join
from serve_app.cli.processes import command_line, descendants, kill
from serve_app.config import AppConfig
from serve_app.config_file import ConfigFile, HttpAddress
from serve_app.edge.settings import VARIABLE, EdgeSettings, edge_of

POLL_S = 0.1
TELL_AFTER_S = 20.0
"""Of waiting for the replicas: by then those that have a place have found it."""
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PARENT_POLL_S = 1.0
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks the service itself, whatever proxy the environment names."""
SHUTDOWN_S = 15.0
LEAVE_S = 5.0

START_ANEW = "end it with its cluster: let the machines leave, join again, and deploy"
"""What mends that a running service is something else than the file says, and cannot become it."""

WHAT_FAILED_IS_DOWN = (
    "What is named here is down until a good file is deployed; everything else still runs. Mend that and deploy again."
)
"""A replica ends before its successor comes, and Ray Serve brings none back."""


def serve_in_new_program(path: Path, profile: profiles.Profile) -> int:
    """Runs this module with the profile's environment; returns its exit status. Signals reach it directly."""
    with tempfile.TemporaryDirectory(prefix="motet-") as folder:
        address = config_file.address_of(path)
        profile = profiles.fitting(profile, address.host)
        profiles.write_haproxy_program(Path(folder))
        wanted = profiles.environment(profile, Path(folder), address.port, os.environ, config_file.edge_of_file(path))
        environment = {**os.environ, **wanted}
        # In a session of its own: a terminal's Ctrl-C would end Ray's processes before we can ask them to leave.
        program = subprocess.Popen(
            [sys.executable, "-m", "serve_app.cli.serve", str(path)], env=environment, start_new_session=True
        )
        try:
            with _passing_signals_to(program):
                return program.wait()
        finally:
            _end_processes_of(folder)


def _end_processes_of(folder: str) -> None:
    """HAProxy outlives its manager after a reload; it is known by the folder of its files, which is ours alone."""
    left = [p for p in psutil.process_iter() if any(part.startswith(folder) for part in command_line(p))]
    kill(left, LEAVE_S)


@contextmanager
def _passing_signals_to(program: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ctrl-C and `kill` are meant for the program."""
    kept = {
        number: signal.signal(number, lambda *_, number=number: program.send_signal(number)) for number in END_SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def main(config_path: Path) -> int:
    """Serves until a signal comes. Returns the exit status."""
    stopped = threading.Event()
    ready = threading.Event()
    _stop_on_signals(stopped, ready)
    try:
        settings = config_file.read(config_path)
        _check_port(settings.http)
        with running(settings, stopped, ready):
            if not stopped.is_set():
                _announce(settings)
            _wait_for_the_end(stopped)
    except KeyboardInterrupt:
        return 0
    except MotetError as error:
        print(f"motet: {error}", file=sys.stderr)
        return 1
    return 0


def deploy(config_path: Path) -> None:
    """Puts the service on the cluster at RAY_ADDRESS, or changes the one that is there, and leaves it to itself.

    Only what changed is replaced. Raises `MotetError` when the file has mistakes, or what it says does not come up.
    """
    if not (address := os.environ.get("RAY_ADDRESS")):
        raise fail("invalid", "There is no cluster to put the service on.", "Run `motet join`, and set RAY_ADDRESS.")
    os.environ.update(join.environment(os.environ))  # before Ray is imported, which reads it
    import ray

    settings = config_file.read(config_path)
    _check_edge(settings.app.edge)
    try:
        cluster_address.connect(address, logging_level=logging.WARNING)
        _deploy(settings)
        _wait_until_updated(settings)
    finally:
        ray.shutdown()


def _wait_until_updated(settings: ConfigFile) -> None:
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    from serve_app.cli import doctor_cluster

    deadline = time.monotonic() + settings.app.start_timeout_s
    while (there := serve.status().applications[settings.application]).status != ApplicationStatus.RUNNING:
        if there.status == ApplicationStatus.DEPLOY_FAILED:
            cause = f"It does not come up: {deploy_failures.cause_of(there)}"
            raise fail("unavailable", cause, WHAT_FAILED_IS_DOWN)
        if time.monotonic() > deadline:
            waiting = [*deploy_failures.troubles_of(there), *doctor_cluster.pending_of(settings.app)]
            cause = "\n".join([f"It is not all up after {settings.app.start_timeout_s:g} s.", *waiting])
            raise fail("timeout", cause, "It goes on by itself; raise start_timeout_s to wait for longer.")
        time.sleep(POLL_S)


def _wait_for_the_end(stopped: threading.Event) -> None:
    """Until a signal comes, or the process that started this one is gone."""
    parent = os.getppid()
    while not stopped.wait(PARENT_POLL_S) and os.getppid() == parent:
        pass


def _stop_on_signals(stopped: threading.Event, ready: threading.Event) -> None:
    """Before the service is ready a signal breaks off whatever is being waited for."""

    def stop(*_: object) -> None:
        if not stopped.is_set():
            stopped.set()
            if not ready.is_set():
                print("Stopping ...", flush=True)
                raise KeyboardInterrupt

    for number in END_SIGNALS:
        signal.signal(number, stop)


@contextmanager
def running(settings: ConfigFile, stopped: threading.Event, ready: threading.Event) -> Iterator[None]:
    """The service, from the first process to the last."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    cluster = os.environ.get("RAY_ADDRESS")
    try:
        how = {"address": cluster} if cluster else _own_machine(settings.app)
        cluster_address.connect(**how, logging_level=logging.WARNING)
        if not cluster:
            _end_unused_processes()
        _stop_on_signals(stopped, ready)  # Ray has put its own handler of SIGTERM in place
        _deploy(settings)
        _wait_until_ready(settings, stopped)
        ready.set()
        yield
    finally:
        _stop_everything(settings.application if cluster else None)


def _own_machine(app: AppConfig) -> dict[str, Any]:
    """How Ray starts where there is no cluster: this machine is all there is, so it takes replicas of every class. Without
    an address Ray would join whatever cluster was last started here, if only in a file's memory."""
    kinds = {placement.hardware.kind for model in app.models.values() for placement in model.placements}
    return {"address": cluster_address.OWN_CLUSTER, "include_dashboard": False, **node_offer(kinds)}


def _end_unused_processes() -> None:
    """Ends what `ray.init` starts with every cluster and a service on one machine has no use for: the part of the dashboard
    that reports usage, the autoscaler of machines, and the reader of logs for a driver that does not show them."""
    from ray._private import worker

    node: Any = worker._global_node
    node.kill_dashboard(check_alive=False)
    node.kill_monitor(check_alive=False)
    node.kill_log_monitor(check_alive=False)


def _deploy(settings: ConfigFile) -> None:
    from ray import serve

    from serve_app.app import build

    prefix = (settings.serve.get("applications") or [{}])[0].get("route_prefix", "/")
    _check_identity(settings, prefix)
    serve.start(
        proxy_location=settings.serve.get("proxy_location", "HeadOnly"),
        http_options={
            "host": settings.http.host,
            "port": settings.http.port,
            "keep_alive_timeout_s": settings.app.edge.idle_s,
        },
    )
    app = _called_by(settings.http.host, settings.app)
    target = serve.RunTarget(build(app), settings.application, prefix)
    # A placement whose machine has not joined yet must not keep the others from serving.
    serve.run_many([target], wait_for_applications_running=False)


def _called_by(host: str, app: AppConfig) -> AppConfig:
    """The service also answers to the name at which it listens, where that is a name and not an address."""
    try:
        ip_address(host)
    except ValueError:
        hosts = tuple(dict.fromkeys((*app.security.allowed_hosts, host.lower())))
        return app.model_copy(update={"security": app.security.model_copy(update={"allowed_hosts": hosts})})
    return app


def _check_edge(edge: EdgeSettings) -> None:
    """Refuses bounds that the cluster's HTTP servers have not: they started before the file was read. Raises `MotetError`."""
    if edge != edge_of(os.environ):
        remedy = (
            f"Set {VARIABLE} to {edge.model_dump_json()!r} where each machine joins, and here, or take the key out."
        )
        raise fail("invalid", "A cluster has its bounds of connections from the environment.", remedy, param="edge")


def _check_identity(settings: ConfigFile, prefix: str) -> None:
    """Refuses what Ray Serve would pass over, or break off at, where it runs already. Raises `MotetError`."""
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client(raise_if_no_controller_running=False)
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


def _leave(application: str | None) -> None:
    """Takes our application, if it is on a cluster that stays, off it, and Ray Serve too unless it runs others'.

    Once told, Ray Serve does so by itself. When it ends as a whole it cuts open streams.
    """
    import ray
    from ray import serve

    if application is not None and ray.is_initialized():
        if set(serve.status().applications) - {application}:
            serve.delete(application)
        else:
            serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


def _stop_everything(application: str | None) -> None:
    """Ray first; then whatever of ours it left behind."""
    children = descendants(os.getpid())
    leaving = threading.Thread(target=_leave, args=(application,), daemon=True)
    leaving.start()
    leaving.join(SHUTDOWN_S)
    _, alive = psutil.wait_procs(children, timeout=LEAVE_S)
    kill(alive, LEAVE_S)
    if folder := os.environ.get("RAY_SERVE_HAPROXY_SERVER_STATE_BASE"):
        _end_processes_of(folder)  # in case the process that would do it is gone


def _check_port(http: HttpAddress) -> None:
    with socket.socket(socket.AF_INET6 if ":" in http.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((http.host, http.port))
        except OSError as error:
            raise fail(
                "unavailable", f"Cannot listen on {http.host}:{http.port}: {error.strerror}.", "Set MOTET_PORT."
            ) from error


def _wait_until_ready(settings: ConfigFile, stopped: threading.Event) -> None:
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    deadline, patience = time.monotonic() + settings.app.start_timeout_s, time.monotonic() + TELL_AFTER_S
    while not stopped.is_set():
        if _ready(f"{url_of(settings.http.host, settings.http.port)}/readyz"):
            return
        there = serve.status().applications.get(settings.application)
        if there is not None and there.status == ApplicationStatus.DEPLOY_FAILED:
            cause = f"The service did not come up: {deploy_failures.cause_of(there)}"
            raise fail("unavailable", cause, "Mend that, or take the model out; `motet doctor` looks at the rest.")
        if time.monotonic() > patience:
            _tell_what_waits(settings.app)
            patience = math.inf
        if time.monotonic() > deadline:
            limit = f"The service was not ready after {settings.app.start_timeout_s:g} s."
            cause = "\n".join([limit, *(deploy_failures.troubles_of(there) if there else ())])
            raise fail("timeout", cause, "Run `motet doctor`; raise start_timeout_s if it needs longer.")
        stopped.wait(POLL_S)


def _tell_what_waits(app: AppConfig) -> None:
    from serve_app.cli import doctor_cluster

    for line in doctor_cluster.pending_of(app):
        print(f"Waiting for a machine: {line}", flush=True)


def _ready(url: str) -> bool:
    try:
        with LOCAL.open(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def url_of(host: str, port: int) -> str:
    """Where a client on this machine finds a service that listens on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{reachable}:{port}"


def _announce(settings: ConfigFile) -> None:
    address = url_of(settings.http.host, settings.http.port)
    print(f"Motet is ready: {address}/v1 (OpenAI API), {address}/ (web page). Ctrl-C stops it.", flush=True)
    _tell_what_waits(settings.app)
    open_to_others = settings.http.host not in ("127.0.0.1", "localhost", "::1")
    if open_to_others and not settings.app.security.api_key_sha256:
        print("Warning: this port is open to the network and no key is asked for. Set security.api_key_sha256.")


if __name__ == "__main__":
    status = main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(status)  # every process is gone by now; what Ray does at exit would wait for them
