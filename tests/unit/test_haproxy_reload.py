"""Reloads of HAProxy itself that fail: the HAProxy that stays is started again when it dies."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app import profiles
from serve_app.edge.haproxy_watch import CONFIG, CURRENT

from .test_haproxy import written_by_ray

LONGEST_S = 30
POLL_S = 0.05


class Front:
    """A folder with the program that Ray Serve starts as HAProxy, and the port of the service."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, profiles.free_port(0)
        profiles.write_haproxy_program(folder)

    def start(self, more: str = "", *arguments: str) -> subprocess.Popen[bytes]:
        """An HAProxy with Ray Serve's configuration, on free ports, and with more lines."""
        ports = {8000: self.port, 9101: profiles.free_port(0), 8404: profiles.free_port(0)}
        config = written_by_ray(self.folder)
        for usual, free in ports.items():
            config = config.replace(f":{usual}\n", f":{free}\n")
        (self.folder / CONFIG).write_text(config + more)
        program = self.folder / profiles.HAPROXY_PROGRAM
        return subprocess.Popen([program, "-db", "-f", self.folder / CONFIG, *arguments], stderr=subprocess.DEVNULL)

    def newest(self) -> int:
        """The process id of the newest HAProxy."""
        return int((self.folder / CURRENT).read_text())

    def await_newest(self, old: int) -> int:
        """The process id of the one after an old one, once the service answers."""
        deadline = time.monotonic() + LONGEST_S
        while time.monotonic() < deadline:
            if (self.folder / CURRENT).exists() and self.newest() != old and self._answers():
                return self.newest()
            time.sleep(POLL_S)
        raise AssertionError("no HAProxy answers")

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONGEST_S)
        try:
            connection.request("GET", "/-/healthz")
            return bool(connection.getresponse().status)
        except OSError:
            return False
        finally:
            connection.close()


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    """A folder whose newest HAProxy ends with the test."""
    made = Front(tmp_path)
    yield made
    newest = made.newest()
    (tmp_path / CURRENT).unlink()
    os.kill(newest, signal.SIGKILL)


@pytest.mark.parametrize("trouble", ["a line that is not valid", "a port that is taken"])
def test_the_haproxy_that_stays_after_a_failed_reload_is_started_again(trouble: str, front: Front) -> None:
    first = front.start()
    assert front.await_newest(0) == first.pid
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"bind 127.0.0.1:{taken.getsockname()[1]}"
        more = f"\nlisten more\n  {bind if trouble == 'a port that is taken' else 'no such word'}\n"
        assert front.start(more, "-sf", str(first.pid)).wait(LONGEST_S) != 0
        assert first.poll() is None
    deadline = time.monotonic() + LONGEST_S
    while front.newest() != first.pid and time.monotonic() < deadline:
        time.sleep(POLL_S)
    first.kill()
    first.wait(LONGEST_S)
    assert front.await_newest(first.pid)
