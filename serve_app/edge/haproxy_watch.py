"""The program that starts HAProxy again at once when it dies.

Ray Serve replaces the manager of a dead HAProxy after three failed checks, one a second, and the new manager's HAProxy knows
no routes at first: clients would be refused for some seconds. This program waits beside each HAProxy, without processor time,
and bridges that gap with the last configuration that had routes, until the new manager's HAProxy takes over.

It runs in the folder of the service, and imports the standard library only, so that it costs little memory.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

CONFIG = "haproxy.cfg"
"""The configuration of an HAProxy that Ray Serve started."""
BRIDGE = "haproxy.bridge.cfg"
"""The last configuration with routes, without the socket at which Ray Serve's manager asks: it shall notice the death."""
CURRENT = "haproxy.pid"
"""The process id of the newest HAProxy. Any other one was replaced, and may end."""
STOPPED_S = 1.5
"""A manager that ends HAProxy on purpose ends itself within this time; one whose HAProxy died is replaced later."""
SUCCESSOR_S = 60.0
"""The HAProxy of a new manager takes over within this time, or the service is gone."""
SHORT_LIFE_S = 1.0
"""An HAProxy that dies sooner cannot work, and is not started again."""
LISTEN = "0A"
"""The state of a socket that accepts connections, in `/proc/net/tcp` (Linux, `TCP_LISTEN`)."""
HAPROXY, MANAGER, RAYLET = "haproxy", "manager", "raylet"


def main() -> None:
    """Takes the process ids of HAProxy and of its manager, and the command that starts HAProxy again, without the
    configuration: HAProxy is known by the folder in its command line, and this program is none."""
    haproxy, manager, *command = sys.argv[1:]
    folder = Path.cwd()
    try:
        watched = WatchedProcesses(int(haproxy), int(manager))
    except ProcessLookupError:
        return  # the manager ended before it could be watched
    watch(int(haproxy), watched, [*command, "-f", str(folder / BRIDGE)], folder)


def watch(haproxy: int, watched: WatchedProcesses, command: Sequence[str], folder: Path) -> None:
    """Waits until HAProxy ends. If it was not replaced and its service goes on, starts it again, and stays until that one is
    replaced or the service ends. If it never replaced an earlier one, that one is the newest again."""
    while HAPROXY not in watched.ended:
        watched.wait()
        if RAYLET in watched.ended and HAPROXY not in watched.ended:
            os.kill(haproxy, signal.SIGKILL)  # the whole service was killed, and only this program can free the port
            return
    while is_current(haproxy, folder) and RAYLET not in watched.ended and (folder / BRIDGE).exists():
        if (earlier := serving_haproxy(folder)) is not None:
            name_current(earlier, folder)  # its own program watches it
            return
        stoppable = MANAGER not in watched.ended
        began_s = time.monotonic()
        haproxy = start_haproxy(command, folder)
        watched.add(HAPROXY, haproxy)
        if not _died(haproxy, watched, folder, stoppable=stoppable) or time.monotonic() < began_s + SHORT_LIFE_S:
            return


def start_haproxy(command: Sequence[str], folder: Path) -> int:
    """Starts an HAProxy that is the newest one from now on. Returns its process id."""
    haproxy = os.posix_spawn(command[0], list(command), os.environ)
    try:
        name_current(haproxy, folder)
    except OSError:
        os.kill(haproxy, signal.SIGKILL)  # the service has ended
        raise
    return haproxy


def name_current(haproxy: int, folder: Path) -> None:
    """Writes which HAProxy is the newest."""
    new = folder / f"{CURRENT}.{haproxy}"
    new.write_text(str(haproxy))
    new.replace(folder / CURRENT)


def _died(haproxy: int, watched: WatchedProcesses, folder: Path, *, stoppable: bool) -> bool:
    """Stays beside an HAProxy that was started here. True if it died, False if it was replaced or its service ended."""
    began_s = time.monotonic()
    until_s = None if stoppable else began_s + SUCCESSOR_S
    while HAPROXY not in watched.wait(until_s):
        now_s = time.monotonic()
        if MANAGER in watched.ended and until_s is None:
            until_s = now_s if now_s < began_s + STOPPED_S else now_s + SUCCESSOR_S
        late = until_s is not None and now_s >= until_s
        if RAYLET in watched.ended or (late and is_current(haproxy, folder)):
            os.kill(haproxy, signal.SIGKILL)
        if RAYLET in watched.ended or late:
            return False  # one that was replaced ends with its last request
    os.waitpid(haproxy, 0)
    return is_current(haproxy, folder)


class WatchedProcesses:
    """HAProxy, its manager, and the raylet that started the manager. `ended` has those of them that have ended.

    Raises `ProcessLookupError` if the manager or the raylet had ended before. An HAProxy that cannot start ends so soon."""

    def __init__(self, haproxy: int, manager: int) -> None:
        self.ended: set[str] = set()
        self._poll = select.poll()
        self._parts: dict[int, str] = {}
        try:
            self.add(HAPROXY, haproxy)
        except ProcessLookupError:
            self.ended.add(HAPROXY)
        self.add(MANAGER, manager)
        self.add(RAYLET, _parent_of(manager))

    def add(self, part: str, pid: int) -> None:
        """Watches the process of a part from now on. Raises `ProcessLookupError`."""
        descriptor = os.pidfd_open(pid)
        self.ended.discard(part)
        self._parts[descriptor] = part
        self._poll.register(descriptor, select.POLLIN)

    def wait(self, until_s: float | None = None) -> set[str]:
        """Waits until one more ends, or until a time (monotonic seconds). Returns all that have ended."""
        left_ms = None if until_s is None else max(0.0, until_s - time.monotonic()) * 1000
        for descriptor, _ in self._poll.poll(left_ms):
            self._poll.unregister(descriptor)
            os.close(descriptor)
            self.ended.add(self._parts.pop(descriptor))
        return self.ended


def is_current(haproxy: int, folder: Path) -> bool:
    """Whether no newer HAProxy was started in this folder."""
    try:
        return (folder / CURRENT).read_text() == str(haproxy)
    except FileNotFoundError:
        return False  # the service has ended


def serving_haproxy(folder: Path) -> int | None:
    """The process id of an HAProxy of this folder that accepts connections. One that was replaced closes its ports at once,
    and ends later."""
    ours = {os.fsencode(folder / name) for name in (CONFIG, BRIDGE)}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if ours & set((process / "cmdline").read_bytes().split(b"\0")) and _listens(process):
                return int(process.name)
        except OSError:
            continue  # it has ended
    return None


def _listens(process: Path) -> bool:
    """Whether a process has a TCP port on which it accepts connections. Raises `OSError`."""
    rows = (line.split() for name in ("tcp", "tcp6") for line in (process / "net" / name).read_text().splitlines()[1:])
    listening = {f"socket:[{row[9]}]" for row in rows if row[3] == LISTEN}
    return any(str(descriptor.readlink()) in listening for descriptor in (process / "fd").iterdir())


def _parent_of(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    return int(status.rpartition(")")[2].split()[1])  # the name before it may have brackets


if __name__ == "__main__":
    main()
