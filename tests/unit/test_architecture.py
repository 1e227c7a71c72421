"""docs/architecture.md names files and functions that exist, in as many steps and questions as it promises."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
FUNCTIONS = sorted(set(re.findall(r"`([\w/]+\.py):([\w.]+)`", PAGE)))
FILES = sorted(set(re.findall(r"`((?:serve_app|deployments|cluster|tests)/[\w/]*[\w.]*)[:`]", PAGE)))
LIVES = re.findall(r"^## The life of (.*?)\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
QUESTIONS = re.findall(r"^\| (.*\?) \| `([\w/.]+)` \|$", PAGE, re.MULTILINE)


def defined_in(file: Path) -> set[str]:
    """The dotted names of a module's classes, functions and methods."""
    names: set[str] = set()
    pending: list[tuple[str, ast.stmt]] = [("", node) for node in ast.parse(file.read_text()).body]
    for prefix, node in pending:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(prefix + node.name)
        if isinstance(node, ast.ClassDef):
            pending += [(f"{prefix}{node.name}.", each) for each in node.body]
    return names


@pytest.mark.parametrize(("file", "name"), FUNCTIONS, ids=[f"{file}:{name}" for file, name in FUNCTIONS])
def test_a_named_function_exists(file: str, name: str) -> None:
    assert name in defined_in(ROOT / file)


@pytest.mark.parametrize("file", FILES)
def test_a_named_file_exists(file: str) -> None:
    assert (ROOT / file).exists()


def test_each_life_has_eight_steps_that_name_a_function() -> None:
    assert [title for title, _ in LIVES] == [
        "a speech",
        "a transcription",
        "a live session",
        "a separation",
        "a job",
        "a bulk row",
    ]
    for title, text in LIVES:
        steps = re.split(r"^\d\. ", text, flags=re.MULTILINE)[1:]
        assert len(steps) == 8, title
        assert all(re.search(r"\.py:\w", step) for step in steps), title


def test_twenty_questions_have_an_answer() -> None:
    assert len(QUESTIONS) >= 20
    assert len({question for question, _ in QUESTIONS}) == len(QUESTIONS)
    assert all((ROOT / file).is_file() for _, file in QUESTIONS)
