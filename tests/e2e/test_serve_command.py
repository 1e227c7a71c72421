"""`motet serve`: reasons that stop its start, and what it leaves behind."""

from __future__ import annotations

import re
import signal
import socket
from itertools import chain
from pathlib import Path

import httpx
import psutil
import pytest

from serve_app.bench.running_service import free_loopback_port
from serve_app.cli.processes import kill

from .conftest import CONFIG, START_S, STOP_S, Service, answers, marked_processes, run_serve, titles


def refused(config: Path, folder: Path, **environment: str) -> str:
    """The output of a start that must fail."""
    output = folder / "serve.log"
    process = run_serve(config, folder.name, output, **environment)
    try:
        assert process.wait(START_S) == 1
        assert marked_processes(folder.name) == []
    finally:
        kill(marked_processes(folder.name), STOP_S)
    said = output.read_text()
    assert "Traceback" not in said
    return said


MISTAKES = {
    "limits: {max_bodybytes: 5}": "limits.max_bodybytes: unknown key; did you mean 'max_body_bytes'?",
    "speech: {pieces: {piece_chars: 9}}": "speech.pieces.piece_chars: unknown key; did you mean 'piece_characters'?",
    "securty: {}": "securty: unknown key; did you mean 'security'?",
    "windows: {window_s: 31}": "windows.window_s: Input should be less than or equal to 30",
    "models: {a: {engine: hibarri}}": "hibari",
}


def test_mistakes_in_the_file_stop_the_start_with_the_nearest_names(tmp_path: Path) -> None:
    config = tmp_path / "serve_config.yaml"
    config.write_text(f"applications: [{{import_path: serve_app.app:build, args: {{{', '.join(MISTAKES)}}}}}]\n")
    said = refused(config, tmp_path, MOTET_PORT=str(free_loopback_port()))
    assert [line for line in MISTAKES.values() if line not in said] == []


def test_a_key_of_ray_serve_is_checked_too(tmp_path: Path) -> None:
    config = tmp_path / "serve_config.yaml"
    config.write_text(CONFIG.read_text().replace("http_options:", "http_option:"))
    assert "http_option: unknown key; did you mean 'http_options'?" in refused(config, tmp_path)


def test_a_model_that_cannot_be_loaded_stops_the_start_with_its_cause(tmp_path: Path) -> None:
    config = tmp_path / "serve_config.yaml"
    models = "defaults: false, models: {lost: {engine: hibari, source: 'path:/nowhere'}}"
    config.write_text(f"applications: [{{import_path: serve_app.app:build, args: {{{models}}}}}]\n")
    said = refused(config, tmp_path, MOTET_PORT=str(free_loopback_port()))
    assert "lost@cpu: RuntimeError: Model 'lost' cannot be loaded." in said
    assert "/nowhere" in said


def test_a_taken_port_stops_the_start_with_a_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(CONFIG, tmp_path, MOTET_PORT=str(port))
    assert f"Cannot listen on 127.0.0.1:{port}: Address already in use. Set MOTET_PORT." in said


def test_a_port_that_is_none_stops_the_start(tmp_path: Path) -> None:
    assert "port: Input should be" in refused(CONFIG, tmp_path, MOTET_PORT="70000")


def test_the_address_is_the_environments(service: Service, keyed_service: Service) -> None:
    """The file says 127.0.0.1:8000."""
    for started in (service, keyed_service):
        assert started.port != 8000
        assert f"Motet is ready: {started.url}/v1 (OpenAI API), {started.url}/ (web page). Ctrl-C" in started.said
        assert httpx.get(f"{started.url}/livez", timeout=20).json() == {"status": "alive"}
    assert addresses_of(service) == {"127.0.0.1"}
    assert addresses_of(keyed_service) <= {"0.0.0.0", "::"}


def addresses_of(started: Service) -> set[str]:
    """The addresses on which its own port is open."""
    sockets = chain.from_iterable(answers(started.processes(), lambda process: process.net_connections("tcp")))
    listening = {socket.laddr for socket in sockets if socket.status == psutil.CONN_LISTEN}
    return {address.ip for address in listening if address.port == started.port}


def test_what_the_service_has_no_use_for_does_not_run(service: Service) -> None:
    running = " ".join(titles(marked_processes(service.mark)).values())
    assert "gcs_server" in running
    assert not re.findall(r"dashboard/dashboard\.py|log_monitor\.py|autoscaler/\S*monitor\.py", running)


def test_no_replica_holds_what_only_tables_need(service: Service) -> None:
    for model in ("gateway", "hibari@cpu", "whisper-base@cpu", "deepfilternet@cpu", "audio-helper"):
        assert not {region.path for region in service.replica(model).memory_maps() if "/pandas/" in region.path}


def test_being_terminated_leaves_nothing_running(keyed_service: Service) -> None:
    assert len(keyed_service.processes()) > 10
    assert "haproxy" in answers(keyed_service.processes(), psutil.Process.name)
    keyed_service.stop(signal.SIGTERM)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{keyed_service.url}/livez", timeout=20)
