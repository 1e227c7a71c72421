"""The processes that play the clients of `motet bench live`, so that they share no interpreter with each other."""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

PROCESSES = 2
"""Good clients in one, bad ones in the other."""
NEEDED = "serve_app.bench.live_dictation"


class ClientProcesses:
    """They start at once, and import what they need while the service starts."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn"))
        for _ in range(PROCESSES):
            self._pool.submit(_import)

    def __enter__(self) -> ClientProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def run(self, work: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        """Calls a function of a module in one of them, and returns its result."""
        return self._pool.submit(work, *arguments, **options).result()


def _import() -> None:
    importlib.import_module(NEEDED)
