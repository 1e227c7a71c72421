"""The program that `motet serve` starts: Ray and the application, in the foreground. It leaves no process behind."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from cluster import address as cluster_address
from cluster import ray_private
from cluster.hardware import node_offer
from deployments.errors import MotetError, fail
from serve_app import config_file, deploy_failures, profiles
from serve_app.cli import application
from serve_app.cli.draining import drain, haproxy_processes
from serve_app.cli.processes import descendants, kill
from serve_app.cli.terminal import some_of
from serve_app.config import AppConfig
from serve_app.config_file import ConfigFile, HttpAddress
from serve_app.edge import tls
from serve_app.edge.settings import TlsSettings
from serve_app.gateway.jobs.folder_claim import OTHER_REMEDY, FolderClaim
from serve_app.profiles import HAPROXY_FOLDER

POLL_S = 0.1
TELL_AFTER_S = 20.0
"""Of waiting for the replicas: by then those that have a place have found it."""
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PARENT_POLL_S = 1.0
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks the service itself, whatever proxy the environment names."""
SHUTDOWN_S = 15.0
LEAVE_S = 5.0


def end_processes_of(folder: str) -> None:
    """HAProxy outlives its manager after a reload; it is known by the folder of its files, which is ours alone."""
    kill(haproxy_processes(folder), LEAVE_S)


def main(config_path: Path, starter: int) -> int:
    """Serves until a signal comes, or the process `starter` ends, and then until open requests have ended. Returns the exit
    status."""
    stop = StopSignals()
    stop.catch()
    try:
        settings = config_file.read(config_path)
        _check_port(settings.http)
        with running(settings, stop):
            if not stop.asked.is_set():
                _announce(settings)
                _hold_jobs(settings)
            _renew_certificates(settings.app.edge.tls, stop.asked)
            if _wait_for_signal(stop.asked, starter):
                drain(settings.application, settings.app.drain_s, stop.at_once)
    except KeyboardInterrupt:
        return 0
    except MotetError as error:
        print(f"motet: {error}", file=sys.stderr)
        return 1
    return 0


def _wait_for_signal(asked: threading.Event, starter: int) -> bool:
    """Waits for a signal. False if the process that started this one is gone: then nobody can send another one."""
    while os.getppid() == starter:
        if asked.wait(PARENT_POLL_S):
            return True
    return asked.is_set()


def _renew_certificates(settings: TlsSettings | None, stopped: threading.Event) -> None:
    """Gives HAProxy a renewed certificate, from now on and until the service stops."""
    folder = os.environ.get(HAPROXY_FOLDER)
    if settings is None or folder is None:
        return
    watch = tls.CertificateWatch(settings)

    def renew() -> None:
        trouble = ""
        while not stopped.wait(settings.check_s):
            trouble = _renew_certificate(watch, Path(folder), trouble)

    threading.Thread(target=renew, name="certificates", daemon=True).start()


def _renew_certificate(watch: tls.CertificateWatch, folder: Path, trouble: str) -> str:
    """Looks once, and prints what came of it. Takes and returns why the last renewal failed, which is printed once."""
    try:
        if watch.renew(folder):
            print("The certificate was renewed.", flush=True)
            return ""
    except (MotetError, OSError) as error:
        if str(error) != trouble:
            print(
                f"The old certificate stays in use, and the new one is tried again: {error}",
                file=sys.stderr,
                flush=True,
            )
        return str(error)
    return trouble


