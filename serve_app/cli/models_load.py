"""`motet models load` and `unload`: models of a running service, which change no configuration."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from deployments.errors import fail
from deployments.strict_yaml import strict_yaml
from serve_app.cli.service_api import ServiceApi
from serve_app.cli.terminal import note

POLL_S = 0.5
MOST_UNTOLD = 20
"""Answers without the model, of gateways that the loader has not told yet. It tells them within some seconds."""
LOADED = "/v1/admin/models"


def load(
    service: ServiceApi,
    name: str,
    file: Path | None,
    own_name: str | None,
    *,
    quiet: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Loads a fetched model, or the entry in a file, and waits for it. Raises `MotetError`, also if it does not load."""
    id = own_name or name
    body = {**(_entry(file) if file else {"catalogue": name}), "id": id}
    began = service.ask("POST", "/v1/models", json=body)
    if not quiet:
        note(f"{id} is being loaded.")
    untold = 0
    while True:
        with service.understood():
            found = _found(service, id)
            told = found is not None and found["created"] >= began["created"]
            state, cause = (found["state"], found["cause"]) if found and told else ("untold", None)
        if state == "ready":
            if not quiet:
                note(f"{id} is ready, until it is unloaded or the service ends; other requests went on.")
            return
        untold += state == "untold"
        if state not in ("loading", "untold") or untold > MOST_UNTOLD:
            reason = f" {cause}" if cause else ""
            raise fail("unavailable", f"{id} was not loaded.{reason}", "The service is as it was.")
        sleep(POLL_S)


def unload(service: ServiceApi, name: str) -> None:
    """Unloads a model. Raises `MotetError`."""
    service.ask("DELETE", f"/v1/models/{quote(name, safe='')}")
    note(f"{name} takes no new requests; it leaves when its open ones have ended.")


def _found(service: ServiceApi, id: str) -> Mapping[str, Any] | None:
    return next((each for each in service.ask("GET", LOADED)["data"] if each["id"] == id), None)


def _entry(file: Path) -> dict[str, Any]:
    """An entry of `models`, from a file of its own. Raises `MotetError` (invalid)."""
    try:
        entry = strict_yaml(file.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise fail("invalid", f"{file} cannot be read: {error}", "Check the file.") from error
    if not isinstance(entry, dict):
        cause = f"{file} is not the entry of a model."
        raise fail(
            "invalid", cause, "Write what stands under the model's name in a configuration: engine: ..., source: ..."
        )
    return entry
