"""`motet models add` and `remove` with `--service`: a model of the catalogue comes to the service's machine, or leaves it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from deployments.catalogue.adding import GB
from deployments.errors import fail
from serve_app.cli.service_api import ServiceApi
from serve_app.cli.terminal import byte_progress, note

POLL_S = 0.5
MOST_UNTOLD = 20
"""Answers in a row without the addition, which gateways on other machines give, before it counts as cancelled."""
REGISTRY = "/v1/registry"
HUB = "hf:"


def add(
    service: ServiceApi,
    name: str,
    hardware: str | None,
    *,
    quiet: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Adds a model, shows how far it is, and returns its entry of the registry. Raises `MotetError`, also if it fails."""
    if name.startswith(HUB):
        cause = "A running service adds models of its catalogue only."
        raise fail("invalid", cause, f"Run motet models add {name} on its machine.", param="name")
    model = service.ask("POST", _place(name), json={"hardware": hardware} if hardware else {})
    try:
        model = _waited_for(service, model, quiet=quiet, sleep=sleep)
    except KeyboardInterrupt:
        if not quiet:
            note(
                f"Stopped waiting. The service goes on adding {name}: the same command shows how far it is; "
                f"motet models remove {name} with the same --service cancels it."
            )
        raise
    if not quiet:
        note(
            f"{name} is on the service's machine. motet models load {name} with the same --service puts it into the service."
        )
    return model


def remove(service: ServiceApi, name: str, *, quiet: bool) -> None:
    """Cancels the addition of a model, or removes the model. Raises `MotetError`."""
    with service.understood():
        freed = service.ask("DELETE", _place(name))["freed_bytes"] / GB
    if not quiet:
        stays = (
            f"{name} is not being added any more. What was fetched of it stays; the same command again removes that."
        )
        note(f"{name} is removed from the service's machine: {freed:.2f} GB are free." if freed else stays)


def _waited_for(
    service: ServiceApi, model: dict[str, Any], *, quiet: bool, sleep: Callable[[float], None]
) -> dict[str, Any]:
    untold, name = 0, str(model.get("id"))
    with byte_progress(name, quiet=quiet) as progress:
        while True:
            with service.understood():
                addition, installed = model["addition"], model["installed"]
                failed = addition is not None and addition["state"] == "failed"
                if addition is not None and addition["total_bytes"]:
                    progress(addition["received_bytes"], addition["total_bytes"])
            if failed:
                cause = f"{name} was not added. {addition['cause'] or ''}".strip()
                raise fail("unavailable", cause, code="addition_failed")
            if addition is None and installed:
                return model
            untold = 0 if addition is not None else untold + 1
            if untold > MOST_UNTOLD:
                raise fail("unavailable", f"{name} was not added: it was cancelled.", "Send it again to continue.")
            sleep(POLL_S)
            model = _found(service, name)


def _found(service: ServiceApi, name: str) -> dict[str, Any]:
    with service.understood():
        return next(dict(each) for each in service.ask("GET", REGISTRY)["data"] if each["id"] == name)


def _place(name: str) -> str:
    return f"{REGISTRY}/{quote(name, safe='')}"