class StopSignals:
    """The signals that end the service: the first one asks it to end, the second one to end without waiting."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        """The service is ready. Before that the first signal breaks off whatever is being waited for."""
        self.asked = threading.Event()
        self.at_once = threading.Event()

    def catch(self) -> None:
        """Takes over the signals of this process."""
        for number in END_SIGNALS:
            signal.signal(number, self._stop)

    def _stop(self, *_: object) -> None:
        if self.asked.is_set():
            self.at_once.set()
            return
        self.asked.set()
        if not self.ready.is_set():
            print("Stopping ...", flush=True)
            raise KeyboardInterrupt


@contextmanager
def running(settings: ConfigFile, stop: StopSignals) -> Iterator[None]:
    """The service, from the first process to the last."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    cluster = os.environ.get("RAY_ADDRESS")
    try:
        how = {"address": cluster} if cluster else _own_machine(settings)
        cluster_address.connect(**how, logging_level=logging.WARNING)
        if not cluster:
            ray_private.end_unused_processes()
        stop.catch()  # Ray has put its own handler of SIGTERM in place
        application.deploy(settings)
        _wait_until_ready(settings, stop.asked)
        stop.ready.set()
        yield
    finally:
        _stop_everything(settings.application if cluster else None)


def _own_machine(settings: ConfigFile) -> dict[str, Any]:
    """Arguments of `ray.init` without a cluster: this machine takes replicas of all classes. Without an address Ray would
    join the cluster that was last started here, even if it has ended."""
    kinds = {placement.hardware.kind for model in settings.app.models.values() for placement in model.placements}
    port = ray_private.metrics_port(profiles.metrics_port(settings.http.port))
    return {"address": cluster_address.OWN_CLUSTER, "include_dashboard": False, **port, **node_offer(kinds)}


def _stop_everything(name: str | None) -> None:
    """Ends Ray, then the processes that it left behind."""
    children = descendants(os.getpid())
    leaving = threading.Thread(target=application.remove, args=(name,), daemon=True)
    leaving.start()
    leaving.join(SHUTDOWN_S)
    _, alive = psutil.wait_procs(children, timeout=LEAVE_S)
    kill(alive, LEAVE_S)
    if folder := os.environ.get(HAPROXY_FOLDER):
        end_processes_of(folder)  # in case the process that would do it is gone


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
            raise fail("unavailable", cause, "Correct the cause, or remove the model; `motet doctor` checks the rest.")
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


def _hold_jobs(settings: ConfigFile) -> FolderClaim | None:
    """Holds the folder of jobs until this process ends, also while the only gateway is replaced. Says who has it if that is
    another service."""
    folder = settings.app.jobs.folder
    try:
        return FolderClaim(Path(folder).expanduser(), cluster_address.service_identity(settings.application))
    except MotetError as error:
        owner = (error.failure.detail or "").partition(": ")[2]
        print(f"Warning: there are no jobs, files and batches: {folder} (jobs.folder) belongs to another {owner}.")
        print(OTHER_REMEDY, flush=True)
    except OSError:  # the gateways say what is wrong with it
        pass
    return None


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


def served_models(app: AppConfig) -> list[str]:
    """A line for each model: its task, its name, and other names for it."""
    return [
        f"{model.task:<14} {name}{f' ({some_of(model.aliases)})' if model.aliases else ''}"
        for name, model in app.models.items()
    ]


def _announce(settings: ConfigFile) -> None:
    address = url_of(settings.http.host, settings.http.port)
    print("\n".join(served_models(settings.app)))
    print(f"Motet is ready: {address}/v1 (OpenAI API), {address}/ (web page). Ctrl-C stops it.", flush=True)
    if https := settings.app.edge.tls:
        print(f"HTTPS: {url_of(https.host, https.port).replace('http', 'https', 1)}", flush=True)
    if port := ray_private.metrics_port_of_this_machine():
        print(f"Metrics for Prometheus: http://127.0.0.1:{port}/metrics", flush=True)
    _tell_what_waits(settings.app)
    places = config_file.open_places(settings.http, settings.app.edge)
    if places and not settings.app.security.needs_key:
        where = " and ".join(places)
        print(f"Warning: {where} is open to the network and no key is asked for. Make one with motet keys new.")


if __name__ == "__main__":
    status = main(Path(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    os._exit(status)  # every process is gone by now; what Ray does at exit would wait for them
