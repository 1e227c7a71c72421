"""Settings, routes and variables that the documentation names exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from deployments.validation import models_inside
from serve_app.config import AppArguments
from serve_app.gateway.api import ROUTES
from tests.documentation import DOCS, FENCE, PAGES, ROOT
from tests.structure import modules_of

SECTIONS = {name for name, field in AppArguments.model_fields.items() if models_inside(field.annotation)}
SETTING = re.compile(rf"`((?:{'|'.join(sorted(SECTIONS))})(?:\.\w+)+)[`: =]")
ROUTE = re.compile(r"`(?:(?:GET|POST|DELETE), )*(?:GET|POST|DELETE) (/[\w/{}.-]*)")
VARIABLE = re.compile(r"\bMOTET_[A-Z][A-Z_]+\b")
NO_SETTING = re.compile(
    r".*\.(audio|gap|progress|com|yaml|md|sqlite)\b|realtime\.(item|response|session)$|registry\.model$"
)
"""Names of events, objects, files and hosts, which look like settings."""
PATHS = {re.sub(r"{\w+(:\w+)?}", "{}", str(getattr(route, "path", ""))) for route in ROUTES}

by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def is_setting(path: str, model: type[BaseModel] = AppArguments) -> bool:
    """Whether a dotted path leads to a field, in any of the models that a section may be."""
    name, _, rest = path.partition(".")
    field = model.model_fields.get(name)
    if field is None:
        return False
    inside: Any = models_inside(field.annotation)
    return not rest or any(is_setting(rest, each) for each in inside) or (not inside and "." not in rest)


@by_name
def test_settings_that_are_named_exist(page: Path) -> None:
    """Not on the page of the API, which is made from the code and is full of names of objects and events."""
    if page == DOCS / "api.md":
        return
    named = {path for path in SETTING.findall(page.read_text()) if not NO_SETTING.match(path)}
    assert [path for path in sorted(named) if not is_setting(path)] == []


@by_name
def test_routes_that_are_named_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    named = {re.sub(r"{\w+}", "{}", path) for path in ROUTE.findall(text)}
    assert sorted(named - PATHS) == []


def test_variables_that_are_named_are_read_somewhere() -> None:
    read = {name for module in modules_of(ROOT) for name in VARIABLE.findall(module.text)}
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("*.py"))
    named = {name for page in PAGES for name in VARIABLE.findall(page.read_text())}
    assert [name for name in sorted(named - read) if name not in tests] == []


def test_mistakes_are_found() -> None:
    assert is_setting("speech.pacing.capacity_ms")
    assert not is_setting("speech.pacing.capacity_s")
    assert not is_setting("speech.pace")
    assert "/v1/audio/speech" in PATHS
