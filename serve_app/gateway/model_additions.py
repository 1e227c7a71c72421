"""Models of the catalogue that come to the gateway's machine, and leave it, while the service runs.

A process of its own fetches and checks each: hashing gigabytes would keep the gateway from its requests. It ends with the
gateway, or when a client cancels. Its state is in files, so that all gateways of the machine know it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from deployments.catalogue.adding import bytes_here, ensure_room, remove_installed, uses
from deployments.catalogue.additions import Addition, AdditionOrder, Additions
from deployments.catalogue.entries import CatalogueEntry
from deployments.catalogue.installed import InstalledModel, InstalledModels, RegistrySettings, WeightUse, readable
from deployments.errors import fail, in_one_line, quoted
from deployments.hub.cache import discard_unfinished

MODULE = "serve_app.cli.addition_process"
MOST_AT_ONCE = 4
"""Models that are added at the same time on one machine."""
CANCEL_ATTEMPTS = 60
"""How often the lock is tried of a process that was asked to end, each for about 0.1 s."""


class AdditionProcess(Protocol):
    """A process that adds a model."""

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""


def start_process(order: AdditionOrder) -> subprocess.Popen[bytes]:
    """Starts the process of an order. It gets the lock, and its standard input is closed when this process ends."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", MODULE, order.model_dump_json()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        pass_fds=[order.lock],
        start_new_session=True,
    )


class ModelAdditions:
    """Adds models and removes them. `in_use` gives the weights of all models that the service has, on its event loop; `pause`
    waits for some seconds."""

    def __init__(
        self,
        settings: RegistrySettings,
        in_use: Callable[[], Sequence[WeightUse]],
        start: Callable[[AdditionOrder], AdditionProcess] = start_process,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        self._additions = Additions(settings, pause)
        self._installed = InstalledModels(settings)
        self._in_use = in_use
        self._start = start
        self._lock = threading.Lock()
        self._processes: dict[str, AdditionProcess] = {}

    def states(self) -> dict[str, Addition]:
        """The additions that run or failed, by the name of the model. Reads files."""
        self._forget_ended()
        return self._additions.all()

    async def add(self, name: str, hardware: str | None, *, try_it: bool) -> None:
        """Begins, or continues, to add a model of the catalogue. Nothing happens if it is being added or is here.

        Raises `MotetError`: forbidden, not_found, unsupported for a class on which it does not run, overloaded,
        storage_full, unavailable if the folder cannot be written.
        """
        self._ensure_allowed()
        await asyncio.to_thread(self._add, name, hardware, try_it)

    async def remove(self, name: str, *, served: bool) -> int:
        """Cancels the addition of a model, whose files stay; or else removes the model, or what was fetched of it. Returns
        the bytes that are free now.

        Raises `MotetError`: forbidden, not_found, conflict if it is `served` or in use.
        """
        self._ensure_allowed()
        return await asyncio.to_thread(self._remove, name, served, self._in_use())

    def _ensure_allowed(self) -> None:
        if not self._settings.fetch:
            cause = "This service does not add models while it runs."
            remedy = "Ask its operator, who can set registry.fetch or run `motet models add`."
            raise fail("forbidden", cause, remedy, code="registry_fetch_off")

    def _add(self, name: str, hardware: str | None, try_it: bool) -> None:
        entry = self._entry(name)
        if hardware is not None and hardware not in entry.hardware:
            cause = f"{name} does not run on {quoted(hardware)}."
            raise fail("unsupported", cause, f"It runs on {' and '.join(entry.hardware)}.", param="hardware")
        with _writing():
            lock = self._additions.lock(name)
            if lock is None:
                return
            try:
                if try_it or not self._is_here(name, hardware):
                    self._begin(name, entry, hardware, try_it, lock)
                else:
                    self._additions.clear(name)
            finally:
                os.close(lock)  # the process has a copy

    def _begin(self, name: str, entry: CatalogueEntry, hardware: str | None, try_it: bool, lock: int) -> None:
        if sum(other != name for other in self._additions.running()) >= MOST_AT_ONCE:
            cause = f"{MOST_AT_ONCE} models are being added."
            raise fail("overloaded", cause, "Wait for one of them, or cancel one.", code="additions_busy")
        ensure_room(entry)
        self._additions.clear(name)
        self._additions.write(name, Addition(received_bytes=bytes_here(entry), total_bytes=entry.size))
        order = AdditionOrder(name=name, hardware=hardware, try_it=try_it, registry=self._settings, lock=lock)
        with self._lock:
            self._processes[name] = self._start(order)

    def _remove(self, name: str, served: bool, used: Sequence[WeightUse]) -> int:
        addition = self._additions.find(name)
        if addition is not None and addition.state != "failed":
            self._cancel(name)
            return 0
        installed = self._note(name)
        if installed is not None and (served or uses(installed, used)):
            cause = f"The service has the model {quoted(name)}."
            remedy = "Unload it with DELETE /v1/models/{id}, or take it out of the configuration; then send this again."
            raise fail("conflict", cause, remedy, code="model_in_use")
        freed = self._freed(name, installed, used)
        if installed is None and addition is None and not freed:
            raise fail("not_found", f"The model {quoted(name)} was not added.", code="model_not_added")
        self._forget(name)
        return freed

    def _freed(self, name: str, installed: InstalledModel | None, used: Sequence[WeightUse]) -> int:
        """Removes a model, or what was fetched of it. Returns the bytes that are free now."""
        parts = self._entry(name).parts if installed is None else ()
        with _writing():
            try:
                if installed is None:
                    return sum(discard_unfinished(repository) for repository in {part.repository for part in parts})
                with readable():
                    return remove_installed(installed, self._installed, used, waits=False) or 0
            except BlockingIOError as error:
                cause = "Another model of the same repository is being added."
                raise fail("conflict", cause, "Send this again when it is there.", code="repository_busy") from error

    def _cancel(self, name: str) -> None:
        """Returns when the process has ended."""
        with _writing():
            self._additions.cancel(name)
            if not any(self._forget(name) for _ in range(CANCEL_ATTEMPTS)):
                cause = f"The addition of {quoted(name)} did not end in time."
                raise fail("unavailable", cause, "Send this again.", code="cancel_slow")

    def _forget(self, name: str) -> bool:
        """Removes the state of an addition, unless its process runs."""
        lock = self._additions.lock(name)
        if lock is not None:
            self._additions.clear(name)
            os.close(lock)
        return lock is not None

    def _forget_ended(self) -> None:
        """Without this an ended process would stay in the system's table."""
        with self._lock:
            self._processes = {name: each for name, each in self._processes.items() if each.poll() is None}

    def _entry(self, name: str) -> CatalogueEntry:
        with readable():
            models = self._settings.model_catalogue.models
        if name not in models:
            cause = f"The catalogue of this service has no model {quoted(name)}."
            raise fail("not_found", cause, "GET /v1/registry lists them.", code="not_in_catalogue")
        return models[name]

    def _note(self, name: str) -> InstalledModel | None:
        with readable():
            return self._installed.find(name)

    def _is_here(self, name: str, hardware: str | None) -> bool:
        note = self._installed.all().get(name)  # one that is damaged is written again
        return note is not None and note.is_here and hardware in (None, note.hardware)


@contextmanager
def _writing() -> Iterator[None]:
    """Says that the folders of models cannot be changed, without their names."""
    try:
        yield
    except OSError as error:
        cause = "The service cannot change its folder of models, or start a process."
        raise fail("unavailable", cause, "The log of the service says why.", detail=in_one_line(error)) from error
