"""The program that starts HAProxy again, beside real processes that stand for HAProxy, its manager and the raylet (which is this
process here)."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serve_app.edge import haproxy_watch
from serve_app.edge.haproxy_watch import BRIDGE, CONFIG, CURRENT, WatchedProcesses, name_current, watch

LONGEST_S = 60
"""How long a stand-in lives if nobody ends it, and how long a test waits."""
PROGRAM = ("/bin/sleep", str(LONGEST_S))
LISTENING = "import signal, socket; own = socket.create_server(('127.0.0.1', 0)); print(flush=True); signal.pause()"
DRAINING = "import signal; print(flush=True); signal.pause()"


class WatchedService:
    """A folder, an HAProxy and a manager, and a thread that watches them. `started` has the process ids of new HAProxies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.haproxy, self.manager = subprocess.Popen(PROGRAM), subprocess.Popen(PROGRAM)
        self.started: queue.Queue[int] = queue.Queue()
        (folder / BRIDGE).touch()
        self.watching = self.watch(self.haproxy.pid)

    def watch(self, haproxy: int) -> threading.Thread:
        """Names an HAProxy the newest, and watches it in a thread that has not started."""
        name_current(haproxy, self.folder)
        watched = WatchedProcesses(haproxy, self.manager.pid)
        return threading.Thread(target=watch, args=(haproxy, watched, PROGRAM, self.folder))

    @contextmanager
    def earlier(self, program: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process of this folder's configuration that runs a Python program, from when the program prints a line."""
        words = [sys.executable, "-c", program, str(self.folder / CONFIG)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None and process.stdout.readline()
                yield process
            finally:
                process.kill()

    def next_one(self) -> int:
        """The process id of the HAProxy that is started next."""
        return self.started.get(timeout=LONGEST_S)

    def watched_to_the_end(self) -> bool:
        """Whether the watching program ends by itself."""
        self.watching.join(LONGEST_S)
        return not self.watching.is_alive()


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process by kill -9."""
    process.kill()
    process.wait()


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WatchedService]:
    """A service whose HAProxy is watched."""
    made, start = WatchedService(tmp_path), haproxy_watch.start_haproxy

    def started(*arguments: Any) -> int:
        pid = start(*arguments)
        made.started.put(pid)
        return pid

    monkeypatch.setattr(haproxy_watch, "start_haproxy", started)
    monkeypatch.setattr(haproxy_watch, "SHORT_LIFE_S", 0.0)
    made.watching.start()
    yield made
    (tmp_path / CURRENT).unlink(missing_ok=True)
    end(made.haproxy)
    end(made.manager)


def killed(pid: int) -> bool:
    """Whether a child ended by kill -9."""
    return os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_an_haproxy_that_dies_is_started_again_as_often_as_it_dies(service: WatchedService) -> None:
    end(service.haproxy)
    first = service.next_one()
    os.kill(first, signal.SIGKILL)
    second = service.next_one()
    assert alive(second)
    name_current(0, service.folder)
    os.kill(second, signal.SIGTERM)
    assert service.watched_to_the_end()


def test_one_that_was_replaced_may_end(service: WatchedService) -> None:
    name_current(1, service.folder)
    end(service.haproxy)
    assert service.watched_to_the_end()
    assert service.started.empty()


def test_a_manager_that_ends_with_its_haproxy_has_stopped_it(
    service: WatchedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(haproxy_watch, "STOPPED_S", float(LONGEST_S))
    end(service.haproxy)
    pid = service.next_one()
    end(service.manager)
    assert service.watched_to_the_end()
    assert killed(pid)


def test_a_manager_that_ends_later_leaves_it_to_its_successor(
    service: WatchedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(haproxy_watch, "STOPPED_S", 0.0)
    end(service.haproxy)
    pid = service.next_one()
    end(service.manager)
    name_current(1, service.folder)
    os.kill(pid, signal.SIGUSR1)  # as an HAProxy that takes over does
    assert service.watched_to_the_end()
    assert service.started.empty()


def test_without_a_successor_it_ends(service: WatchedService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy_watch, "STOPPED_S", 0.0)
    monkeypatch.setattr(haproxy_watch, "SUCCESSOR_S", 0.0)
    end(service.haproxy)
    pid = service.next_one()
    end(service.manager)
    assert service.watched_to_the_end()
    assert killed(pid)


def test_one_that_cannot_work_is_not_started_for_ever(service: WatchedService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy_watch, "SHORT_LIFE_S", float(LONGEST_S))
    monkeypatch.setattr(haproxy_watch, "SHORT_LIFE_S", float(LONGEST_S))
    end(service.haproxy)
    os.kill(service.next_one(), signal.SIGKILL)
    assert service.watched_to_the_end()
    assert service.started.empty()


def test_without_routes_that_were_known_nothing_is_started(service: WatchedService) -> None:
    (service.folder / BRIDGE).unlink()
    end(service.haproxy)
    assert service.watched_to_the_end()
    assert service.started.empty()


def test_the_one_that_stays_after_a_failed_reload_is_started_again(service: WatchedService) -> None:
    with service.earlier(LISTENING) as earlier:
        watching = service.watch(earlier.pid)
        watching.start()
        name_current(service.haproxy.pid, service.folder)
        end(service.haproxy)
        assert service.watched_to_the_end()
        assert service.started.empty()
        end(earlier)
        bridge = service.next_one()
        assert alive(bridge)
    name_current(0, service.folder)
    os.kill(bridge, signal.SIGTERM)
    watching.join(LONGEST_S)
    assert not watching.is_alive()


def test_one_that_ended_before_it_was_watched_leaves_the_one_that_stays_watched(service: WatchedService) -> None:
    name_current(0, service.folder)
    end(service.haproxy)
    assert service.watched_to_the_end()
    with service.earlier(LISTENING) as earlier:
        watching = service.watch(service.haproxy.pid)
        watching.start()
        watching.join(LONGEST_S)
        assert (service.folder / CURRENT).read_text() == str(earlier.pid)


def test_one_that_took_over_is_started_again_beside_one_that_ends_with_its_last_request(
    service: WatchedService,
) -> None:
    with service.earlier(DRAINING):
        end(service.haproxy)
        bridge = service.next_one()
        assert alive(bridge)
    name_current(0, service.folder)
    os.kill(bridge, signal.SIGTERM)
    assert service.watched_to_the_end()


def test_the_port_is_free_if_the_whole_service_was_killed(tmp_path: Path) -> None:
    shell = f"sleep {LONGEST_S} & echo $!; wait"
    with subprocess.Popen(["/bin/sh", "-c", shell], stdout=subprocess.PIPE, text=True) as raylet:
        assert raylet.stdout is not None
        manager = int(raylet.stdout.readline())
        haproxy = subprocess.Popen(PROGRAM)
        watched = WatchedProcesses(haproxy.pid, manager)
        watching = threading.Thread(target=watch, args=(haproxy.pid, watched, PROGRAM, tmp_path))
        watching.start()
        raylet.kill()
        os.kill(manager, signal.SIGKILL)
    assert haproxy.wait(LONGEST_S) == -signal.SIGKILL
    watching.join(LONGEST_S)
    assert not watching.is_alive()
