"""A setting is defined once, has a meaning and a unit, and the page about it is current."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.cli.settings_reference import Setting, markdown, sections, unit_of

ROOT = Path(__file__).parents[2]
FOLDERS = ("deployments", "cluster", "serve_app")
BASES = ("StrictModel", "BaseModel")
DIMENSIONLESS = {
    "max_padding_share", "backlog_cost", "short_cost", "cpus", "gpus", "share", "cost", "low_mark", "high_mark", "first_speed",
}  # fmt: skip
"""Numbers with a fraction that are no time, length or size."""
SETTINGS = [
    pytest.param(setting, id=f"{section.path}.{setting.key}") for section in sections() for setting in section.settings
]


def settings_defined_twice(root: Path = ROOT) -> list[str]:
    """Fields that a settings class defines although a class that it derives from does, as `class.field`."""
    classes = {found.name: found for found in _settings_classes(root)}
    return [
        f"{name}.{field}"
        for name, found in classes.items()
        for field in _fields(found)
        if any(field in _fields(classes[base]) for base in _ancestors(found, classes))
    ]


def _settings_classes(root: Path) -> Iterator[ast.ClassDef]:
    """Classes of pydantic models, wherever in the product."""
    found = [
        node
        for folder in FOLDERS
        for path in (root / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    names = set(BASES)
    while models := {node.name for node in found if names & set(_bases(node))} - names:
        names |= models
    yield from (node for node in found if node.name in names)


def _bases(node: ast.ClassDef) -> list[str]:
    return [base.id for base in node.bases if isinstance(base, ast.Name)]


def _ancestors(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> list[str]:
    parents = [base for base in _bases(node) if base in classes]
    return parents + [above for parent in parents for above in _ancestors(classes[parent], classes)]


def _fields(node: ast.ClassDef) -> list[str]:
    return [
        each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    ]


def test_no_setting_is_defined_twice() -> None:
    assert settings_defined_twice() == []


def test_a_setting_that_is_defined_twice_is_found(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "a.py").write_text("class A(StrictModel):\n    x_s: float\n")
    (tmp_path / "cluster" / "b.py").write_text("class B(A):\n    y: int = 1\n\nclass C(B):\n    x_s: float = 2.0\n")
    assert settings_defined_twice(tmp_path) == ["C.x_s"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_has_a_meaning_and_a_unit(setting: Setting) -> None:
    assert setting.meaning.endswith(".")
    assert "_seconds" not in setting.key.replace("_seconds_of_audio", "")
    if "." in setting.default and setting.default[0].isdigit():
        assert unit_of(setting.key) or setting.key in DIMENSIONLESS


def test_the_page_about_settings_is_current() -> None:
    """`motet config --markdown > docs/configuration.md` makes it so."""
    assert (ROOT / "docs" / "configuration.md").read_text() == markdown()
