"""Keys are made by the command and replaced while the service runs."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .conftest import ROOT, Service, config_of, wait_for

TAKES_EFFECT_S = 10.0


def new_key(name: str, *options: str) -> tuple[str, str]:
    """A key of `motet keys new`, and the lines that make it known."""
    command = [sys.executable, "-m", "serve_app.cli.main", "keys", "new", name, *options]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return made.stderr.split()[-1], made.stdout


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[tuple[Service, Path]]:
    """A service, and its keys file, which is empty."""
    keys = tmp_path / "keys.yaml"
    keys.write_text("")
    arguments = {
        "models": {"identity": {"engine": "identity"}},
        "security": {"keys_file": str(keys)},
    }
    config = config_of(tmp_path, arguments)
    running = Service.start(config, tmp_path, host="0.0.0.0")
    yield running, keys
    running.stop(signal.SIGTERM)


def test_keys_come_and_go_without_a_restart(keyed: tuple[Service, Path]) -> None:
    service, file = keyed

    def status(key: str, path: str = "/v1/models") -> int:
        return httpx.get(f"{service.url}{path}", headers={"authorization": f"Bearer {key}"}, timeout=20).status_code

    (old, old_lines), (new, new_lines), (root, root_lines) = (
        new_key("alice"),
        new_key("bob"),
        new_key("root", "--admin"),
    )
    gateway = service.replica("gateway").pid
    assert {status(key) for key in (old, new, root)} == {401}
    file.write_text(old_lines + root_lines)
    wait_for(lambda: status(old) == 200, TAKES_EFFECT_S, "the key")
    assert (status(root), status(root, "/v1/admin/keys"), status(old, "/v1/admin/keys")) == (403, 200, 403)
    file.write_text(new_lines + root_lines)
    wait_for(lambda: status(new) == 200, TAKES_EFFECT_S, "the next key")
    assert status(old) == 401
    file.write_text("not: [a keys file")
    wait_for(lambda: status(new) == 200, TAKES_EFFECT_S, "the key that is still there")
    assert service.replica("gateway").pid == gateway
