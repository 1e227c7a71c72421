"""What `motet serve` does between a signal and the end: new requests are refused, and open ones may finish."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from cluster import ray_private
from serve_app.cli.processes import command_line
from serve_app.edge import haproxy_sessions
from serve_app.profiles import HAPROXY_FOLDER

logger = logging.getLogger(__name__)

POLL_S = 0.25
ANSWER_S = 2.0
"""Time for the answer of a gateway."""
LOST_AFTER_S = 15.0
"""Gateways that do not answer for so long are lost, and with them their requests. It is also the time to find them."""


def drain(application: str, limit_s: float, at_once: threading.Event) -> None:
    """Refuses new requests, and waits until open ones have ended: at most `limit_s`, and not after `at_once`.

    Ray must be connected.
    """
    open_requests = OpenRequests(ray_private.deployment_calls(application, "gateway"), front_requests)
    deadline, told = time.monotonic() + limit_s, False
    while count := open_requests.count():
        if open_requests.known and not told:
            print(_what_is_awaited(count, limit_s), flush=True)
            told = True
        if at_once.wait(POLL_S) or time.monotonic() > deadline:
            print(f"{count} open requests end now.", flush=True)
            return


def _what_is_awaited(count: int, limit_s: float) -> str:
    return f"Stopping: new requests are refused; {count} open ones may take {limit_s:g} s. Another signal ends them at once."


class OpenRequests:
    """The requests that are open in the gateways or in what is in front of them.

    `drain` makes each gateway refuse new requests, and returns the number of open ones of each; none if no gateway is known.
    """

    def __init__(
        self,
        drain: Callable[[str, float], list[int]],
        front: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._drain = drain
        self._front = front
        self._clock = clock
        self._heard_s = clock()
        self.known = False
        """Whether the gateways answered the last time, so that they refuse new requests."""

    def count(self) -> int:
        """The number of open requests, at least one while that is not known. 0 when the gateways are lost."""
        try:
            if answers := self._drain("drain", ANSWER_S):
                self.known, self._heard_s = True, self._clock()
                # The gateways first: an answer that has left them may still be in front of them.
                return sum(answers) or self._front()
        except Exception:
            logger.debug("A gateway or a proxy does not answer", exc_info=True)  # it is gone, frozen or being replaced
        self.known = False
        return int(self._clock() - self._heard_s < LOST_AFTER_S)


def front_requests() -> int:
    """The requests whose answer the HTTP servers in front of the gateways have not sent completely: a client may read slowly.

    0 on a cluster that stays: its HTTP servers stay too.
    """
    if "RAY_ADDRESS" in os.environ:
        return 0
    if folder := os.environ.get(HAPROXY_FOLDER):
        replaced = len(haproxy_processes(folder)) - 1  # they end with their last request
        return max(0, replaced) + haproxy_sessions.open_requests(Path(folder))
    return ray_private.undrained_proxies(ANSWER_S)


def haproxy_processes(folder: str) -> list[psutil.Process]:
    """The HAProxy processes of a service, which are known by the folder of their files."""
    return [each for each in psutil.process_iter() if any(part.startswith(folder) for part in command_line(each))]
