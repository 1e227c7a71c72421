"""`motet serve`: what stops its start, and what it leaves behind."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import httpx
import pytest

from .conftest import CONFIG, STOP_S, Service, free_port, marked_processes, run_serve


def refused(config: Path, folder: Path, **environment: str) -> str:
    """What a start that must fail says."""
    output = folder / "serve.log"
    process = run_serve(config, folder.name, output, **environment)
    try:
        assert process.wait(STOP_S) == 1
        assert marked_processes(folder.name) == []
    finally:
        for left in marked_processes(folder.name):
            left.kill()
    said = output.read_text()
    assert "Traceback" not in said
    return said


MISTAKES = {
    "in limits": ("limits: {max_bodybytes: 5}", "limits.max_bodybytes: unknown key; did you mean 'max_body_bytes'?"),
    "in pieces": ("speech: {pieces: {piece_chars: 9}}", "did you mean 'piece_characters'?"),
    "at the top": ("securty: {}", "securty: unknown key; did you mean 'security'?"),
    "a number": ("windows: {window_seconds: 31}", "windows.window_seconds: Input should be less than or equal to 30"),
    "an engine": ("models: {a: {engine: hibarri}}", "hibari"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_file_stops_the_start_with_the_nearest_name(mistake: str, tmp_path: Path) -> None:
    written, said = MISTAKES[mistake]
    config = tmp_path / "serve_config.yaml"
    config.write_text(f"applications: [{{import_path: serve_app.app:build, args: {{{written}}}}}]\n")
    assert said in refused(config, tmp_path, MOTET_PORT=str(free_port()))


def test_a_key_of_ray_serve_is_checked_too(tmp_path: Path) -> None:
    config = tmp_path / "serve_config.yaml"
    config.write_text(CONFIG.read_text().replace("http_options:", "http_option:"))
    assert "http_option: unknown key; did you mean 'http_options'?" in refused(config, tmp_path)


def test_a_taken_port_stops_the_start_with_a_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(CONFIG, tmp_path, MOTET_PORT=str(port))
    assert f"Cannot listen on 127.0.0.1:{port}: Address already in use. Set MOTET_PORT." in said


@pytest.mark.parametrize("port", ["70000", "many"])
def test_a_port_that_is_none_stops_the_start(port: str, tmp_path: Path) -> None:
    assert "port: Input should be" in refused(CONFIG, tmp_path, MOTET_PORT=port)


def test_the_address_is_the_environments(service: Service, keyed_service: Service) -> None:
    """The file says 127.0.0.1:8000."""
    for started in (service, keyed_service):
        assert started.port != 8000
        assert f"Motet is ready: {started.url}/v1 (OpenAI API), {started.url}/ (web page). Ctrl-C" in started.said
        assert httpx.get(f"{started.url}/livez", timeout=20).json() == {"status": "alive"}
    assert keyed_service.host == "127.0.0.2"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{keyed_service.port}/livez", timeout=20)


def test_being_terminated_leaves_nothing_running(keyed_service: Service) -> None:
    assert len(keyed_service.processes()) > 10
    assert any(process.name() == "haproxy" for process in keyed_service.processes())
    keyed_service.stop(signal.SIGTERM)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{keyed_service.url}/livez", timeout=20)
