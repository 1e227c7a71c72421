"""Reads a `serve_config.yaml`: Ray Serve's own keys, and Motet's under the application's `args`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, ValidationError

from deployments.errors import MotetError, fail
from deployments.settings import StrictModel
from deployments.strict_yaml import DuplicateEntryError, strict_yaml
from deployments.validation import in_words, model_inside, nearest
from serve_app.config import AppArguments, AppConfig
from serve_app.edge.addresses import is_own_address
from serve_app.edge.settings import EdgeSettings

USED_KEYS = ("proxy_location", "http_options", "applications")
USED_HTTP_KEYS = ("host", "port")
USED_APPLICATION_KEYS = ("name", "route_prefix", "import_path", "args")


class HttpAddress(StrictModel):
    """Where the service listens."""

    host: str = "127.0.0.1"
    """A name or an IP address. 0.0.0.0 opens the service to the network: configure API keys (`security`) as well."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """The TCP port."""


class ConfigFile(StrictModel):
    """A whole `serve_config.yaml`."""

    http: HttpAddress
    app: AppConfig
    serve: Mapping[str, Any]

    @property
    def application(self) -> str:
        """The name under which Ray Serve runs the service."""
        return str((_list(self.serve, "applications") or [{}])[0].get("name", "motet"))


def open_places(http: HttpAddress, edge: EdgeSettings) -> list[str]:
    """The addresses, as host:port, at which others than this machine's users reach the service: without and with HTTPS."""
    places = [(http.host, http.port), *([(edge.tls.host, edge.tls.port)] if edge.tls else [])]
    return [f"{host}:{port}" for host, port in places if not is_own_address(host)]


def read(path: Path, environment: Mapping[str, str] = os.environ) -> ConfigFile:
    """Reads and checks a `serve_config.yaml`. `MOTET_HOST` and `MOTET_PORT` override its address.

    Raises `MotetError` that lists every mistake with the nearest valid name.
    """
    from serve_app.workers.serve_imports import ServeDeploySchema  # takes over a second to import

    document = document_of(path)
    mistakes = unknown_keys(document, ServeDeploySchema) + ignored_keys(document)
    try:
        app = AppArguments.model_validate(_arguments(document))
        http = HttpAddress.model_validate(_address(document, environment))
    except ValidationError as error:
        mistakes += in_words(error, AppArguments)
    if mistakes:
        raise _has_mistakes(path, mistakes)
    return ConfigFile(http=http, app=app, serve=document)


def read_app(path: Path | None) -> AppConfig:
    """Motet's part of a `serve_config.yaml`, or the defaults when there is no file.

    It leaves Ray Serve's part to `motet serve`: that schema takes more time to import than a sentence takes to speak.
    Raises `MotetError` that lists every mistake.
    """
    if path is None:
        return AppConfig()
    try:
        return AppArguments.model_validate(_arguments(document_of(path)))
    except ValidationError as error:
        raise _has_mistakes(path, in_words(error, AppArguments)) from error


def address_of(path: Path, environment: Mapping[str, str] = os.environ) -> HttpAddress:
    """Where the service will listen, without checking the rest of the file. Raises `MotetError`."""
    try:
        return HttpAddress.model_validate(_address(document_of(path), environment))
    except ValidationError as error:
        cause = "; ".join(in_words(error, HttpAddress)) + "."
        raise fail("invalid", cause, "Correct http_options, MOTET_HOST or MOTET_PORT.") from error


def edge_of_file(path: Path) -> EdgeSettings:
    """The limits of connections, without checking the rest of the file; the defaults where they have mistakes, which
    `read` lists. Raises `MotetError`."""
    arguments = _arguments(document_of(path))
    try:
        return EdgeSettings.model_validate(arguments.get("edge") or {} if isinstance(arguments, dict) else {})
    except ValidationError:
        return EdgeSettings()


def document_of(path: Path) -> Mapping[str, Any]:
    """The file as plain data. Raises `MotetError`."""
    try:
        document: Any = strict_yaml(path.read_text())
    except DuplicateEntryError as error:
        raise fail("invalid", f"{path} has mistakes: {error.problem}.", "Keep one of the two entries.") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: a date such as 2026-99-99
        raise fail("invalid", f"{path} cannot be read: {error}", "Check the file.") from error
    applications = document.get("applications", []) if isinstance(document, dict) else None
    if not (isinstance(document, dict) and _is_list_of_mappings(applications)):
        cause = f"{path} cannot be read: it is not a mapping with a list of applications."
        raise fail("invalid", cause, "Start from the serve_config.yaml that Motet comes with.")
    return document


def ignored_keys(document: Mapping[str, Any]) -> list[str]:
    """Keys that Ray Serve knows and `motet serve` does not use: no key in the file may be without effect."""
    mistakes = []
    for place, part, used in (
        ("", document, USED_KEYS),
        ("http_options.", document.get("http_options"), USED_HTTP_KEYS),
        *(
            (f"applications[{n}].", part, USED_APPLICATION_KEYS)
            for n, part in enumerate(_list(document, "applications"))
        ),
    ):
        if part is not None and not isinstance(part, dict):
            mistakes.append(f"{place.rstrip('.')}: must be a mapping")
        elif part is not None:
            ignored = (str(key) for key in part if str(key) not in used)
            mistakes += [f"{place}{key}: motet serve does not use this key" for key in ignored]
    if len(_list(document, "applications")) > 1:
        mistakes.append("applications: motet serve runs one application")
    return mistakes


def unknown_keys(document: Any, schema: type[BaseModel], where: str = "") -> list[str]:
    """Keys that Ray Serve would silently drop, each with the nearest valid name."""
    if not isinstance(document, dict):
        return []
    mistakes = []
    for key, value in document.items():
        place = f"{where}{key}"
        field = schema.model_fields.get(key)
        if field is None:
            mistakes.append(f"{place}: unknown key{nearest(key, schema)}")
            continue
        inner = model_inside(field.annotation)
        if inner is not None and key != "args":
            items = value if isinstance(value, list) else [value]
            for number, item in enumerate(items):
                mark = f"{place}[{number}]." if isinstance(value, list) else f"{place}."
                mistakes += unknown_keys(item, inner, mark)
    return mistakes


def _has_mistakes(path: Path, mistakes: list[str]) -> MotetError:
    listed = "".join(f"\n  - {mistake}" for mistake in mistakes)
    return fail("invalid", f"{path} has mistakes:{listed}\n", "Correct these keys and start again.")


def _is_list_of_mappings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    return value if isinstance(value, list) else []


def _arguments(document: Mapping[str, Any]) -> Any:
    first = next(iter(_list(document, "applications")), None)
    return first.get("args") or {} if isinstance(first, dict) else {}


def _address(document: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    options = document.get("http_options")
    options = options if isinstance(options, dict) else {}
    address = {key: options[key] for key in ("host", "port") if key in options}
    overrides = {"host": environment.get("MOTET_HOST"), "port": environment.get("MOTET_PORT")}
    return address | {key: value for key, value in overrides.items() if value}
